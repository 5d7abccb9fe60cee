"""The model of a training: the base with a fresh adapter, held whole or in parts, within its share of a GPU."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwenft_assets.config import TrainingConfig
from qwenft_assets.model.device import GIB
from qwenft_assets.model.engines import engine_named
from qwenft_assets.model.fsdp import place_all_but_layers
from qwenft_assets.model.memory import CONTEXT_GIB, MemoryPlan, ModelShape, plan_memory
from qwenft_assets.model.tokens import TokenRow, lengths_of
from qwenft_assets.processes.ranks import ALONE, Ranks
from qwenft_assets.training.forecast import lora_parameters
from qwenft_assets.training.run import TrainingRun, sequences


def plan_on_gpu(
    shape: ModelShape,
    train_rows: Sequence[TokenRow],
    eval_rows: Sequence[TokenRow],
    settings: TrainingConfig,
    ranks: Ranks = ALONE,
) -> MemoryPlan:
    """What of the GPU this run may take, and how it cuts its steps to fit.

    Of several processes all make the plan of the one whose GPU has the least free.

    Raises:
        DeviceError: Nothing fits.
    """
    import torch

    free, _ = torch.cuda.mem_get_info()
    # What the base model holds already, where it is there, is part of the plan.
    available = (free + torch.cuda.memory_reserved()) / GIB + CONTEXT_GIB
    available = min(available, settings.max_vram_gib or available)
    lengths = lengths_of(train_rows)
    of_sequences = [sum(lengths[n] for n in group) for group in sequences(lengths, settings)]
    return plan_memory(
        shape,
        settings,
        lora_parameters(shape, settings.lora),
        sum(sorted(of_sequences, reverse=True)[: settings.step_sequences]),
        max(lengths + lengths_of(eval_rows)),
        min(ranks.gather([available])),
        ranks.size,
    )


def load_with_adapter(run: TrainingRun, base_folder: Path, shards: int) -> Any:
    """The base model with a fresh adapter, on its device.

    Of a sharded model, no device has room for the whole: its layers stay on the CPU, until they go to
    their places one by one.
    """
    job, settings, engine = run.job, run.settings, engine_named(run.job.engine)
    where = "cpu" if shards > 1 else job.device
    model = engine.add_lora(engine.load_base(base_folder, settings.weights, where), settings.lora)
    if shards > 1:
        place_all_but_layers(model, job.device)
        run.log(f"the frozen weights of the layers are sharded over {shards} processes")
    if job.device == "cuda":
        limit_gpu_memory(settings)
    return model


def limit_gpu_memory(settings: TrainingConfig) -> None:
    """Take no more of the GPU than `max_vram_gib` from here on; loading the base may have taken more."""
    import torch

    if settings.max_vram_gib:
        total_gib = torch.cuda.mem_get_info()[1] / GIB
        share = (settings.max_vram_gib - CONTEXT_GIB) / total_gib
        torch.cuda.set_per_process_memory_fraction(min(share, 1.0))
