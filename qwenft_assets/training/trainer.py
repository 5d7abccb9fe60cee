"""transformers' Trainer, with the optimizer step of this project: a sum over the step's tokens.

The trainer sees one batch a step, the numbers of its sequences; forward_passes.py says how these go
through the model.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenft_assets.child_process import Log
from qwenft_assets.config import TrainingConfig
from qwenft_assets.progress import ReportProgress
from qwenft_assets.training.adapter_buffer import AdapterBuffer
from qwenft_assets.training.batches import passes
from qwenft_assets.training.checkpoints import Identity
from qwenft_assets.training.forward_passes import make_passes
from qwenft_assets.training.history import LossHistory
from qwenft_assets.training.memory import MemoryPlan
from qwenft_assets.training.out_of_memory import OutOfMemory
from qwenft_assets.training.schedule import evaluation_interval, optimizer_steps, sequences
from qwenft_assets.training.tokens import TokenRow, lengths_of, supervised_counts
from qwenft_assets.training.watch import watch

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

LOGGED_STEPS = 200
"""Points of the loss curve: reading a loss back makes the GPU wait."""


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
    identity: Identity | None = None,
) -> "Trainer":
    """A trainer ready for `train()`; it keeps the checkpoint with the lowest eval loss.

    It stops after a step when this process was asked to; `stop_requested()` tells.

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
        identity: What a run must share to go on from this one's checkpoints.
    """
    import torch
    from datasets import Dataset
    from transformers import EarlyStoppingCallback, PrinterCallback, Trainer

    device = "cpu" if plan is None else "cuda"
    buffer = AdapterBuffer(model)
    lengths = lengths_of(train_rows)
    of_step = sequences(lengths, settings)
    cut = make_passes(model, settings, plan)
    memory = OutOfMemory(cut, settings, plan, model, history, log)
    counts = supervised_counts(train_rows, settings.supervise)

    class PerTokenTrainer(Trainer):
        """Sums of negative log-likelihood over sums of tokens, whatever the passes."""

        def create_optimizer(self, *_: Any, **__: Any) -> Any:
            kind, options = Trainer.get_optimizer_cls_and_kwargs(self.args)
            self.optimizer = kind([buffer.flat], weight_decay=settings.weight_decay, **options)
            return self.optimizer

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:  # noqa: ARG002
            indices = [n for sequence in inputs["sequence"].tolist() for n in of_step[sequence]]
            return memory.retried(lambda: self.step(model, indices), self.state.global_step)

        def step(self, model: Any, indices: list[int]) -> torch.Tensor:
            model.train()
            buffer.zero_gradients()
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
            loss = memory.retried(
                lambda: cut.mean_loss(eval_rows, settings.supervise, device),
                self.state.global_step,
            )
            metrics = {"eval_loss": loss}
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

    callbacks = [watch(history, report_progress, log, settings.checkpoint_minutes, identity)]
    if settings.patience_evaluations:
        callbacks.append(EarlyStoppingCallback(settings.patience_evaluations))
    steps = optimizer_steps(len(of_step), settings)
    trainer = PerTokenTrainer(
        model=model,
        args=_arguments(settings, checkpoints, steps, on_gpu=device == "cuda"),
        train_dataset=Dataset.from_dict({"sequence": list(range(len(of_step)))}),
        eval_dataset=Dataset.from_dict({"sequence": [0]}),  # evaluate() has its own rows
        data_collator=lambda items: {"sequence": torch.tensor([n["sequence"] for n in items])},
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


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
        restore_callback_states_from_checkpoint=True,  # how long early stopping has waited
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
