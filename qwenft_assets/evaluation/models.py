"""The models that an evaluation compares: one base model with the adapter and the champion on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qwenft_assets.errors import AdapterError, EvaluationError
from qwenft_assets.evaluation.job import EvaluationJob
from qwenft_assets.inference.load import LoadedModel, load_model
from qwenft_assets.model.base import fetch_base_model
from qwenft_assets.model.device import GIB
from qwenft_assets.model.fsdp import can_shard, shard_model
from qwenft_assets.model.memory import fixed_gib
from qwenft_assets.processes.child import Log
from qwenft_assets.processes.ranks import Ranks
from qwenft_assets.storage.root import Storage
from qwenft_assets.training.forecast import shape_in

BASE, ADAPTER, CHAMPION = "base", "adapter", "champion"
PEFT_NAMES = {ADAPTER: "default", CHAMPION: "champion"}
WORKING_GIB = 4.0
"""Memory of a batch beside the weights, a generous estimate."""


def load_models(job: EvaluationJob, storage: Storage, log: Log, ranks: Ranks) -> LoadedModel:
    """The base model with the adapter and the champion; sharded over the processes if it must be.

    Raises:
        EvaluationError: The base is sharded, and benchmarks are asked for.
        AdapterError: The adapter or the champion does not fit the base model.
    """
    device = "cuda" if job.device == "cuda" else "cpu"
    with ranks.main_process_first():  # it downloads the base model, the others find it there
        base_folder = fetch_base_model(job.base, storage)
    sharded = must_shard(job, base_folder, ranks)
    if sharded and job.settings.benchmarks:
        raise EvaluationError(
            f"evaluation.benchmarks: lm-eval runs in one process, and {ranks.size} hold the base model "
            "together. Remove that setting, or set training.shard_base_weights to false."
        )
    loaded = load_model(
        storage,
        job.recipe,
        job.adapter_version,
        job.base,
        job.training,
        "cpu" if sharded else device,
    )
    if job.champion_version is not None:
        add_champion(loaded.model, storage.adapter(job.recipe, job.champion_version))
    if sharded:
        shard_model(loaded.model, device)
        log(f"the frozen weights of the layers are sharded over {ranks.size} processes")
    return loaded


def must_shard(job: EvaluationJob, base_folder: Path, ranks: Ranks) -> bool:
    """Whether to shard the base: as the settings say, or if the free memory is too small for all of it.

    All processes return the same answer.
    """
    settings = job.training
    if not can_shard(settings, ranks.size):
        return False
    if settings.shard_base_weights is True or job.device != "cuda":
        return settings.shard_base_weights is True
    import torch

    parts_gib = fixed_gib(shape_in(base_folder), settings, 0, keep_4bit=False)
    needed_gib = parts_gib["weights"] + WORKING_GIB
    return needed_gib > min(ranks.gather([torch.cuda.mem_get_info()[0] / GIB]))


def add_champion(model: Any, folder: Path) -> None:
    """Load the champion's adapter beside the candidate's, on the same base weights.

    Raises:
        AdapterError: The folder holds no adapter that fits the base model.
    """
    from safetensors import SafetensorError

    try:
        model.load_adapter(folder, adapter_name=PEFT_NAMES[CHAMPION], is_trainable=False)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise AdapterError(
            f"{folder}: the champion does not load on this base model "
            f"({str(error).splitlines()[0][:200]}). Roll it back with `qwenft releases rollback`."
        ) from error
    model.eval()


@contextmanager
def using_adapter_of(model: Any, name: str) -> Iterator[None]:
    """Run the PeftModel as BASE (adapters switched off), ADAPTER or CHAMPION."""
    if name == BASE:
        with model.disable_adapter():
            yield
    else:
        model.set_adapter(PEFT_NAMES[name])
        yield
