"""What is left of a training: the adapter's folder with its record."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwenft_assets.model.tokens import TokenRow, TokenRows, lengths_of
from qwenft_assets.records import TrainingRecord
from qwenft_assets.storage.files import atomic_folder, read_json, sha256_of_file, write_json
from qwenft_assets.training.job import TrainingJob, point_to_latest
from qwenft_assets.training.loss_curve import draw_loss_curve
from qwenft_assets.training.run import LossHistory, TrainingRun, sequences


def setup_record(
    job: TrainingJob,
    train_rows: Sequence[TokenRow],
    eval_rows: int,
    rows: TokenRows,
    base_folder: Path,
    model: Any,
) -> dict[str, Any]:
    """The part of the record that was known before the first step."""
    settings = job.settings
    return {
        "version": job.version,
        "recipe": job.recipe,
        "mixture_version": job.mixture_version,
        "base_model": job.base.name,
        "base_revision": job.base.revision,
        "base_path": str(base_folder),
        "engine": job.engine,
        "batching": settings.batching,
        "settings": settings.model_dump(mode="json"),
        "train_rows": len(train_rows),
        "train_sequences": len(sequences(lengths_of(train_rows), settings)),
        "eval_rows": eval_rows,
        "truncated_rows": int((rows.whole_lengths > settings.max_length_tokens).sum()),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def outcome_record(history: LossHistory, steps: int) -> dict[str, Any]:
    """The part of the record that the steps made; times are those of all parts of a resumed run."""
    best_step, best_loss = min(history.eval, key=lambda point: point[1])
    train_seconds = history.seconds - history.eval_seconds
    return {
        "attention": history.attention,
        "steps": steps,
        "tokens_per_step": round(history.train_tokens / max(steps, 1), 1),
        "best_step": best_step,
        "best_eval_loss": best_loss,
        "final_train_loss": history.train[-1][1],
        "train_tokens": history.train_tokens,
        "padding_tokens": history.padding_tokens,
        "tokens_per_second": round(history.train_tokens / train_seconds, 1),
        "train_seconds": round(train_seconds, 1),
        "eval_seconds": round(history.eval_seconds, 1),
        "resumed_at": history.resumed_at,
        "halved_at": history.halved_at,
        "loss_history": {
            "train": history.train,
            "eval": history.eval,
            "learning_rate": history.learning_rate,
        },
    }


def publish(run: TrainingRun, model: Any, tokenizer: Any, record: dict[str, Any]) -> dict[str, Any]:
    """Write the adapter's folder, and make it the latest.

    Returns:
        The record, with a hash of each file.
    """
    job, history = run.job, run.history
    with atomic_folder(run.storage.adapter(job.recipe, job.version)) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        # PEFT's model card names a path of this machine as the base.
        (folder / "README.md").unlink(missing_ok=True)
        _settle_config(folder / "adapter_config.json", job)
        draw_loss_curve(history.train, history.eval, folder / "loss.png")
        files = sorted(file for file in folder.iterdir() if file.is_file())
        record = {**record, "files": {file.name: sha256_of_file(file) for file in files}}
        write_json(folder / TrainingRecord.FILE, record)
    point_to_latest(run.storage, job.recipe, job.version)
    return record


def _settle_config(adapter_config: Path, job: TrainingJob) -> None:
    """Name the base as others know it; PEFT writes a set in an order that differs from run to run."""
    config = read_json(adapter_config) or {}
    config["base_model_name_or_path"] = job.base.name
    config["revision"] = job.base.revision if job.base.kind == "hub" else None
    config["target_modules"] = sorted(config["target_modules"])
    write_json(adapter_config, config)
