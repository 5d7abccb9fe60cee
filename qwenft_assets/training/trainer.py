"""transformers' Trainer, with the optimizer step of this project: a sum over the step's tokens.

The trainer sees one batch a step, the numbers of its sequences. How these are cut into forward passes
is a matter of memory and changes no loss: each pass adds its sum over tokens, divided by the tokens of
the whole step.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenft_assets.child_process import Log
from qwenft_assets.config import TrainingConfig
from qwenft_assets.errors import TrainingError
from qwenft_assets.progress import ReportProgress
from qwenft_assets.training.adapter_buffer import AdapterBuffer
from qwenft_assets.training.batches import flatten, pack_best_fit, passes
from qwenft_assets.training.decoder import FlatDecoder
from qwenft_assets.training.head import losses, sum_of_losses
from qwenft_assets.training.loss import batches_by_length, row_losses
from qwenft_assets.training.memory import CPU_MICRO_BATCH_TOKENS, MemoryPlan
from qwenft_assets.training.padded import padded_sum_of_losses
from qwenft_assets.training.tokens import (
    TokenRow,
    lengths_of,
    supervised_counts,
)

if TYPE_CHECKING:
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

EVAL_BATCH_TOKENS = 4_096
LOGGED_STEPS = 200
"""Points of the loss curve: reading a loss back makes the GPU wait."""


@dataclass
class LossHistory:
    """Losses by optimizer step, in nats per token, and what the steps were made of."""

    train: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    eval: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    learning_rate: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    eval_seconds: float = 0.0
    train_tokens: int = 0
    """Real ones that went through the model."""
    padding_tokens: int = 0


@dataclass(frozen=True)
class Passes:
    """How the sequences of a step go through the model."""

    model: Any
    decoder: FlatDecoder | None
    """None: padded rectangles through the model's own forward."""
    max_tokens: int
    max_rows: int | None
    checkpointing: bool

    def sum_of_losses(
        self, rows: Sequence[TokenRow], settings: TrainingConfig, device: str, history: LossHistory
    ) -> "torch.Tensor":
        """Summed negative log-likelihood of rows in one pass, differentiable."""
        history.train_tokens += sum(len(row.input_ids) for row in rows)
        if self.decoder is None:
            padded, padding_tokens = padded_sum_of_losses(
                self.model, rows, settings.supervise, settings.neftune_alpha
            )
            history.padding_tokens += padding_tokens
            return padded
        batch = flatten(rows, settings.supervise, device)
        hidden = self.decoder.hidden_states(
            batch,
            noise_alpha=settings.neftune_alpha,
            training=True,
            checkpointing=self.checkpointing,
        )
        counted = hidden.index_select(0, batch.counted)
        return sum_of_losses(counted, self.decoder.head, batch.targets[batch.counted])

    def mean_loss(self, rows: Sequence[TokenRow], supervise: str, device: str) -> float:
        """Nats per supervised token over all rows together, without noise or gradient."""
        if self.decoder is None:
            return mean_loss(self.model, rows, supervise)
        import torch

        total, tokens = 0.0, 0
        with torch.inference_mode():
            for indices in batches_by_length(rows, max(self.max_tokens, 1)):
                batch = flatten([rows[n] for n in indices], supervise, device)
                hidden = self.decoder.hidden_states(batch)[batch.counted]
                of_tokens = losses(hidden, self.decoder.head, batch.targets[batch.counted])
                total += float(of_tokens.double().sum())
                tokens += len(of_tokens)
        return total / _positive(tokens)


def make_passes(model: Any, settings: TrainingConfig, plan: MemoryPlan | None) -> Passes:
    """How this run's steps go through the model.

    Args:
        model: The PeftModel.
        settings: Of the run.
        plan: What memory allows; None on a CPU.
    """
    tokens = plan.micro_batch_tokens if plan else CPU_MICRO_BATCH_TOKENS
    decoder = None
    if settings.batching != "padded":
        decoder = FlatDecoder(
            model, weights=settings.weights, keep_4bit=plan.keep_4bit if plan else False
        )
    checkpointing = plan.checkpointing if plan else settings.gradient_checkpointing is True
    if decoder is None and checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return Passes(
        model,
        decoder,
        settings.micro_batch_tokens or tokens,
        settings.micro_batch_rows,
        checkpointing,
    )


def sequences(rows: Sequence[TokenRow], settings: TrainingConfig) -> list[list[int]]:
    """What an optimizer step counts: single rows, or packs of rows; as indices into `rows`."""
    if settings.batching == "packed":
        return pack_best_fit(lengths_of(rows), settings.max_length_tokens)
    return [[index] for index in range(len(rows))]


