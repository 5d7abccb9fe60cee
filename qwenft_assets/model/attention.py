"""Causal attention within each row of a flat batch, by one kernel for all rows.

On a GPU this is torch's variable-length flash attention. There is no second choice there: a loop over
rows would take a thousand launches a step, and attention across rows would be wrong in silence.
"""

import inspect
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from qwenft_assets.model.batches import FlatBatch, flatten
from qwenft_assets.model.tokens import TokenRow

if TYPE_CHECKING:
    import torch

VARLEN_FLASH = "varlen_flash"
SDPA_BY_ROW = "sdpa_by_row"


def attention_path(device: str) -> str:
    """Which way `attend` takes on a device: what training.json records."""
    return VARLEN_FLASH if device == "cuda" else SDPA_BY_ROW


def attend(
    query: "torch.Tensor", key: "torch.Tensor", value: "torch.Tensor", batch: FlatBatch
) -> "torch.Tensor":
    """Causal attention of each token to its own row, and to the start that rows share.

    Args:
        query: (tokens, heads, head size).
        key: (tokens, key heads, head size); heads is a multiple of key heads.
        value: As `key`.
        batch: Where the rows begin and end.

    Returns:
        (tokens, heads, head size).
    """
    starts, lengths = batch.row_starts, batch.lengths
    key_starts, key_lengths = starts, lengths
    if shared := batch.shared:
        key, value = key[shared.keys], value[shared.keys]
        key_starts, key_lengths = shared.key_starts, shared.key_lengths
    if attention_path(query.device.type) == SDPA_BY_ROW:
        return _row_by_row(query, key, value, lengths, key_lengths)
    from torch.nn.attention.varlen import varlen_attn

    options: Any = {"enable_gqa": True} if _asks_for_grouped_heads() else {}
    attended = varlen_attn(
        query,
        key,
        value,
        starts,
        key_starts,
        max(lengths),
        max(key_lengths),
        window_size=(-1, 0),  # counted from the ends: the last token of a row sees all of its keys
        **options,
    )
    assert not isinstance(attended, tuple)  # noqa: S101  (only with return_aux)
    return attended


@cache
def _asks_for_grouped_heads() -> bool:
    """Whether this torch wants to be told of fewer key heads than heads: 2.12 and later.

    The kernel takes them in either.
    """
    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in inspect.signature(varlen_attn).parameters


@cache
def sees_shared_starts(device: str) -> bool:
    """Whether the kernel counts the queries of a row from the end of its keys.

    torch's does and nowhere says so; one that counted from the start would hide from each token the
    last that it should see, in silence.
    """
    import torch

    start, rows = 3, [TokenRow("", "", "", [0] * n, 0, truncated=False) for n in (5, 9)]
    apart, together = (flatten(rows, "full", device, shared) for shared in (0, start))
    assert together.shared is not None  # noqa: S101
    of_rows = together.shared.keys[start:]
    draw = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    query, key, value = (
        torch.randn(len(together.input_ids), heads, 64, generator=draw).to(device, dtype)
        for heads in (4, 2, 2)
    )
    expected = attend(query[of_rows], key[of_rows], value[of_rows], apart)
    found = attend(query, key, value, together)[of_rows]
    return torch.allclose(found.float(), expected.float(), atol=0.05)  # of values around 1


def _row_by_row(
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    lengths: Sequence[int],
    key_lengths: Sequence[int],
) -> "torch.Tensor":
    import torch

    rows = (
        part.split(list(of_part))
        for part, of_part in ((query, lengths), (key, key_lengths), (value, key_lengths))
    )
    return torch.cat([_one_row(*row) for row in zip(*rows, strict=True)])


def _one_row(query: "torch.Tensor", key: "torch.Tensor", value: "torch.Tensor") -> "torch.Tensor":
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    before = len(key) - len(query)  # tokens of the start that rows share
    sees = torch.ones(len(query), len(key), dtype=torch.bool).tril(before) if before else None
    by_head = (part.transpose(0, 1)[None] for part in (query, key, value))
    attended = scaled_dot_product_attention(
        *by_head, attn_mask=sees, is_causal=sees is None, enable_gqa=True
    )
    return attended[0].transpose(0, 1)
