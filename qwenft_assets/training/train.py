"""The stage: one job in, one adapter folder out."""

import contextlib
import dataclasses
import errno
import platform
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from qwenft_assets.errors import StorageError, TrainingError
from qwenft_assets.mixture.build import read_mixture
from qwenft_assets.mixture.quotas import apportion
from qwenft_assets.mixture.split import EVAL
from qwenft_assets.model.base import fetch_base_model
from qwenft_assets.model.device import GIB
from qwenft_assets.model.engines.peft import load_tokenizer
from qwenft_assets.model.memory import shards_of
from qwenft_assets.model.sharding import require_shardable
from qwenft_assets.model.tokens import TokenRow, rows_to_train_on, tokenize_mixture
from qwenft_assets.processes.child import Log, stop, stop_requested, stopping_between_steps
from qwenft_assets.processes.ranks import ALONE, Ranks
from qwenft_assets.progress import ReportProgress
from qwenft_assets.rows import seeded_order
from qwenft_assets.storage.locking import hold_device
from qwenft_assets.storage.root import Storage
from qwenft_assets.training.checkpoints import (
    Identity,
    identity_of,
    installed_versions,
    newest_checkpoint,
    send_checkpoints,
)
from qwenft_assets.training.forecast import shape_in
from qwenft_assets.training.history import LossHistory
from qwenft_assets.training.job import TrainingJob
from qwenft_assets.training.loading import load_with_adapter, plan_on_gpu
from qwenft_assets.training.record import outcome_record, publish, setup_record
from qwenft_assets.training.token_checks import check_tokens, shown_with_mask
from qwenft_assets.training.trainer import make_trainer

DISK_FULL_SIGNS = ("No space left", "PytorchStreamWriter", "file write failed", "File too large")


def train(
    job: TrainingJob, report_progress: ReportProgress, log: Log, ranks: Ranks = ALONE
) -> dict[str, Any]:
    """Train, and publish `lora_adapter/<recipe>/<version>/` when everything in it is whole.

    A run that was cut off goes on from its last checkpoint, on as many processes as there now are.
    Once one of them is asked to stop, a checkpoint is saved after the step at hand, and all end.

    Args:
        job: What to train.
        report_progress: Called with each logged step.
        log: Writes to the run log.
        ranks: The processes that train together.

    Returns:
        The training record, as in training.json; of a process that is not the first, nothing.

    Raises:
        TrainingError: The loss is not finite, or there is nothing to learn from.
        DeviceError: The GPU's memory does not suffice.
        StorageError: The disk is full.
    """
    # A worker whose parent was killed may still be saving: the locks are its own, not its parent's.
    storage = Storage(job.storage_root, job.storage_url)
    checkpoints = storage.adapters(job.recipe) / f".{job.version}.checkpoints"
    with contextlib.ExitStack() as held:
        if ranks.is_main_process:
            held.enter_context(storage.lock(f"training-{job.recipe}", log))
            held.enter_context(hold_device(job.device, log))
            held.enter_context(storage.working_on(makes=job.makes(storage)))
        ranks.barrier()
        record = _train(job, storage, checkpoints, report_progress, log, ranks)
    ranks.barrier()
    _forget(checkpoints, storage, log, ranks)  # the best one is in the adapter by now
    return record


