"""The model of an evaluation: the base with adapter and champion, held whole or in parts."""

from pathlib import Path

from qwenft_assets.errors import EvaluationError
from qwenft_assets.evaluation.flat_losses import WORKING_GIB
from qwenft_assets.evaluation.job import EvaluationJob
from qwenft_assets.evaluation.losses import add_champion
from qwenft_assets.inference.load import LoadedModel, load_model
from qwenft_assets.model.base import fetch_base_model
from qwenft_assets.model.device import GIB
from qwenft_assets.model.fsdp import shard_model
from qwenft_assets.model.memory import fixed_gib
from qwenft_assets.model.sharding import can_shard
from qwenft_assets.processes.child import Log
from qwenft_assets.processes.ranks import Ranks
from qwenft_assets.storage.root import Storage
from qwenft_assets.training.forecast import shape_in


def load_models(job: EvaluationJob, storage: Storage, log: Log, ranks: Ranks) -> LoadedModel:
    """The adapter and the champion on the base model, which a process cannot run alone if it is sharded.

    Raises:
        EvaluationError: The base is sharded, and benchmarks are asked for.
        AdapterError: The adapter or the champion does not fit the base model.
    """
    device = "cuda" if job.device == "cuda" else "cpu"
    with ranks.main_process_first():  # it fetches the base model, the others find it there
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
    """Whether the settings say so, or leave it to the memory that is free, which has no room.

    All processes come to the same answer.
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
