"""Rows to batches without padding: laid end to end, cut into passes that fit the memory.

An optimizer step is a set of rows; how they are cut into forward passes changes no loss, because the
loss is a sum over tokens and attention stays within each row.
"""

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qwenft_assets.training.tokens import NOT_SUPERVISED, TokenRow

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class FlatBatch:
    """Rows laid end to end.

    `input_ids`, `position_ids` and `targets` are int64 of shape (tokens,). `targets` holds what each
    position should predict: the next token of its own row, NOT_SUPERVISED at the row's end and where
    the loss does not look. `row_starts` is int32 of shape (rows + 1,), ending with `tokens`.
    """

    input_ids: "torch.Tensor"
    position_ids: "torch.Tensor"
    targets: "torch.Tensor"
    row_starts: "torch.Tensor"
    lengths: tuple[int, ...]
    """Tokens of each row."""
    counted: "torch.Tensor"
    """int64, (counted tokens,): where `targets` is not NOT_SUPERVISED. Made on the CPU: to ask the GPU
    for it would make the step wait in its middle."""


def flatten(rows: Sequence[TokenRow], supervise: str, device: str = "cpu") -> FlatBatch:
    """Lay rows end to end, in their order.

    Args:
        rows: At least one.
        supervise: `full` or `answer`.
        device: Where the tensors go.
    """
    import torch

    ids, positions, targets, starts = list[int](), list[int](), list[int](), [0]
    for row in rows:
        ids.extend(row.input_ids)
        positions.extend(range(len(row.input_ids)))
        targets.extend(row.labels(supervise)[1:])
        targets.append(NOT_SUPERVISED)
        starts.append(len(ids))
    counted = [n for n, target in enumerate(targets) if target != NOT_SUPERVISED]

    def on_device(values: Any, dtype: torch.dtype = torch.int64) -> torch.Tensor:
        made = torch.tensor(values, dtype=dtype)
        return made if device == "cpu" else made.pin_memory().to(device, non_blocking=True)

    input_ids, position_ids, of_positions = on_device([ids, positions, targets]).unbind()
    return FlatBatch(
        input_ids,
        position_ids,
        of_positions,
        on_device(starts, torch.int32),
        tuple(len(row.input_ids) for row in rows),
        on_device(counted),
    )


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