def _train(
    job: TrainingJob,
    storage: Storage,
    checkpoints: Path,
    report_progress: ReportProgress,
    log: Log,
    ranks: Ranks,
) -> dict[str, Any]:
    import torch
    from transformers import set_seed

    started = time.monotonic()
    settings = job.settings
    on_gpu = job.device == "cuda"
    log(f"base model {job.base.name} at {job.base.revision}")
    report_progress(0, 0, "fetching the base model")
    with ranks.main_process_first():  # it fetches and writes the cache, the others find it there
        base_folder = fetch_base_model(job.base, storage)
        tokenizer = load_tokenizer(base_folder)
        mixed = read_mixture(storage, job.recipe)
        rows = tokenize_mixture(
            mixed,
            job.mixture_version,
            tokenizer.backend_tokenizer,
            settings,
            storage,
            report_progress,
        )
    check_tokens(tokenizer, mixed[0].row, rows, settings.system_prompt, settings.supervise)
    train_rows = rows_to_train_on(rows, settings)
    log(f"first train row, «loss»: {shown_with_mask(tokenizer, train_rows[0], settings.supervise)}")
    held_out = rows.only(rows.splits == EVAL)
    eval_rows = choose_eval_rows(held_out, settings.max_eval_rows, settings.seed)
    loaded = time.monotonic()
    set_seed(settings.seed)
    log(f"engine: {job.engine}")
    require_shardable(settings, ranks.size)
    plan = None
    if on_gpu:
        plan = plan_on_gpu(shape_in(base_folder), train_rows, eval_rows, settings, ranks)
        log(f"memory: {plan}")
    shards = shards_of(settings, plan, ranks)
    model = load_with_adapter(job, base_folder, shards, log)
    identity = identity_of(job.version, job.device, job.engine)
    last, history = _checkpoint_to_go_on_from(checkpoints, identity, storage, log, ranks)
    if ranks.size > 1:
        log(f"{ranks.size} processes share each step of {settings.step_sequences} sequences")
    trainer = make_trainer(
        model,
        train_rows,
        eval_rows,
        settings,
        checkpoints,
        plan=plan,
        history=history,
        report_progress=report_progress,
        log=log,
        identity=identity,
        ranks=ranks,
        after_checkpoint=lambda: send_checkpoints(storage, checkpoints, log),
    )
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    train_started = time.monotonic()
    try:
        with _disk_full_explained(checkpoints), stopping_between_steps():
            trainer.train(resume_from_checkpoint=str(last) if last else None)
    except TrainingError:
        _forget(checkpoints, storage, log, ranks)  # the same command would diverge again
        raise
    (stopped,) = ranks.any(stop_requested())
    if stopped and trainer.state.global_step < trainer.state.max_steps:
        log(f"stopped after step {trainer.state.global_step}; the same command goes on from there")
        stop()
    if not ranks.is_main_process:
        return {}
    best_step, best_loss = min(history.eval, key=lambda point: point[1])
    log(f"best checkpoint: step {best_step}, eval_loss {best_loss:.4f}")
    record = {
        **setup_record(job, train_rows, len(eval_rows), rows, base_folder, model),
        **outcome_record(history, trainer.state.global_step),
        "device": torch.cuda.get_device_name() if on_gpu else platform.processor() or "cpu",
        "processes": ranks.size,
        "shards": shards,
        "memory_plan": dataclasses.asdict(plan) if plan else None,
        "seconds": round(time.monotonic() - started, 1),
        "seconds_by_phase": {
            "tokenize": round(loaded - started, 1),
            "load": round(train_started - loaded, 1),
            "train": round(history.seconds - history.eval_seconds, 1),
            "evaluate": round(history.eval_seconds, 1),
        },
        "peak_vram_gib": round(torch.cuda.max_memory_reserved() / GIB, 2) if on_gpu else None,
        "versions": installed_versions(job.engine),
    }
    return publish(trainer.model, tokenizer, record, history, storage, job)


def _checkpoint_to_go_on_from(
    checkpoints: Path, identity: Identity, storage: Storage, log: Log, ranks: Ranks
) -> tuple[Path | None, LossHistory]:
    """The same one for all, each from its own disk; None, and an empty history, without one."""
    storage.sync_down(checkpoints)
    name, history, problem = None, LossHistory(), None
    if ranks.is_main_process:
        last, history, problem = newest_checkpoint(checkpoints, identity)
        name = last.name if last else None
    name, history, problem = ranks.broadcast((name, history, problem))
    if problem:
        log(f"not gone on from: {problem}")
    log(f"going on from {name}" if name else "training from the start")
    return checkpoints / name if name else None, history


def _forget(checkpoints: Path, storage: Storage, log: Log, ranks: Ranks) -> None:
    shutil.rmtree(checkpoints, ignore_errors=True)
    if ranks.is_main_process:
        send_checkpoints(storage, checkpoints, log)


@contextlib.contextmanager
def _disk_full_explained(checkpoints: Path) -> Iterator[None]:
    """The libraries that write checkpoints tell of a full disk in ways of their own."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        words = str(error)
        told = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EFBIG}
        if told or any(sign in words for sign in DISK_FULL_SIGNS):
            raise StorageError(
                f"{checkpoints}: a checkpoint cannot be written ({words.splitlines()[0][:120]}). "
                "Free space; the same command goes on from the checkpoint before."
            ) from error
        raise


def choose_eval_rows(rows: Sequence[TokenRow], limit: int | None, seed: int) -> list[TokenRow]:
    """Eval rows for use while training: of each source its share of `limit`, the same each time."""
    held_out = sorted(
        (row for row in rows if row.split == EVAL), key=lambda row: seeded_order(seed, row.row_id)
    )
    if limit is None or limit >= len(held_out):
        return held_out
    counts = Counter(row.source for row in held_out)
    room = apportion(limit, {source: float(counts[source]) for source in sorted(counts)})
    chosen: list[TokenRow] = []
    for row in held_out:
        if room[row.source]:
            room[row.source] -= 1
            chosen.append(row)
    return chosen


def silence_libraries() -> None:
    """Warnings that every run would repeat and no user can act on."""
    import warnings

    warnings.filterwarnings("ignore", message=".*use_cache.*")
    with contextlib.suppress(ImportError):
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
