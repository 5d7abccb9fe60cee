"""The stage: one job in, one adapter folder out."""

import contextlib
import dataclasses
import math
import platform
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from qwenft_assets.child_process import Log
from qwenft_assets.config import TrainingConfig
from qwenft_assets.errors import TrainingError
from qwenft_assets.mixture.build import read_mixture
from qwenft_assets.mixture.quotas import apportion
from qwenft_assets.mixture.split import EVAL
from qwenft_assets.progress import ReportProgress
from qwenft_assets.rows import seeded_order
from qwenft_assets.storage import Storage, atomic_folder, read_json, write_json
from qwenft_assets.training.attention import attention_path
from qwenft_assets.training.base_model import fetch_base_model
from qwenft_assets.training.device import GIB
from qwenft_assets.training.engines.peft import add_lora, load_base, load_tokenizer
from qwenft_assets.training.job import RECORD_FILE, TrainingJob
from qwenft_assets.training.loss_curve import draw_loss_curve
from qwenft_assets.training.memory import CONTEXT_GIB, MemoryPlan, plan_memory, shape_of
from qwenft_assets.training.token_checks import check_tokens, shown_with_mask
from qwenft_assets.training.tokens import TokenRow, lengths_of, rows_to_train_on, tokenize_mixture
from qwenft_assets.training.trainer import LossHistory, make_trainer, sequences

LIBRARIES = ("torch", "transformers", "peft", "accelerate")


def train(job: TrainingJob, report_progress: ReportProgress, log: Log) -> dict[str, Any]:
    """Train, and publish `lora_adapter/<recipe>/<version>/` when everything in it is whole.

    Returns:
        The training record, as in training.json.

    Raises:
        TrainingError: The loss is not finite, or there is nothing to learn from.
    """
    import torch
    from transformers import set_seed

    started = time.monotonic()
    storage, settings = Storage(job.storage_root), job.settings
    on_gpu = job.device == "cuda"
    log(f"base model {job.base.name} at {job.base.revision}")
    report_progress(0, 0, "fetching the base model")
    base_folder = fetch_base_model(job.base, storage)
    tokenizer = load_tokenizer(base_folder)
    mixed = read_mixture(storage, job.recipe)
    rows = tokenize_mixture(
        mixed,
        job.mixture_version,
        tokenizer.backend_tokenizer,
        base_folder,
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
    model = add_lora(load_base(base_folder, settings.weights, job.device), settings.lora)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    plan = None
    if on_gpu:
        plan = plan_on_gpu(model, train_rows, eval_rows, settings)
        log(f"memory: {plan}")
    history = LossHistory()
    checkpoints = storage.adapters(job.recipe) / f".{job.version}.checkpoints"
    shutil.rmtree(checkpoints, ignore_errors=True)
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
    )
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    train_started = time.monotonic()
    try:
        trainer.train()
    finally:
        # The best checkpoint is in memory by now; after a failure none of them is of use.
        shutil.rmtree(checkpoints, ignore_errors=True)
    ended = time.monotonic()
    train_seconds = ended - train_started - history.eval_seconds
    _require_finite(history)
    best_step, best_loss = min(history.eval, key=lambda point: point[1])
    log(f"best checkpoint: step {best_step}, eval_loss {best_loss:.4f}")
    record = {
        "version": job.version,
        "recipe": job.recipe,
        "mixture_version": job.mixture_version,
        "base_model": job.base.name,
        "base_revision": job.base.revision,
        "base_path": str(base_folder),
        "engine": job.engine,
        "batching": settings.batching,
        "attention": "sdpa" if settings.batching == "padded" else attention_path(job.device),
        "device": torch.cuda.get_device_name() if on_gpu else platform.processor() or "cpu",
        "memory_plan": dataclasses.asdict(plan) if plan else None,
        "settings": settings.model_dump(mode="json"),
        "train_rows": len(train_rows),
        "train_sequences": len(sequences(train_rows, settings)),
        "eval_rows": len(eval_rows),
        "truncated_rows": int((rows.whole_lengths > settings.max_length_tokens).sum()),
        "steps": trainer.state.global_step,
        "tokens_per_step": round(history.train_tokens / max(trainer.state.global_step, 1), 1),
        "best_step": best_step,
        "best_eval_loss": best_loss,
        "final_train_loss": history.train[-1][1],
        "train_tokens": history.train_tokens,
        "padding_tokens": history.padding_tokens,
        "tokens_per_second": round(history.train_tokens / train_seconds, 1),
        "train_seconds": round(train_seconds, 1),
        "eval_seconds": round(history.eval_seconds, 1),
        "seconds": round(time.monotonic() - started, 1),
        "seconds_by_phase": {
            "tokenize": round(loaded - started, 1),
            "load": round(train_started - loaded, 1),
            "train": round(train_seconds, 1),
            "evaluate": round(history.eval_seconds, 1),
        },
        "peak_vram_gib": round(torch.cuda.max_memory_reserved() / GIB, 2) if on_gpu else None,
        "trainable_parameters": trainable,
        "loss_history": {
            "train": history.train,
            "eval": history.eval,
            "learning_rate": history.learning_rate,
        },
        "versions": {name: installed_version(name) for name in LIBRARIES},
    }
    _publish(trainer.model, tokenizer, record, history, storage, job)
    return record


