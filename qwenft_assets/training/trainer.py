"""TRL's SFTTrainer with the optimizer step of this project: a sum over the step's tokens.

What is TRL's (and below it transformers'): the loop over steps and epochs, the order of the rows, the
learning rate, clipping, the optimizer classes, checkpoints, early stopping, the best checkpoint. What is
ours: `training_step` and `evaluate`, on rows that are tokens already. With the original recipe (2 rows a
pass, 4 passes a step) TRL's own loop made 935 tokens/s on an H200, this step 14,723 (benchmarks/RESULTS.md).

After `import unsloth`, `trl.SFTTrainer` is Unsloth's patched class: `engine: unsloth` trains with that.

The trainer sees one batch a step, the numbers of its sequences. Where several processes train together,
each sees the same batch, takes its share of the rows, and adds its gradients to those of the others: the
step is that of one process, but for rounding.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qwenft_assets.model.batches import passes
from qwenft_assets.model.engines import engine_named
from qwenft_assets.model.memory import MemoryPlan
from qwenft_assets.model.tokens import TokenRow, lengths_of, supervised_counts
from qwenft_assets.processes.ranks import ALONE, Ranks
from qwenft_assets.training.forward_passes import make_passes, positive
from qwenft_assets.training.optimizer import AdapterBuffers
from qwenft_assets.training.out_of_memory import OutOfMemory
from qwenft_assets.training.run import (
    LossHistory,
    TrainingRun,
    evaluation_interval,
    optimizer_steps,
    sequences,
)
from qwenft_assets.training.watch import watch

if TYPE_CHECKING:
    import torch
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

LOGGED_STEPS = 200
"""Points of the loss curve: reading a loss back makes the GPU wait."""


class TokenSteps:
    """Optimizer steps and evaluations in nats per token, however they are cut into passes."""

    def __init__(
        self,
        run: TrainingRun,
        model: Any,
        train_rows: Sequence[TokenRow],
        eval_rows: Sequence[TokenRow],
        plan: MemoryPlan | None,
    ) -> None:
        """Move the adapter into flat buffers and cut rows into sequences; see make_trainer."""
        self.run, self.model, self.device = run, model, run.job.device
        self.buffers = AdapterBuffers(model, run.settings)
        self.train_rows, self.lengths = train_rows, lengths_of(train_rows)
        self.sequences = sequences(self.lengths, run.settings)
        self.counts = supervised_counts(train_rows, run.settings.supervise)
        self.own_eval_rows = [eval_rows[n] for n in run.ranks.share(lengths_of(eval_rows))]
        self.passes = make_passes(model, run.settings, plan, run.ranks)
        self.memory = OutOfMemory(run, model, self.passes, plan)

    def train(self, chosen: Sequence[int], step: int) -> "torch.Tensor":
        """Gradients of one optimizer step in the buffers.

        Args:
            chosen: The step's sequences, by number.
            step: How many steps came before.

        Returns:
            Its loss, nats per supervised token of the step, float32 scalar.
        """
        ranks, history = self.run.ranks, self.run.history
        indices = [n for sequence in chosen for n in self.sequences[sequence]]
        tokens = sum(self.counts[n] for n in indices)
        own = [indices[n] for n in ranks.share([self.lengths[n] for n in indices])]
        before = history.train_tokens, history.padding_tokens
        loss = self.memory.retried(lambda: self._train(own, tokens), step)
        _add_tokens_of_other_ranks(history, before, ranks)
        self.buffers.add_gradients_of(ranks)
        return ranks.sum(loss)

    def _train(self, indices: list[int], tokens: int) -> "torch.Tensor":
        import torch

        self.model.train()
        self.buffers.zero_gradients()
        loss = torch.zeros((), device=self.device)
        lengths = [self.lengths[n] for n in indices]
        own = [*passes(lengths, self.passes.max_tokens, self.passes.max_rows)]
        idle = self.passes.idle(len(own), self.device)
        for chosen in own:
            rows = [self.train_rows[indices[n]] for n in chosen]
            part = self.passes.sum_of_losses(rows, self.run.settings, self.device, self.run.history)
            part = part / tokens
            part.backward()
            loss += part.detach()
        for nothing in idle:
            nothing.backward()
        return loss

    def eval_loss(self, step: int) -> float:
        """Nats per supervised token over all eval rows together."""
        started = time.monotonic()
        self.model.eval()
        found = self.memory.retried(
            lambda: self.passes.sum_without_gradient(
                self.own_eval_rows, self.run.settings.supervise, self.device
            ),
            step,
        )
        nll, tokens = self.run.ranks.sum_numbers(*found)
        loss = nll / positive(tokens)
        self.model.train()
        self.run.history.eval_seconds += time.monotonic() - started
        return loss


def make_trainer(
    run: TrainingRun,
    model: Any,
    tokenizer: Any,
    train_rows: Sequence[TokenRow],
    eval_rows: Sequence[TokenRow],
    plan: MemoryPlan | None,
) -> "SFTTrainer":
    """A trainer ready for `train()`; it keeps the checkpoint with the lowest eval loss.

    It stops after a step when this process was asked to; see `stop_requested()`.

    Args:
        run: Its history is filled while training.
        model: The PeftModel, on its device.
        tokenizer: The base model's; TRL asks for one, and nothing here uses it.
        train_rows: Each with at least one token that carries loss.
        eval_rows: Rows of the evaluations while training.
        plan: What GPU memory allows; None on a CPU.
    """
    import torch
    from datasets import Dataset
    from transformers import EarlyStoppingCallback, PrinterCallback
    from trl import SFTTrainer  # pyright: ignore[reportPrivateImportUsage]  (Unsloth patches it)

    settings, ranks = run.settings, run.ranks
    engine = engine_named(settings.engine_name)
    run.history.attention = engine.attention(settings, run.job.device)
    # Gradients are summed in the buffers: accelerate need not wrap the model for that.
    model._is_accelerate_prepared = True  # noqa: SLF001  (its own mark; there is no setting)
    steps = TokenSteps(run, model, train_rows, eval_rows, plan)

    class PerTokenTrainer(SFTTrainer):
        """Sums of negative log-likelihood over sums of tokens, whatever the passes."""

        def create_optimizer(self, *_: Any, **__: Any) -> Any:
            kind, options = SFTTrainer.get_optimizer_cls_and_kwargs(self.args)
            options["weight_decay"] = settings.weight_decay
            self.optimizer = steps.buffers.optimizer(kind, options)
            return self.optimizer

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:  # noqa: ARG002
            return steps.train(inputs["sequence"].tolist(), self.state.global_step)

        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:  # noqa: ARG002
            metrics = {"eval_loss": steps.eval_loss(self.state.global_step)}
            self.log(metrics)
            self.control = self.callback_handler.on_evaluate(
                self.args, self.state, self.control, metrics
            )
            return metrics

        def get_train_dataloader(self) -> Any:
            return _with_all_batches(super().get_train_dataloader(), ranks)

        def create_model_card(self, *_: Any, **__: Any) -> None:
            """TRL would write one into every checkpoint's parent folder."""

        def _send_telemetry(self) -> None:
            """TRL would report the run to the Hub."""

    callbacks: list[Any] = [watch(run)]
    if settings.patience_evaluations:
        callbacks.append(EarlyStoppingCallback(settings.patience_evaluations))
    trainer = PerTokenTrainer(
        model=model,
        args=_arguments(run, optimizer_steps(len(steps.sequences), settings)),
        train_dataset=Dataset.from_dict({"sequence": list(range(len(steps.sequences)))}),
        eval_dataset=Dataset.from_dict({"sequence": [0]}),  # evaluate() has its own rows
        data_collator=lambda items: {"sequence": torch.tensor([n["sequence"] for n in items])},
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    trainer.processing_class = None  # else every checkpoint holds the tokenizer
    trainer.remove_callback(PrinterCallback)
    steps.buffers.attach()  # TRL rounds the adapter of a 4-bit base to bf16, out of the buffers
    engine.for_training(model)
    _draw_apart(ranks, settings.seed)
    return trainer


def _draw_apart(ranks: Ranks, seed: int) -> None:
    """Give each process random numbers of its own for NEFTune and dropout: its rows are others."""
    import torch

    if not ranks.is_main_process:
        torch.manual_seed(seed + ranks.rank)


def _with_all_batches(loader: Any, ranks: Ranks) -> Any:
    """The loader with every batch again, of which accelerate gives each process every n-th."""
    if ranks.size > 1:
        shard = loader.batch_sampler
        shard.num_processes, shard.process_index, shard.even_batches = 1, 0, False
    return loader


def _add_tokens_of_other_ranks(history: LossHistory, before: tuple[int, int], ranks: Ranks) -> None:
    """Count the tokens that other processes took through the model in this step as well."""
    added = ranks.sum_numbers(history.train_tokens - before[0], history.padding_tokens - before[1])
    history.train_tokens, history.padding_tokens = (
        count + int(more) for count, more in zip(before, added, strict=True)
    )


def _arguments(run: TrainingRun, steps: int) -> "SFTConfig":
    """The trainer's arguments: all that decide the steps, since other libraries have other defaults.

    Unsloth's SFTConfig, for one, accumulates 2 batches a step where nothing is said.
    """
    from trl import SFTConfig  # pyright: ignore[reportPrivateImportUsage]  (Unsloth patches it)

    settings, on_gpu = run.settings, run.job.device == "cuda"
    interval = evaluation_interval(settings, steps)
    arguments = SFTConfig(
        output_dir=str(run.checkpoints),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.step_sequences,
        gradient_accumulation_steps=1,
        learning_rate=settings.peak_learning_rate,
        lr_scheduler_type=settings.lr_schedule,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        optim=settings.optimizer if on_gpu else "adamw_torch",
        max_grad_norm=1.0,
        use_cpu=not on_gpu,
        bf16=False,  # the passes choose their own precision
        fp16=False,
        gradient_checkpointing=False,  # the passes compute layers again where memory asks for it
        packing=False,
        padding_free=False,  # rows are flat already, by a collator of our own
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        torch_empty_cache_steps=None,
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
        logging_nan_inf_filter=False,  # watch looks itself; the filter waits for every step
        report_to="none",
        disable_tqdm=True,
        seed=settings.seed,
        data_seed=settings.seed,
        # The state that ranks.process_group() configured.
        accelerator_config={"use_configured_state": run.ranks is not ALONE},
    )
    if arguments.n_gpu > 1:
        # One process takes one GPU; DataParallel would take all, and TRL refuses it.
        arguments._n_gpu = 1  # noqa: SLF001  (what the trainer itself does for models over GPUs)
    return arguments
