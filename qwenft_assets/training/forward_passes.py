"""How the sequences of an optimizer step go through the model.

Memory decides how a step is cut into forward passes, and the cut changes no loss: each pass adds its sum
over tokens, divided by the tokens of the whole step. Rows lie end to end without padding, or, with
`batching: padded`, as rectangles that the model's own forward reads, as the recipe was first written.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qwenft_assets.config import TrainingConfig
from qwenft_assets.errors import TrainingError
from qwenft_assets.model.batches import flatten
from qwenft_assets.model.engines import FlatForward, engine_named
from qwenft_assets.model.head import losses, sum_of_losses
from qwenft_assets.model.loss import batches_by_length, row_losses
from qwenft_assets.model.memory import CPU_MICRO_BATCH_TOKENS, MemoryPlan, shards_of
from qwenft_assets.model.tokens import NOT_SUPERVISED, TokenRow
from qwenft_assets.processes.ranks import ALONE, Ranks
from qwenft_assets.training.run import LossHistory

if TYPE_CHECKING:
    import torch

EVAL_BATCH_TOKENS = 4_096
IDLE_ROW = TokenRow("", "", "", input_ids=[0, 0], answer_start=0, truncated=False)
"""The shortest row that predicts a token."""


@dataclass
class Passes:
    """The size of the forward passes, and the passes themselves."""

    model: Any
    decoder: FlatForward | None
    """None: padded rectangles through the model's own forward."""
    max_tokens: int
    max_rows: int | None
    checkpointing: bool
    last_tokens: int = 0
    """Tokens of the latest pass."""
    in_step: Ranks = ALONE
    """The processes that hold the layers together: all run equally many passes."""

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
        """Passes of zero loss, until this process has run as many as any other.

        Call it before the passes of `own` rows, and iterate over the result after them.
        """
        return self.idle_passes(self.in_step.largest(own) - own, device)

    def idle_passes(self, count: int, device: str) -> "Iterator[torch.Tensor]":
        """`count` passes of a short row through all layers."""
        for _ in range(count):
            assert self.decoder is not None  # noqa: S101  (what is in step is sharded, which is flat)
            batch = flatten([IDLE_ROW], "full", device)
            # Neither noise nor dropout: the numbers drawn for real passes stay what they are.
            hidden = self.decoder.hidden_states(batch, checkpointing=self.checkpointing)
            yield 0 * hidden.sum()

    def sum_without_gradient(
        self, rows: Sequence[TokenRow], supervise: str, device: str
    ) -> tuple[float, int]:
        """Nats of all rows together, without noise, and the number of supervised tokens."""
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
    """The passes of a run.

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
        decoder = engine_named(settings.engine_name).flat_forward(model, settings, plan, shards)
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
    """Nats of all rows together by the model's own forward, and the number of supervised tokens."""
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
    """The number of tokens, which a loss is divided by.

    Raises:
        TrainingError: It is zero.
    """
    if tokens == 0:
        raise TrainingError(
            "no held-out row keeps a token that carries loss. Raise training.max_length_tokens."
        )
    return tokens


def padded_sum_of_losses(
    model: Any, rows: Sequence[TokenRow], supervise: str, noise_alpha: float | None
) -> "tuple[torch.Tensor, int]":
    """Summed negative log-likelihood of rows in one pass, differentiable, and the padding tokens.

    Padding stands on the right, where causal attention never looks, and is not counted.
    """
    import torch

    causal = model.get_base_model()
    embedding = causal.get_input_embeddings()
    device = embedding.weight.device
    lengths = [len(row.input_ids) for row in rows]
    ids = torch.zeros(len(rows), max(lengths), dtype=torch.long)  # (rows, length)
    mask = torch.zeros_like(ids)
    targets = torch.full_like(ids, NOT_SUPERVISED)
    for n, row in enumerate(rows):
        ids[n, : lengths[n]] = torch.tensor(row.input_ids)
        mask[n, : lengths[n]] = 1
        targets[n, : lengths[n] - 1] = torch.tensor(row.labels(supervise)[1:])
    embedded = embedding(ids.to(device))
    if noise_alpha is not None:
        bounds = noise_alpha / (torch.tensor(lengths) * embedded.shape[2]).sqrt()
        noise = torch.empty_like(embedded, dtype=torch.float32).uniform_(-1, 1)
        embedded = embedded + (noise * bounds.to(device)[:, None, None]).to(embedded.dtype)
    with torch.autocast(device.type, torch.bfloat16, enabled=embedded.dtype != torch.float32):
        hidden = causal.base_model(
            inputs_embeds=embedded, attention_mask=mask.to(device), use_cache=False
        ).last_hidden_state  # (rows, length, hidden)
    targets = targets.to(device)
    counted = targets != NOT_SUPERVISED
    total = sum_of_losses(
        hidden[counted].to(causal.lm_head.weight.dtype), causal.lm_head.weight, targets[counted]
    )
    return total, ids.numel() - sum(lengths)