def plan_on_gpu(
    model: Any,
    train_rows: Sequence[TokenRow],
    eval_rows: Sequence[TokenRow],
    settings: TrainingConfig,
) -> MemoryPlan:
    """What of the GPU this run may take, and how it cuts its steps to fit.

    Raises:
        DeviceError: Nothing fits.
    """
    import torch

    free, total = (amount / GIB for amount in torch.cuda.mem_get_info())
    # What the base model holds already is part of the plan.
    available = free + torch.cuda.memory_reserved() / GIB + CONTEXT_GIB
    if settings.max_vram_gib:
        available = min(available, settings.max_vram_gib)
        torch.cuda.set_per_process_memory_fraction(
            min((settings.max_vram_gib - CONTEXT_GIB) / total, 1.0)
        )
    lengths = lengths_of(train_rows)
    of_sequences = [sum(lengths[n] for n in group) for group in sequences(train_rows, settings)]
    return plan_memory(
        shape_of(model.get_base_model().config),
        settings,
        sum(p.numel() for p in model.parameters() if p.requires_grad),
        sum(sorted(of_sequences, reverse=True)[: settings.step_sequences]),
        max(lengths + lengths_of(eval_rows)),
        available,
    )


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


def _require_finite(history: LossHistory) -> None:
    for name, points in (("train", history.train), ("eval", history.eval)):
        for step, loss in points:
            if not math.isfinite(loss):
                raise TrainingError(
                    f"{name} loss is {loss} at step {step}: training diverged, nothing was saved. "
                    "Lower training.peak_learning_rate, or use weights: bf16."
                )


def _publish(
    model: Any,
    tokenizer: Any,
    record: dict[str, Any],
    history: LossHistory,
    storage: Storage,
    job: TrainingJob,
) -> None:
    with atomic_folder(storage.adapter(job.recipe, job.version)) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        # PEFT's model card names a path of this machine as the base.
        (folder / "README.md").unlink(missing_ok=True)
        _name_base(folder / "adapter_config.json", job)
        draw_loss_curve(history.train, history.eval, folder / "loss.png")
        write_json(folder / RECORD_FILE, record)
    pointer = storage.adapters(job.recipe) / "latest.json"
    write_json(pointer, {"version": job.version})


def _name_base(adapter_config: Path, job: TrainingJob) -> None:
    config = read_json(adapter_config) or {}
    config["base_model_name_or_path"] = job.base.name
    config["revision"] = job.base.revision if job.base.kind == "hub" else None
    write_json(adapter_config, config)


def silence_libraries() -> None:
    """Warnings that every run would repeat and no user can act on."""
    import warnings

    warnings.filterwarnings("ignore", message=".*use_cache.*")
    with contextlib.suppress(ImportError):
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
