"""Exact duplicates over all sources, whatever their case and white space."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from qwenft_assets.rows import InstructionRow, short_hash


def normalized(text: str) -> str:
    """Case folded, white space as single spaces: what a reader would call the same text."""
    return " ".join(text.casefold().split())


def question_key(row: InstructionRow) -> str:
    """Equal for rows that ask the same, whatever they answer."""
    return short_hash(normalized(row.instruction), normalized(row.input))


def drop_duplicates(
    rows: Iterable[InstructionRow],
) -> tuple[list[InstructionRow], Counter[str]]:
    """The first of each set of rows with the same question and answer, in the order given.

    Returns:
        The rows that stay, and how many were dropped of each source.
    """
    seen: set[str] = set()
    kept: list[InstructionRow] = []
    dropped: Counter[str] = Counter()
    for row in rows:
        key = short_hash(question_key(row), normalized(row.output))
        if key in seen:
            dropped[row.source] += 1
        else:
            seen.add(key)
            kept.append(row)
    return kept, dropped
