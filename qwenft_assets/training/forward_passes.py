"""How the sequences of an optimizer step go through the model.

How these are cut into forward passes is a matter of memory and changes no loss: each pass adds its sum
over tokens, divided by the tokens of the whole step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qwenft_assets.config import TrainingConfig
from qwenft_assets.errors import TrainingError
from qwenft_assets.model.batches import flatten
from qwenft_assets.model.engines import FlatForward, engine_named, engine_of
from qwenft_assets.model.head import losses, sum_of_losses
from qwenft_assets.model.loss import batches_by_length, row_losses
from qwenft_assets.model.memory import CPU_MICRO_BATCH_TOKENS, MemoryPlan, shards_of
from qwenft_assets.model.padded import padded_sum_of_losses
from qwenft_assets.model.tokens import TokenRow
from qwenft_assets.processes.ranks import ALONE, Ranks
from qwenft_assets.training.history import LossHistory

if TYPE_CHECKING:
    import torch

EVAL_BATCH_TOKENS = 4_096
IDLE_ROW = TokenRow("", "", "", input_ids=[0, 0], answer_start=0, truncated=False)
"""As short as a row can be that predicts something."""


@dataclass
class Passes:
    """How the sequences of a step go through the model."""

    model: Any
    decoder: FlatForward | None
    """None: padded rectangles through the model's own forward."""
    max_tokens: int
    max_rows: int | None
    checkpointing: bool
    last_tokens: int = 0
    """Of the pass that was begun last."""
    in_step: Ranks = ALONE
    """The processes that gather each layer from one another: all run as many passes."""

    def halve(self) -> None:
        """Take half the tokens of the last pass into one, and keep less of each layer."""
        self.max_tokens = max(min(self.max_tokens, self.last_tokens) // 2, 1)
        if self.max_rows is not None:
            self.max_rows = max(self.max_rows // 2, 1)
        if self.decoder is not None:
            self.checkpointing = True

    def sum_of_losses(
        self, rows: Sequence[TokenRow], settings: TrainingConfig, device: str, history: LossHistory
    ) -> "torch.Tensor":
        """Summed negative log-likelihood of rows in one pass, differentiable."""
        self.last_tokens = sum(len(row.input_ids) for row in rows)
        history.train_tokens += self.last_tokens
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
        return sum_of_losses(counted, self.decoder.head, batch.targets)

    def idle(self, own: int, device: str) -> "Iterator[torch.Tensor]":
        """Passes beside one's own, until all processes have run as many; their loss is zero.

        To be asked before one's own passes, and iterated over after them.
        """
        return self.idle_passes(self.in_step.largest(own) - own, device)

    def idle_passes(self, count: int, device: str) -> "Iterator[torch.Tensor]":
        """So many passes of a short row through all layers."""
        for _ in range(count):
            assert self.decoder is not None  # noqa: S101  (what is in step is sharded, which is flat)
            batch = flatten([IDLE_ROW], "full", device)
            # Neither noise nor dropout: the numbers drawn for real passes stay what they are.
            hidden = self.decoder.hidden_states(batch, checkpointing=self.checkpointing)
            yield 0 * hidden.sum()

    def sum_without_gradient(
        self, rows: Sequence[TokenRow], supervise: str, device: str
    ) -> tuple[float, int]:
        """Nats over all rows together, without noise, and the supervised tokens they are over."""
        if self.decoder is None:
            return sum_by_the_model(self.model, rows, supervise)
        import torch

        total, tokens = 0.0, 0
        batches = [*batches_by_length(rows, max(self.max_tokens, 1))]
        # Not inference_mode: what FSDP2 gathers into is made once, here and in training.
        with torch.no_grad():
            idle = self.idle(len(batches), device)
            for indices in batches:
                batch = flatten([rows[n] for n in indices], supervise, device)
                self.last_tokens = sum(batch.lengths)
                hidden = self.decoder.hidden_states(batch)[batch.counted]
                of_tokens = losses(hidden, self.decoder.head, batch.targets)
                total += float(of_tokens.double().sum())
                tokens += len(of_tokens)
            for _ in idle:
                pass
        return total, tokens


def make_passes(
    model: Any, settings: TrainingConfig, plan: MemoryPlan | None, ranks: Ranks = ALONE
) -> Passes:
    """How this run's steps go through the model.

    Args:
        model: The PeftModel.
        settings: Of the run.
        plan: What memory allows; None on a CPU.
        ranks: The processes that train together.
    """
    shards = shards_of(settings, plan, ranks)
    tokens = plan.micro_batch_tokens if plan else CPU_MICRO_BATCH_TOKENS
    decoder = None
    if settings.batching != "padded":
        decoder = engine_named(engine_of(settings)).flat_forward(model, settings, plan, shards)
    checkpointing = plan.checkpointing if plan else settings.gradient_checkpointing is True
    if decoder is None and checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return Passes(
        model,
        decoder,
        settings.micro_batch_tokens or tokens,
        settings.micro_batch_rows,
        checkpointing,
        in_step=ranks if shards > 1 else ALONE,
    )


def sum_by_the_model(model: Any, rows: Sequence[TokenRow], supervise: str) -> tuple[float, int]:
    """The same by the model's own forward."""
    found = [
        loss
        for batch in batches_by_length(rows, EVAL_BATCH_TOKENS)
        for loss in row_losses(model, [rows[n] for n in batch], supervise)
    ]
    return sum(loss.nll for loss in found), sum(loss.tokens for loss in found)


def mean_loss(model: Any, rows: Sequence[TokenRow], supervise: str) -> float:
    """Nats per supervised token over all rows together, by the model's own forward."""
    nll, tokens = sum_by_the_model(model, rows, supervise)
    return nll / positive(tokens)


def positive(tokens: float) -> float:
    """The number of tokens that a loss is divided by.

    Raises:
        TrainingError: There is none.
    """
    if tokens == 0:
        raise TrainingError(
            "no held-out row keeps a token that carries loss. Raise training.max_length_tokens."
        )
    return tokens
