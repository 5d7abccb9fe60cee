"""Padded rectangles through the model's own forward: any model, and the recipe as first written."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qwenft_assets.model.head import sum_of_losses
from qwenft_assets.model.tokens import NOT_SUPERVISED, TokenRow

if TYPE_CHECKING:
    import torch


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
