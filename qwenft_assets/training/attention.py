"""Causal attention within each row of a flat batch, by one kernel for all rows.

On a GPU this is torch's variable-length flash attention. There is no second choice there: a loop over
rows would take a thousand launches a step, and attention across rows would be wrong in silence.
"""

import inspect
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from qwenft_assets.training.batches import FlatBatch

VARLEN_FLASH = "varlen_flash"
SDPA_BY_ROW = "sdpa_by_row"


def attention_path(device: str) -> str:
    """Which way `attend` takes on a device: what training.json records."""
    return VARLEN_FLASH if device == "cuda" else SDPA_BY_ROW


def attend(
    query: "torch.Tensor", key: "torch.Tensor", value: "torch.Tensor", batch: "FlatBatch"
) -> "torch.Tensor":
    """Causal attention of each token to its own row.

    Args:
        query: (tokens, heads, head size).
        key: (tokens, key heads, head size); heads is a multiple of key heads.
        value: As `key`.
        batch: Where the rows begin and end.

    Returns:
        (tokens, heads, head size).
    """
    if attention_path(query.device.type) == SDPA_BY_ROW:
        return _row_by_row(query, key, value, batch)
    from torch.nn.attention.varlen import varlen_attn

    options = {}
    if _groups_heads_itself():
        options["enable_gqa"] = True
    elif query.size(1) != key.size(1):
        groups = query.size(1) // key.size(1)
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    longest, starts = max(batch.lengths), batch.row_starts
    attended = varlen_attn(
        query, key, value, starts, starts, longest, longest, window_size=(-1, 0), **options
    )
    assert not isinstance(attended, tuple)  # noqa: S101  (only with return_aux)
    return attended


@cache
def _groups_heads_itself() -> bool:
    """Whether this torch's kernel takes fewer key heads than heads; 2.12 and later do."""
    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in inspect.signature(varlen_attn).parameters


def _row_by_row(
    query: "torch.Tensor", key: "torch.Tensor", value: "torch.Tensor", batch: "FlatBatch"
) -> "torch.Tensor":
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    rows = [part.split(list(batch.lengths)) for part in (query, key, value)]
    attended = [
        scaled_dot_product_attention(
            *(part.transpose(0, 1)[None] for part in row), is_causal=True, enable_gqa=True
        )[0].transpose(0, 1)
        for row in zip(*rows, strict=True)
    ]
    return torch.cat(attended)
