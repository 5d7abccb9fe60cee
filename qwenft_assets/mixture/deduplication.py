"""Duplicates over all sources: the same text, and nearly the same text.

Rows come in order of priority; of two copies the earlier stays. Each row that goes is recorded with
the one that stays for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from qwenft_assets.config import NearDuplicatesConfig
from qwenft_assets.hashing import short_hash
from qwenft_assets.progress import ReportProgress, no_progress
from qwenft_assets.rows import InstructionRow
from qwenft_assets.text.near_duplicates import SimilarPair, exact_similarities, similar_pairs

Reason = Literal["frozen_eval", "contaminated", "duplicate", "near_duplicate", "over_long"]
REASONS: tuple[Reason, ...] = get_args(Reason)
"""Why a row that was sampled is not in the mixture, in the order in which the rules apply."""


class Removal(NamedTuple):
    """Why a row was left out."""

    row: InstructionRow
    reason: Reason
    partner: str
    """Row id of the copy that stays, the evaluation file it overlaps with, or its tokens."""
    similarity: float
    """1 for the same text."""


class TextView(Sequence[str]):
    """A text of each row, made when it is asked for: the texts of 400,000 rows are not kept twice."""

    def __init__(
        self, rows: Sequence[InstructionRow], text_of: Callable[[InstructionRow], str]
    ) -> None:
        self._rows = rows
        self._text_of = text_of

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._text_of(self._rows[index])


def normalized(text: str) -> str:
    """Case folded, white space as single spaces: what a reader would call the same text."""
    return " ".join(text.casefold().split())


def question_key(row: InstructionRow) -> str:
    """Equal for rows that ask the same, whatever they answer."""
    return short_hash(normalized(row.instruction), normalized(row.input))


def question_text(row: InstructionRow) -> str:
    """What is asked, as one text."""
    return f"{row.instruction}\n{row.input}"


def whole_text(row: InstructionRow) -> str:
    """Question and answer as one text."""
    return f"{row.instruction}\n{row.input}\n{row.output}"


def drop_duplicates(
    rows: Sequence[InstructionRow],
) -> tuple[list[InstructionRow], list[Removal]]:
    """The first of each set of rows with the same question and answer, and the removal of the rest."""
    first: dict[str, InstructionRow] = {}
    kept: list[InstructionRow] = []
    removed: list[Removal] = []
    for row in rows:
        key = short_hash(normalized(row.instruction), normalized(row.input), normalized(row.output))
        earlier = first.setdefault(key, row)
        if earlier is row:
            kept.append(row)
        else:
            removed.append(Removal(row, "duplicate", earlier.row_id, 1.0))
    return kept, removed


def drop_near_duplicates(
    rows: Sequence[InstructionRow],
    settings: NearDuplicatesConfig,
    report_progress: ReportProgress = no_progress,
) -> tuple[list[InstructionRow], list[Removal]]:
    """Rows without those that are nearly the same as an earlier row that stays.

    A row is compared with rows that stay only: a chain of small changes does not remove its far end.
    """
    pairs = similar_pairs(TextView(rows, whole_text), settings, report_progress)
    pairs = _alike_in_all_parts(rows, pairs, settings.part_threshold)
    best: dict[int, SimilarPair] = {}
    # Sorted by the later row: whether the earlier one stays is settled when it is asked.
    for pair in sorted(pairs, key=lambda pair: (pair.second, -pair.similarity, pair.first)):
        if pair.first not in best and pair.second not in best:
            best[pair.second] = pair
    kept = [row for n, row in enumerate(rows) if n not in best]
    removed = [
        Removal(rows[n], "near_duplicate", rows[pair.first].row_id, pair.similarity)
        for n, pair in best.items()
    ]
    return kept, removed


def _alike_in_all_parts(
    rows: Sequence[InstructionRow], pairs: list[SimilarPair], part_threshold: float
) -> list[SimilarPair]:
    """Pairs whose instructions, inputs and outputs each share enough words.

    One long passage makes two rows alike as a whole, though they ask and answer different things.
    """
    alike = np.ones(len(pairs), np.bool_)
    places = [(pair.first, pair.second) for pair in pairs]
    parts: tuple[Callable[[InstructionRow], str], ...] = (
        lambda row: row.instruction,
        lambda row: row.input,
        lambda row: row.output,
    )
    for text_of in parts:
        alike &= exact_similarities(TextView(rows, text_of), places, 1) >= part_threshold
    return [pair for pair, same in zip(pairs, alike, strict=True) if same]
