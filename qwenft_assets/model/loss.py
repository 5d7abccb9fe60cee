"""Loss per token: sums of negative log-likelihood and of tokens, never a mean of batch means.

The usual evaluation averages the mean loss of each batch, so that the figure changes with the batch
size (a reproduced case: perplexity 128 against 73). Sums over all tokens do not.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qwenft_assets.errors import EvaluationError
from qwenft_assets.model.tokens import TokenRow

if TYPE_CHECKING:
    import torch

HEAD_CHUNK_TOKENS = 1_024
"""Positions that pass the language head at once: the logits of 1,024 tokens of Qwen2.5 in fp32 take
0.6 GiB, those of a batch of 8 x 2,048 would take 9.3."""


class RowLoss(NamedTuple):
    """One row's sum of negative log-likelihood in nats, over so many tokens."""

    nll: float
    tokens: int


class SpanLosses(NamedTuple):
    """One row's loss over its whole text and over its answer alone, from the same forward pass."""

    full: RowLoss
    answer: RowLoss


def row_losses(model: Any, rows: Sequence[TokenRow], supervise: str) -> list[RowLoss]:
    """Loss of each row under `model` in its present state, in one forward pass.

    The same for any composition of the batch, up to rounding.

    Args:
        model: A causal language model, or a PeftModel around one.
        rows: The rows of one batch.
        supervise: `full` or `answer`, as in training.

    Raises:
        EvaluationError: The model transforms its logits in a way this head does not.
    """
    losses = _token_losses(model, rows, supervise)
    return [_sum(of_row) for of_row in _by_row(rows, losses, supervise)]


def span_losses(model: Any, rows: Sequence[TokenRow]) -> list[SpanLosses]:
    """As `row_losses`, for `full` and `answer` at once.

    Raises:
        EvaluationError: The model transforms its logits in a way this head does not.
    """
    return spans_of(rows, _token_losses(model, rows, "full"))


def spans_of(rows: Sequence[TokenRow], losses: npt.NDArray[np.float32]) -> list[SpanLosses]:
    """The sums of each row.

    Args:
        rows: Of which every token but the first is counted.
        losses: Of these tokens, row after row.
    """
    return [
        SpanLosses(_sum(of_row), _sum(of_row[len(of_row) - row.supervised_tokens("answer") :]))
        for row, of_row in zip(rows, _by_row(rows, losses, "full"), strict=True)
    ]


def _by_row(
    rows: Sequence[TokenRow], losses: npt.NDArray[np.float32], supervise: str
) -> list[npt.NDArray[np.float32]]:
    ends = np.cumsum([row.supervised_tokens(supervise) for row in rows])
    return np.split(losses, ends[:-1])


def _sum(losses: npt.NDArray[np.float32]) -> RowLoss:
    return RowLoss(float(losses.sum(dtype=np.float64)), len(losses))


def _token_losses(model: Any, rows: Sequence[TokenRow], supervise: str) -> npt.NDArray[np.float32]:
    """Negative log-likelihood of each counted token, row after row."""
    import torch
    from torch.nn.functional import cross_entropy

    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    refuse_scaled_logits(causal.config)
    with torch.no_grad():  # not inference_mode, in which FSDP2 cannot gather a sharded model
        hidden = _hidden_states(causal, rows)
        sources: list[int] = []  # positions whose next token is counted
        targets: list[int] = []
        start = 0
        for row in rows:
            length, counted = len(row.input_ids), row.supervised_tokens(supervise)
            sources += range(start + length - 1 - counted, start + length - 1)
            targets += row.input_ids[length - counted :]
            start += length
        flat_hidden = hidden[torch.tensor(sources, dtype=torch.long, device=hidden.device)]
        flat_targets = torch.tensor(targets, dtype=torch.long, device=hidden.device)
        parts = [
            cross_entropy(
                causal.lm_head(flat_hidden[start : start + HEAD_CHUNK_TOKENS]).float(),
                flat_targets[start : start + HEAD_CHUNK_TOKENS],
                reduction="none",
            )
            for start in range(0, len(targets), HEAD_CHUNK_TOKENS)
        ]
        return torch.cat(parts).cpu().numpy() if parts else np.empty(0, np.float32)


def _hidden_states(causal: Any, rows: Sequence[TokenRow]) -> "torch.Tensor":
    """Last hidden states of all rows, one after another without padding: (tokens, hidden).

    Padding stands on the right, where causal attention never looks: no mask is needed, and without
    one attention takes its fastest kernel.
    """
    import torch

    device = causal.get_input_embeddings().weight.device
    lengths = torch.tensor([len(row.input_ids) for row in rows])
    input_ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)  # (rows, length)
    for n, row in enumerate(rows):
        input_ids[n, : len(row.input_ids)] = torch.tensor(row.input_ids)
    hidden = causal.base_model(input_ids=input_ids.to(device), use_cache=False).last_hidden_state
    within = torch.arange(input_ids.shape[1]) < lengths[:, None]  # (rows, length)
    return hidden[within.to(hidden.device)]


def batches_by_length(rows: Sequence[TokenRow], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of rows in batches of at most `batch_tokens` with padding, longest first.

    Longest first, so that running out of memory happens at once or not at all.
    """
    batch: list[int] = []
    for index in sorted(range(len(rows)), key=lambda n: -len(rows[n].input_ids)):
        longest = len(rows[batch[0]].input_ids) if batch else len(rows[index].input_ids)
        if batch and longest * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def refuse_scaled_logits(config: Any) -> None:
    """Raise EvaluationError where a model does more to its logits than a product with its head."""
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier"):
        if getattr(config, name, None) not in {None, 1.0}:
            raise EvaluationError(
                f"{config.model_type}: its {name} is not supported by this project's loss. Use a "
                "base model of the Qwen2 or Llama family."
            )
