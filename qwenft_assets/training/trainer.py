"""transformers' Trainer, with the optimizer step of this project: a sum over the step's tokens.

The trainer sees one batch a step, the numbers of its sequences; forward_passes.py says how these go
through the model. Of several processes each sees the same batch, takes its share of the rows, and adds
its gradients to those of the others: the step is that of one process, but for rounding.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenft_assets.config import TrainingConfig
from qwenft_assets.model.batches import passes
from qwenft_assets.model.engines import engine_named, engine_of
from qwenft_assets.model.memory import MemoryPlan
from qwenft_assets.model.tokens import TokenRow, lengths_of, supervised_counts
from qwenft_assets.processes.child import Log
from qwenft_assets.processes.ranks import ALONE, Ranks
from qwenft_assets.progress import ReportProgress
from qwenft_assets.training.adapter_buffer import AdapterBuffer
from qwenft_assets.training.checkpoints import Identity
from qwenft_assets.training.forward_passes import Passes, make_passes, positive
from qwenft_assets.training.history import LossHistory
from qwenft_assets.training.out_of_memory import OutOfMemory
from qwenft_assets.training.schedule import evaluation_interval, optimizer_steps, sequences
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
    ranks: Ranks = ALONE,
    after_checkpoint: Callable[[], None] = lambda: None,
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
        ranks: The processes that take the same steps together.
        after_checkpoint: Called by the first of them when a checkpoint is whole.
    """
    import torch
    from datasets import Dataset
    from transformers import EarlyStoppingCallback, PrinterCallback, Trainer

    device = "cpu" if plan is None else "cuda"
    buffer = AdapterBuffer(model)
    # Gradients are summed in the buffer: accelerate need not wrap the model for that.
    model._is_accelerate_prepared = True  # noqa: SLF001  (its own mark; there is no setting)
    lengths = lengths_of(train_rows)
    of_step = sequences(lengths, settings)
    engine = engine_named(engine_of(settings))
    history.attention = engine.attention(model, train_rows, settings, device)
    cut = make_passes(model, settings, plan, ranks)
    memory = OutOfMemory(cut, settings, plan, model, history, log)
    counts = supervised_counts(train_rows, settings.supervise)
    own_eval_rows = [eval_rows[n] for n in ranks.share(lengths_of(eval_rows))]

    class PerTokenTrainer(Trainer):
        """Sums of negative log-likelihood over sums of tokens, whatever the passes."""

        def create_optimizer(self, *_: Any, **__: Any) -> Any:
            kind, options = Trainer.get_optimizer_cls_and_kwargs(self.args)
            self.optimizer = kind([buffer.flat], weight_decay=settings.weight_decay, **options)
            return self.optimizer

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:  # noqa: ARG002
            indices = [n for sequence in inputs["sequence"].tolist() for n in of_step[sequence]]
            tokens = sum(counts[n] for n in indices)
            own = [indices[n] for n in ranks.share([lengths[n] for n in indices])]
            seen = history.train_tokens, history.padding_tokens
            loss = memory.retried(lambda: self.step(model, own, tokens), self.state.global_step)
            _add_those_of_others(history, seen, ranks)
            buffer.add_gradients_of(ranks)
            return ranks.sum(loss)

        def step(self, model: Any, indices: list[int], tokens: int) -> torch.Tensor:
            model.train()
            buffer.zero_gradients()
            loss = torch.zeros((), device=device)
            own = [*_in_passes(indices, lengths, cut)]
            idle = cut.idle(len(own), device)
            for chosen in own:
                part = cut.sum_of_losses([train_rows[n] for n in chosen], settings, device, history)
                part = part / tokens
                part.backward()
                loss += part.detach()
            for nothing in idle:
                nothing.backward()
            return loss

        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:  # noqa: ARG002
            started = time.monotonic()
            model.eval()
            found = memory.retried(
                lambda: cut.sum_without_gradient(own_eval_rows, settings.supervise, device),
                self.state.global_step,
            )
            nll, tokens = ranks.sum_numbers(*found)
            metrics = {"eval_loss": nll / positive(tokens)}
            model.train()
            history.eval_seconds += time.monotonic() - started
            self.log(metrics)
            self.control = self.callback_handler.on_evaluate(
                self.args, self.state, self.control, metrics
            )
            return metrics

        def get_train_dataloader(self) -> Any:
            return _with_all_batches(super().get_train_dataloader(), ranks)

    minutes = settings.checkpoint_minutes
    watching = (history, report_progress, log, minutes, identity, ranks, after_checkpoint)
    callbacks = [watch(*watching)]
    if settings.patience_evaluations:
        callbacks.append(EarlyStoppingCallback(settings.patience_evaluations))
    steps = optimizer_steps(len(of_step), settings)
    trainer = PerTokenTrainer(
        model=model,
        args=_arguments(settings, checkpoints, steps, ranks, on_gpu=device == "cuda"),
        train_dataset=Dataset.from_dict({"sequence": list(range(len(of_step)))}),
        eval_dataset=Dataset.from_dict({"sequence": [0]}),  # evaluate() has its own rows
        data_collator=lambda items: {"sequence": torch.tensor([n["sequence"] for n in items])},
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    _draw_apart(ranks, settings.seed)
    return trainer


def _in_passes(indices: list[int], lengths: list[int], cut: Passes) -> Iterator[list[int]]:
    for chosen in passes([lengths[n] for n in indices], cut.max_tokens, cut.max_rows):
        yield [indices[n] for n in chosen]


def _draw_apart(ranks: Ranks, seed: int) -> None:
    """NEFTune's noise and dropout: for other rows, other numbers."""
    import torch

    if not ranks.is_main_process:
        torch.manual_seed(seed + ranks.rank)


def _with_all_batches(loader: Any, ranks: Ranks) -> Any:
    """The loader, which accelerate made one of every n-th batch, with all of them again."""
    if ranks.size > 1:
        shard = loader.batch_sampler
        shard.num_processes, shard.process_index, shard.even_batches = 1, 0, False
    return loader


def _add_those_of_others(history: LossHistory, seen: tuple[int, int], ranks: Ranks) -> None:
    """Tokens that other processes took through the model in this step, beside one's own."""
    added = ranks.sum_numbers(history.train_tokens - seen[0], history.padding_tokens - seen[1])
    history.train_tokens, history.padding_tokens = (
        before + int(more) for before, more in zip(seen, added, strict=True)
    )


def _arguments(
    settings: TrainingConfig, checkpoints: Path, steps: int, ranks: Ranks, *, on_gpu: bool
) -> "TrainingArguments":
    from transformers import TrainingArguments

    interval = evaluation_interval(settings, steps)
    arguments = TrainingArguments(
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
        accelerator_config={
            "use_configured_state": ranks is not ALONE
        },  # that of ranks.process_group()
    )
    if arguments.n_gpu > 1:
        # One process takes one GPU; DataParallel would take all, and as many times the rows a step.
        arguments._n_gpu = 1  # noqa: SLF001  (what the trainer itself does for models over GPUs)
    return arguments
