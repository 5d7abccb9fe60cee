"""The stage: one job in, one adapter folder out."""

import contextlib
import dataclasses
import errno
import platform
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from qwenft_assets.errors import StorageError, TrainingError
from qwenft_assets.hashing import seeded_order
from qwenft_assets.mixture.build import read_mixture
from qwenft_assets.mixture.quotas import apportion
from qwenft_assets.mixture.split import EVAL
from qwenft_assets.model.base import fetch_base_model
from qwenft_assets.model.device import GIB
from qwenft_assets.model.engines.peft import load_tokenizer
from qwenft_assets.model.fsdp import require_shardable
from qwenft_assets.model.memory import shards_of
from qwenft_assets.model.tokens import TokenRow, rows_to_train_on, tokenize_mixture
from qwenft_assets.processes.child import stop, stop_requested, stopping_between_steps
from qwenft_assets.training.checkpoints import forget, installed_versions, resume
from qwenft_assets.training.forecast import shape_in
from qwenft_assets.training.loading import load_with_adapter, plan_on_gpu
from qwenft_assets.training.record import outcome_record, publish, setup_record
from qwenft_assets.training.run import TrainingRun
from qwenft_assets.training.token_checks import check_tokens, shown_with_mask
from qwenft_assets.training.trainer import make_trainer

DISK_FULL_SIGNS = ("No space left", "PytorchStreamWriter", "file write failed", "File too large")


def train(run: TrainingRun) -> dict[str, Any]:
    """Train, and publish `lora_adapter/<recipe>/<version>/` when everything in it is whole.

    An interrupted run resumes from its last checkpoint, on as many processes as there now are. When one
    of the processes is asked to stop, a checkpoint is saved after the current step, and all end.

    Returns:
        The training record, as in training.json; empty in every process but the first.

    Raises:
        TrainingError: The loss is not finite, or there is nothing to learn from.
        DeviceError: The GPU's memory does not suffice.
        StorageError: The disk is full.
    """
    with run.exclusive("training"):
        record = _train(run)
    run.ranks.barrier()
    forget(run)  # the best checkpoint is the adapter by now
    return record


def _train(run: TrainingRun) -> dict[str, Any]:
    import torch
    from transformers import set_seed

    started = time.monotonic()
    job, settings, ranks, storage = run.job, run.settings, run.ranks, run.storage
    on_gpu = job.device == "cuda"
    run.log(f"base model {job.base.name} at {job.base.revision}")
    run.report_progress(0, 0, "fetching the base model")
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
            run.report_progress,
        )
    check_tokens(tokenizer, mixed[0].row, rows, settings.system_prompt, settings.supervise)
    train_rows = rows_to_train_on(rows, settings)
    shown = shown_with_mask(tokenizer, train_rows[0], settings.supervise)
    run.log(f"first train row, «loss»: {shown}")
    held_out = rows.only(rows.splits == EVAL)
    eval_rows = choose_eval_rows(held_out, settings.max_eval_rows, settings.seed)
    loaded = time.monotonic()
    set_seed(settings.seed)
    run.log(f"engine: {job.engine}")
    require_shardable(settings, ranks.size)
    plan = None
    if on_gpu:
        plan = plan_on_gpu(shape_in(base_folder), train_rows, eval_rows, settings, ranks)
        run.log(f"memory: {plan}")
    shards = shards_of(settings, plan, ranks)
    model = load_with_adapter(run, base_folder, shards)
    last, run = resume(run)
    if ranks.size > 1:
        run.log(f"{ranks.size} processes share each step of {settings.step_sequences} sequences")
    trainer = make_trainer(run, model, tokenizer, train_rows, eval_rows, plan)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    train_started = time.monotonic()
    try:
        with _disk_full_explained(run.checkpoints), stopping_between_steps():
            trainer.train(resume_from_checkpoint=str(last) if last else None)
    except TrainingError:
        forget(run)  # the same command would diverge again
        raise
    (stopped,) = ranks.any(stop_requested())
    step = trainer.state.global_step
    if stopped and step < trainer.state.max_steps:
        run.log(f"stopped after step {step}; the same command goes on from there")
        stop()
    if not ranks.is_main_process:
        return {}
    history = run.history
    best_step, best_loss = min(history.eval, key=lambda point: point[1])
    run.log(f"best checkpoint: step {best_step}, eval_loss {best_loss:.4f}")
    record = {
        **setup_record(job, train_rows, len(eval_rows), rows, base_folder, model),
        **outcome_record(history, step),
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
    return publish(run, trainer.model, tokenizer, record)


@contextlib.contextmanager
def _disk_full_explained(checkpoints: Path) -> Iterator[None]:
    """Raise one StorageError for a full disk, which each library reports in its own way."""
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
    """Eval rows for use while training: `limit` rows shared out over the sources, always the same."""
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
    """Hide warnings that every run would repeat and no user can act on."""
    import warnings

    warnings.filterwarnings("ignore", message=".*use_cache.*")
    with contextlib.suppress(ImportError):
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
