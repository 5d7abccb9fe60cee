"""TRL's SFTTrainer, with the loss of this project: per token, in training and in evaluation."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenft_assets.child_process import Log
from qwenft_assets.config import TrainingConfig
from qwenft_assets.errors import TrainingError
from qwenft_assets.progress import ReportProgress
from qwenft_assets.training.loss import batches_by_length, row_losses
from qwenft_assets.training.tokens import TokenRow

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

EVAL_BATCH_TOKENS = 4_096


@dataclass
class LossHistory:
    """Losses by optimizer step, in nats per token."""

    train: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    eval: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    eval_seconds: float = 0.0


def make_trainer(
    model: Any,
    tokenizer: Any,
    train_rows: Sequence[TokenRow],
    eval_rows: Sequence[TokenRow],
    settings: TrainingConfig,
    checkpoints: Path,
    *,
    on_gpu: bool,
    history: LossHistory,
    report_progress: ReportProgress,
    log: Log,
) -> "SFTTrainer":
    """A trainer ready for `train()`; it keeps the checkpoint with the lowest eval loss."""
    import torch
    from transformers import PrinterCallback, Trainer
    from trl.trainer.sft_trainer import SFTTrainer

    class PerTokenTrainer(SFTTrainer):
        """Sums of negative log-likelihood over sums of tokens, whatever the batch."""

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if on_gpu:
                return super().compute_loss(model, inputs, *args, **kwargs)
            # TRL's fused head is a Triton kernel; the plain one gives the same loss on a CPU. Both
            # divide by the tokens of the whole optimizer step.
            return Trainer.compute_loss(self, model, inputs, *args, **kwargs)

        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:  # noqa: ARG002
            started = time.monotonic()
            model.eval()
            metrics = {"eval_loss": mean_loss(model, eval_rows, settings.supervise)}
            model.train()
            history.eval_seconds += time.monotonic() - started
            self.log(metrics)
            self.control = self.callback_handler.on_evaluate(
                self.args, self.state, self.control, metrics
            )
            return metrics

    trainer = PerTokenTrainer(
        model=model,
        args=_arguments(settings, checkpoints, on_gpu=on_gpu),
        train_dataset=_dataset(train_rows, settings),
        eval_dataset=_dataset(eval_rows, settings),
        processing_class=tokenizer,
        callbacks=[_watch(history, report_progress, log)],
    )
    trainer.remove_callback(PrinterCallback)
    # TRL rounds the adapter of a 4-bit base to bf16, where steps of 1e-4 get lost; the optimizer is
    # made later, in train(), and takes what stands here.
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)
    return trainer


def mean_loss(model: Any, rows: Sequence[TokenRow], supervise: str) -> float:
    """Nats per supervised token over all rows together."""
    losses = [
        loss
        for batch in batches_by_length(rows, EVAL_BATCH_TOKENS)
        for loss in row_losses(model, [rows[n] for n in batch], supervise)
    ]
    tokens = sum(loss.tokens for loss in losses)
    if tokens == 0:
        raise TrainingError(
            "no held-out row keeps a token that carries loss. Raise training.max_length_tokens."
        )
    return sum(loss.nll for loss in losses) / tokens


def _dataset(rows: Sequence[TokenRow], settings: TrainingConfig) -> "Dataset":
    from datasets import Dataset

    ids = [row.input_ids for row in rows]
    labels = [row.labels(settings.supervise) for row in rows]
    return Dataset.from_dict({"input_ids": ids, "labels": labels})


def _watch(history: LossHistory, report_progress: ReportProgress, log: Log) -> "TrainerCallback":
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        """Live loss into the run log, progress to the terminal, the last step always evaluated."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
            step, logs = state.global_step, logs or {}
            if "loss" in logs:
                loss = float(logs["loss"])
                history.train.append((step, loss))
                report_progress(step, state.max_steps, f"loss {loss:.3f}")
                log(f"step {step}/{state.max_steps} loss {loss:.4f}")
            if "eval_loss" in logs:
                history.eval.append((step, float(logs["eval_loss"])))
                log(f"step {step}/{state.max_steps} eval_loss {logs['eval_loss']:.4f}")

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            if state.global_step >= state.max_steps:
                control.should_log = control.should_evaluate = control.should_save = True

    return Watch()


def _arguments(settings: TrainingConfig, checkpoints: Path, *, on_gpu: bool) -> "SFTConfig":
    from trl.trainer.sft_config import SFTConfig

    return SFTConfig(
        output_dir=str(checkpoints),
        max_length=settings.max_length_tokens,
        dataset_kwargs={"skip_prepare_dataset": True},
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.micro_batch_rows,
        gradient_accumulation_steps=settings.accumulation_steps,
        learning_rate=settings.peak_learning_rate,
        lr_scheduler_type=settings.lr_schedule,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        optim=settings.optimizer if on_gpu else "adamw_torch",
        neftune_noise_alpha=settings.neftune_alpha,
        gradient_checkpointing=settings.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        bf16=settings.weights != "fp32",
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        eval_strategy="steps",
        eval_steps=settings.evaluate_every_steps,
        save_strategy="steps",
        save_steps=settings.evaluate_every_steps,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        seed=settings.seed,
        data_seed=settings.seed,
    )
