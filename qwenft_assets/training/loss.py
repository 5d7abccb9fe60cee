"""Loss per token: sums of negative log-likelihood and of tokens, never a mean of batch means.

The usual evaluation averages the mean loss of each batch, so that the figure changes with the batch
size (a reproduced case: perplexity 128 against 73). Sums over all tokens do not.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from qwenft_assets.errors import EvaluationError
from qwenft_assets.training.tokens import NOT_SUPERVISED, TokenRow

if TYPE_CHECKING:
    import torch

HEAD_CHUNK_TOKENS = 1_024
"""Positions that pass the language head at once: the logits of 1,024 tokens of Qwen2.5 in fp32 take
0.6 GiB, those of a batch of 8 x 2,048 would take 9.3."""


class RowLoss(NamedTuple):
    """One row's sum of negative log-likelihood in nats, over so many tokens."""

    nll: float
    tokens: int


def row_losses(model: Any, rows: Sequence[TokenRow], supervise: str) -> list[RowLoss]:
    """Loss of each row under `model` in its present state, in one forward pass.

    The same for any composition of the batch: padding stands on the right, where causal attention
    never looks, and is not counted.

    Args:
        model: A causal language model, or a PeftModel around one.
        rows: The rows of one batch.
        supervise: `full` or `answer`, as in training.

    Raises:
        EvaluationError: The model transforms its logits in a way this head does not.
    """
    import torch
    from torch.nn.functional import cross_entropy

    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    _refuse_scaled_logits(causal.config)
    device = causal.get_input_embeddings().weight.device
    length = max(len(row.input_ids) for row in rows)
    input_ids = torch.zeros(len(rows), length, dtype=torch.long)  # (rows, length)
    attention_mask = torch.zeros_like(input_ids)
    labels = torch.full_like(input_ids, NOT_SUPERVISED)
    for n, row in enumerate(rows):
        size = len(row.input_ids)
        input_ids[n, :size] = torch.tensor(row.input_ids)
        attention_mask[n, :size] = 1
        labels[n, :size] = torch.tensor(row.labels(supervise))
    with torch.inference_mode():
        hidden = causal.base_model(
            input_ids=input_ids.to(device),
            attention_mask=attention_mask.to(device),
            use_cache=False,
        ).last_hidden_state[:, :-1]  # (rows, length - 1, hidden)
        targets = labels[:, 1:].to(hidden.device)
        counted = targets != NOT_SUPERVISED
        flat_hidden, flat_targets = hidden[counted], targets[counted]  # (tokens, ...)
        parts = [
            cross_entropy(
                causal.lm_head(flat_hidden[start : start + HEAD_CHUNK_TOKENS]).float(),
                flat_targets[start : start + HEAD_CHUNK_TOKENS],
                reduction="none",
            )
            for start in range(0, len(flat_targets), HEAD_CHUNK_TOKENS)
        ]
        per_token = torch.zeros(targets.shape, dtype=torch.float32, device=hidden.device)
        per_token[counted] = torch.cat(parts) if parts else flat_hidden.new_zeros(0).float()
        return _sums(per_token, counted)


def _sums(per_token: "torch.Tensor", counted: "torch.Tensor") -> list[RowLoss]:
    sums = per_token.double().sum(dim=1).tolist()
    tokens = counted.sum(dim=1).tolist()
    return [RowLoss(nll, count) for nll, count in zip(sums, tokens, strict=True)]


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


def _refuse_scaled_logits(config: Any) -> None:
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier"):
        if getattr(config, name, None) not in {None, 1.0}:
            raise EvaluationError(
                f"{config.model_type}: its {name} is not supported by this project's loss. Use a "
                "base model of the Qwen2 or Llama family."
            )
