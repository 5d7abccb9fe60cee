"""Rows to batches without padding: laid end to end, cut into passes that fit the memory.

An optimizer step is a set of rows; how they are cut into forward passes changes no loss, because the
loss is a sum over tokens and attention stays within each row.
"""

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qwenft_assets.model.tokens import TokenRow

if TYPE_CHECKING:
    import torch

WORTH_SHARING_TOKENS = 8
"""A shorter start of rows costs as much as it saves."""


@dataclass(frozen=True)
class SharedStart:
    """What each row sees where all begin alike: the start, which is laid once, then its own tokens.

    The start itself is the first of the rows of the batch, the others are what follows it.
    """

    keys: "torch.Tensor"
    """int64, (tokens that rows see,): where they stand in the batch, row after row."""
    key_starts: "torch.Tensor"
    """int32, (rows + 1,)."""
    key_lengths: tuple[int, ...]
    """Tokens that each row sees."""
    counted_of_rows: npt.NDArray[np.int64]
    """Row after row, which of the batch's counted positions are the row's: of the start, all have the
    same."""


@dataclass(frozen=True)
class FlatBatch:
    """Rows laid end to end.

    `input_ids` and `position_ids` are int64 of shape (tokens,). `row_starts` is int32 of shape
    (rows + 1,), ending with `tokens`.
    """

    input_ids: "torch.Tensor"
    position_ids: "torch.Tensor"
    row_starts: "torch.Tensor"
    lengths: tuple[int, ...]
    """Tokens of each row."""
    counted: "torch.Tensor"
    """int64, (counted tokens,): the positions that predict a token the loss looks at, row after row.
    Where rows share a start, each prediction once. Made on the CPU: to ask the GPU for it would make
    the step wait in its middle."""
    targets: "torch.Tensor"
    """int64, (counted tokens,): what they should predict, the next token of their own row."""
    shared: SharedStart | None = None
    """None: each row sees itself alone."""


def flatten(
    rows: Sequence[TokenRow], supervise: str, device: str = "cpu", shared_tokens: int = 0
) -> FlatBatch:
    """Lay rows end to end, in their order.

    Args:
        rows: At least one.
        supervise: `full` or `answer`.
        device: Where the tensors go.
        shared_tokens: So many at the start of all rows are the same, are laid once and computed once;
            each row has more. Without dropout and noise, which are drawn for each row, it is the same
            arithmetic.
    """
    import torch

    start = np.arange(shared_tokens)
    rests = [row.input_ids[shared_tokens:] for row in rows]
    rest_starts = shared_tokens + np.cumsum([0, *map(len, rests)])
    # By each row, where all of its tokens stand.
    places = [np.concatenate([start, np.arange(*ends)]) for ends in pairwise(rest_starts)]
    counted, targets = list[npt.NDArray[np.int64]](), list[list[int]]()
    for row, of_row in zip(rows, places, strict=True):
        before_last = len(of_row) - 1
        count = row.supervised_tokens(supervise)
        counted.append(of_row[before_last - count : before_last])
        targets.append(row.input_ids[len(of_row) - count :])

    def on_device(values: Any, dtype: torch.dtype = torch.int64) -> torch.Tensor:
        made = torch.from_numpy(np.asarray(values, np.int64)).to(dtype)
        return made if device == "cpu" else made.pin_memory().to(device, non_blocking=True)

    ids = np.concatenate([rows[0].input_ids[:shared_tokens], *rests])
    positions = np.concatenate([start, *(np.arange(shared_tokens, len(row)) for row in places)])
    predictions = np.array([np.concatenate(counted), np.concatenate(targets)])
    row_starts, shared = rest_starts, None
    if shared_tokens:
        predictions, of_rows = np.unique(predictions, axis=1, return_inverse=True)
        row_starts, seen = np.concatenate([[0], rest_starts]), [start, *places]
        key_lengths = tuple(map(len, seen))
        key_starts = on_device(np.cumsum([0, *key_lengths]), torch.int32)
        shared = SharedStart(on_device(np.concatenate(seen)), key_starts, key_lengths, of_rows)
    input_ids, position_ids = on_device([ids, positions]).unbind()
    predicting, predicted = on_device(predictions).unbind()
    lengths = tuple(np.diff(row_starts).tolist())
    starts = on_device(row_starts, torch.int32)
    return FlatBatch(input_ids, position_ids, starts, lengths, predicting, predicted, shared)


def common_start(rows: Sequence[TokenRow]) -> int:
    """How many tokens at the start of all rows are the same, and leave something of each.

    0 where there is nothing to save: too few tokens, or rows.
    """
    if not rows[1:]:
        return 0
    ids = [row.input_ids for row in rows]
    first, last = min(ids), max(ids)  # what the ends of the order have in common, all have
    same = next(
        (n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first)
    )
    same = min(same, *(len(each) - 1 for each in ids))
    return same if same >= WORTH_SHARING_TOKENS else 0


def passes(
    lengths: Sequence[int], max_tokens: int, max_rows: int | None = None
) -> Iterator[list[int]]:
    """Cut rows into forward passes of at most `max_tokens` tokens and `max_rows` rows.

    A row longer than `max_tokens` is a pass of its own. The order of the rows stays.

    Yields:
        Indices of the rows of each pass.
    """
    indices: list[int] = []
    tokens = 0
    for index, length in enumerate(lengths):
        full = tokens + length > max_tokens or len(indices) == max_rows
        if indices and full:
            yield indices
            indices, tokens = [], 0
        indices.append(index)
        tokens += length
    if indices:
        yield indices


def pack_best_fit(lengths: Sequence[int], capacity_tokens: int) -> list[list[int]]:
    """Rows into packs of at most `capacity_tokens`, each into the fullest pack that still takes it.

    Best-fit decreasing: at most 11/9 of the packs that are needed, plus one (Johnson, 1973). A row
    longer than the capacity is a pack of its own.

    Returns:
        Indices of the rows of each pack; every row stands in exactly one.
    """
    packs: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, pack), sorted
    for index in sorted(range(len(lengths)), key=lambda n: (-lengths[n], n)):
        length = lengths[index]
        place = bisect.bisect_left(room, (length, -1))
        if place == len(room):
            packs.append([index])
            bisect.insort(room, (capacity_tokens - length, len(packs) - 1))
        else:
            free, pack = room.pop(place)
            packs[pack].append(index)
            bisect.insort(room, (free - length, pack))
    return packs
