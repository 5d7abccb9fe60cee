"""Rows to token ids, in batches: the rendered text, tokenised once, with where the answer begins."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from qwenft_assets.config import TrainingConfig
from qwenft_assets.hashing import short_hash
from qwenft_assets.model.fast_bpe import FastBpe, fast_bpe
from qwenft_assets.rows import InstructionRow
from qwenft_assets.text.chatml import TURN_START, render_prompt, render_training_text

ROWS_AT_ONCE = 2_048
COMPARED_ROWS = 64
"""So many rows of each call are tokenised both ways; one that differs ends the fast way."""
ANSWER_OPENING = b"assistant\n"


def tokenizer_version(tokenizer: Any) -> str:
    """Hash of all that decides which ids a `tokenizers.Tokenizer` gives.

    Not of its file: transformers replaces parts of some of them by what it knows of the model's class.
    """
    parts = json.loads(tokenizer.to_str(), object_hook=_without_offsets)
    model = {name: value or None for name, value in parts["model"].items()}
    model["merges"] = [m.split(" ") if isinstance(m, str) else m for m in model["merges"] or ()]
    decisive = {
        name: parts[name] or None for name in ("normalizer", "pre_tokenizer", "added_tokens")
    }
    return short_hash(json.dumps({**decisive, "model": model}, sort_keys=True))


def _without_offsets(part: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name != "trim_offsets"}


class RowIds(NamedTuple):
    """One row as the model would see it without a limit."""

    ids: Any
    """int32, shape (tokens,)."""
    answer_start: int
    """Index of the first token that begins within the answer."""


class RowTokenizer:
    """Renders and tokenises rows with one base model's tokenizer."""

    def __init__(self, tokenizer: Any, settings: TrainingConfig) -> None:
        """Take a `tokenizers.Tokenizer`, and the system prompt's setting from the config."""
        self._tokenizer = tokenizer
        self._own_system = settings.system_prompt == "row"
        self._fast: FastBpe | None = fast_bpe(tokenizer)
        self._turn_start: int | None = tokenizer.token_to_id(TURN_START)

    def batches(self, rows: Sequence[InstructionRow]) -> Iterator[list[RowIds]]:
        """The rows in their order, ROWS_AT_ONCE at a time."""
        if not self._same_both_ways(rows[:: len(rows) // COMPARED_ROWS + 1]):
            self._fast = None
        workers = os.cpu_count() or 1
        share = ROWS_AT_ONCE // workers + 1
        with ThreadPoolExecutor(workers) as threads:
            for start in range(0, len(rows), ROWS_AT_ONCE):
                batch = rows[start : start + ROWS_AT_ONCE]
                if self._fast is None:
                    yield self._slowly(batch)
                else:
                    shares = [batch[n : n + share] for n in range(0, len(batch), share)]
                    yield [
                        found for part in threads.map(self._all_quickly, shares) for found in part
                    ]

    def _same_both_ways(self, rows: Sequence[InstructionRow]) -> bool:
        if self._fast is None or self._turn_start is None:
            return False
        slow, fast = self._slowly(rows), [self._quickly(row) for row in rows]
        return all(
            a.answer_start == b.answer_start and np.array_equal(a.ids, b.ids)
            for a, b in zip(slow, fast, strict=True)
        )

    def _all_quickly(self, rows: Sequence[InstructionRow]) -> list[RowIds]:
        return [self._quickly(row) for row in rows]

    def _system_of(self, row: InstructionRow) -> str | None:
        return row.system if self._own_system else None

    def _quickly(self, row: InstructionRow) -> RowIds:
        system = self._system_of(row)
        text = render_training_text(row.instruction, row.input, row.output, system)
        ids = self._fast.encode(text) if self._fast else None
        if self._fast is None or ids is None:
            return self._slowly([row])[0]
        # Text of a row cannot hold this token, so its last one opens the assistant's turn.
        turn = int(np.flatnonzero(ids == self._turn_start)[-1]) + 1
        opening = self._fast.byte_lengths(ids[turn : turn + len(ANSWER_OPENING)])
        begins = [0, *accumulate(opening)]
        within = next(n for n, begin in enumerate(begins) if begin >= len(ANSWER_OPENING))
        return RowIds(ids, turn + within)

    def _slowly(self, rows: Sequence[InstructionRow]) -> list[RowIds]:
        prompts, texts = [], []
        for row in rows:
            system = self._system_of(row)
            prompts.append(render_prompt(row.instruction, row.input, system))
            texts.append(render_training_text(row.instruction, row.input, row.output, system))
        found: list[RowIds] = []
        encoded = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        for prompt, encoding in zip(prompts, encoded, strict=True):
            beyond = (n for n, (begin, _) in enumerate(encoding.offsets) if begin >= len(prompt))
            found.append(RowIds(np.array(encoding.ids, np.int32), next(beyond, len(encoding.ids))))
        return found