def make_trainer(
    model: Any,
    train_rows: Sequence[TokenRow],
    eval_rows: Sequence[TokenRow],
    settings: TrainingConfig,
    checkpoints: Path,
    *,
    plan: MemoryPlan | None,
    history: LossHistory,
    report_progress: ReportProgress,
    log: Log,
) -> "Trainer":
    """A trainer ready for `train()`; it keeps the checkpoint with the lowest eval loss.

    Args:
        model: The PeftModel, on its device.
        train_rows: Each with at least one token that carries loss.
        eval_rows: Of the in-training evaluation.
        settings: Of the run.
        checkpoints: A folder of its own.
        plan: What GPU memory allows; None on a CPU.
        history: Filled while training.
        report_progress: Called with each logged step.
        log: Writes to the run log.
    """
    import torch
    from datasets import Dataset
    from transformers import EarlyStoppingCallback, PrinterCallback, Trainer

    device = "cpu" if plan is None else "cuda"
    buffer = AdapterBuffer(model)
    of_step, lengths = sequences(train_rows, settings), lengths_of(train_rows)
    cut = make_passes(model, settings, plan)
    counts = supervised_counts(train_rows, settings.supervise)

    class PerTokenTrainer(Trainer):
        """Sums of negative log-likelihood over sums of tokens, whatever the passes."""

        def create_optimizer(self, *_: Any, **__: Any) -> Any:
            kind, options = Trainer.get_optimizer_cls_and_kwargs(self.args)
            self.optimizer = kind([buffer.flat], weight_decay=settings.weight_decay, **options)
            return self.optimizer

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:  # noqa: ARG002
            model.train()
            buffer.zero_gradients()
            indices = [n for sequence in inputs["sequence"].tolist() for n in of_step[sequence]]
            tokens = sum(counts[n] for n in indices)
            loss = torch.zeros((), device=device)
            for chosen in _cut(indices):
                part = cut.sum_of_losses([train_rows[n] for n in chosen], settings, device, history)
                part = part / tokens
                part.backward()
                loss += part.detach()
            return loss

        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:  # noqa: ARG002
            started = time.monotonic()
            model.eval()
            metrics = {"eval_loss": cut.mean_loss(eval_rows, settings.supervise, device)}
            model.train()
            history.eval_seconds += time.monotonic() - started
            self.log(metrics)
            self.control = self.callback_handler.on_evaluate(
                self.args, self.state, self.control, metrics
            )
            return metrics

    def _cut(indices: list[int]) -> Iterator[list[int]]:
        for chosen in passes([lengths[n] for n in indices], cut.max_tokens, cut.max_rows):
            yield [indices[n] for n in chosen]

    callbacks = [_watch(history, report_progress, log)]
    if settings.patience_evaluations:
        callbacks.append(EarlyStoppingCallback(settings.patience_evaluations))
    steps = -(-len(of_step) // settings.step_sequences) * settings.epochs
    trainer = PerTokenTrainer(
        model=model,
        args=_arguments(settings, checkpoints, max(round(steps), 1), on_gpu=device == "cuda"),
        train_dataset=Dataset.from_dict({"sequence": list(range(len(of_step)))}),
        eval_dataset=Dataset.from_dict({"sequence": [0]}),  # evaluate() has its own rows
        data_collator=lambda items: {"sequence": torch.tensor([n["sequence"] for n in items])},
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def mean_loss(model: Any, rows: Sequence[TokenRow], supervise: str) -> float:
    """Nats per supervised token over all rows together, by the model's own forward."""
    found = [
        loss
        for batch in batches_by_length(rows, EVAL_BATCH_TOKENS)
        for loss in row_losses(model, [rows[n] for n in batch], supervise)
    ]
    return sum(loss.nll for loss in found) / _positive(sum(loss.tokens for loss in found))


def evaluation_interval(settings: TrainingConfig, steps: int) -> int:
    """Optimizer steps from one evaluation to the next: as set, or wider in a long run."""
    return max(settings.evaluate_every_steps, -(-steps // settings.max_evaluations))


def _positive(tokens: int) -> int:
    if tokens == 0:
        raise TrainingError(
            "no held-out row keeps a token that carries loss. Raise training.max_length_tokens."
        )
    return tokens


def _watch(history: LossHistory, report_progress: ReportProgress, log: Log) -> "TrainerCallback":
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        """Live loss into the run log, progress to the terminal, the last step always evaluated."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            self.started = time.monotonic()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
            step, logs = state.global_step, logs or {}
            if "loss" in logs:
                loss = float(logs["loss"])
                history.train.append((step, loss))
                history.learning_rate.append((step, float(logs["learning_rate"])))
                seconds = max(time.monotonic() - self.started - history.eval_seconds, 1e-3)
                speed = f"{history.train_tokens / seconds:,.0f} tokens/s"
                left = f"{seconds / step * (state.max_steps - step):,.0f} s left"
                report_progress(step, state.max_steps, f"loss {loss:.3f}, {speed}")
                log(f"step {step}/{state.max_steps} loss {loss:.4f}, {speed}, {left}")
            if "eval_loss" in logs:
                history.eval.append((step, float(logs["eval_loss"])))
                log(f"step {step}/{state.max_steps} eval_loss {logs['eval_loss']:.4f}")

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            if state.global_step >= state.max_steps:
                control.should_log = control.should_evaluate = control.should_save = True

    return Watch()


def _arguments(
    settings: TrainingConfig, checkpoints: Path, steps: int, *, on_gpu: bool
) -> "TrainingArguments":
    from transformers import TrainingArguments

    interval = evaluation_interval(settings, steps)
    return TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.step_sequences,
        learning_rate=settings.peak_learning_rate,
        lr_scheduler_type=settings.lr_schedule,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        optim=settings.optimizer if on_gpu else "adamw_torch",
        use_cpu=not on_gpu,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        eval_strategy="steps",
        eval_steps=interval,
        save_strategy="steps",
        save_steps=interval,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_steps=max(1, steps // LOGGED_STEPS),
        logging_nan_inf_filter=False,  # train() looks itself; the filter waits for every step
        report_to="none",
        disable_tqdm=True,
        seed=settings.seed,
        data_seed=settings.seed,
    )
