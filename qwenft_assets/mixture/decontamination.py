"""Rows that overlap with evaluation files the user names: 13 words in a row (Brown et al., 2020).

A text of an evaluation file with fewer words counts only where a row's instruction is exactly that
text: short answers such as "yes" stand everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from qwenft_assets.config import PROJECT_ROOT
from qwenft_assets.errors import MixtureError
from qwenft_assets.mixture.deduplication import Removal, TextView
from qwenft_assets.progress import ReportProgress, no_progress
from qwenft_assets.rows import InstructionRow
from qwenft_assets.text.near_duplicates import U64, blocks, word_shingles

NGRAM_WORDS = 13
FILTER_BITS = 22
_FILTER_MASK = np.uint64((1 << FILTER_BITS) - 1)


@dataclass(frozen=True)
class EvaluationTexts:
    """The n-grams of one evaluation file."""

    name: str
    long: U64
    """Sorted hashes of its runs of NGRAM_WORDS words."""
    short: U64
    """Sorted hashes of its texts with fewer words."""


def read_evaluation_file(path: str) -> EvaluationTexts:
    """The n-grams of all texts of a .json or .jsonl file, at any depth, or of a text file.

    Raises:
        MixtureError: The file is missing, empty or broken.
    """
    file = evaluation_path(path)
    try:
        content = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise MixtureError(
            f"{file}: cannot be read ({error.strerror}). Correct mixture.decontaminate."
        ) from error
    except UnicodeDecodeError as error:
        raise MixtureError(
            f"{file}: is not UTF-8 text (byte {error.start}). Name JSON, JSON lines or plain text "
            "in mixture.decontaminate."
        ) from error
    texts = list(_texts(file, content))
    shingles = word_shingles(texts, NGRAM_WORDS)
    if not len(shingles.hashes):
        raise MixtureError(f"{file}: holds no text. Correct mixture.decontaminate.")
    per_text = np.diff(shingles.offsets)
    is_long = np.repeat(shingles.words >= NGRAM_WORDS, per_text)
    return EvaluationTexts(
        path, np.unique(shingles.hashes[is_long]), np.unique(shingles.hashes[~is_long])
    )


def evaluation_path(path: str) -> Path:
    """Where an evaluation file is; a relative path is read from the project's root."""
    return PROJECT_ROOT / Path(path).expanduser()


def find_contaminated(
    rows: Sequence[InstructionRow],
    files: Sequence[EvaluationTexts],
    report_progress: ReportProgress = no_progress,
) -> list[Removal]:
    """Rows that overlap with a file, each with the first file it overlaps with."""
    hit_by: dict[int, str] = {}
    fields = (
        TextView(rows, lambda row: row.instruction),
        TextView(rows, lambda row: row.input),
        TextView(rows, lambda row: row.output),
    )
    for number, texts in enumerate(fields if files else ()):
        for start, block in blocks(texts):
            shingles = word_shingles(block, NGRAM_WORDS)
            place = np.repeat(np.arange(len(block)), np.diff(shingles.offsets))
            is_long = (shingles.words >= NGRAM_WORDS)[place]
            for file in files:
                hit = is_long & _is_in(shingles.hashes, file.long)
                if number == 0:
                    hit |= ~is_long & _is_in(shingles.hashes, file.short)
                for n in np.unique(place[hit]).tolist():
                    hit_by.setdefault(start + n, file.name)
            report_progress(start + len(block), len(rows), "compared with evaluation files")
    return [Removal(rows[n], "contaminated", hit_by[n], 1.0) for n in sorted(hit_by)]


def _is_in(hashes: U64, known: U64) -> NDArray[np.bool_]:
    """Which hashes are among the sorted `known`; a bitmap spares most of them the search."""
    if not len(known):
        return np.zeros(len(hashes), np.bool_)
    bitmap = np.zeros(1 << FILTER_BITS, np.bool_)
    bitmap[known & _FILTER_MASK] = True
    found = bitmap[hashes & _FILTER_MASK]
    maybe = np.flatnonzero(found)
    at = np.minimum(np.searchsorted(known, hashes[maybe]), len(known) - 1)
    found[maybe] = known[at] == hashes[maybe]
    return found


def _texts(file: Path, content: str) -> Iterator[str]:
    if file.suffix == ".json":
        yield from _strings(_parse(content, str(file)))
    elif file.suffix in {".jsonl", ".ndjson"}:
        for number, line in enumerate(content.split("\n"), 1):
            if line.strip():
                yield from _strings(_parse(line, f"{file}:{number}"))
    else:
        # Lines may break a sentence; a line alone counts too, as a short text.
        yield content
        lines = content.splitlines()
        yield from (line for line in lines if len(line.split()) < NGRAM_WORDS)


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise MixtureError(
            f"{where}: not JSON ({error}). Mend it, or name another file in mixture.decontaminate."
        ) from error


def _strings(value: Any) -> Iterator[str]:
    """All strings of a JSON value but the keys."""
    waiting: list[Any] = [value]
    while waiting:
        item: Any = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, list):
            waiting.extend(cast("list[Any]", item))
        elif isinstance(item, dict):
            waiting.extend(cast("dict[str, Any]", item).values())
