"""Rows of known length and content, as mixed rows and as token rows."""

import random

from qwenft_assets.mixture.build import MixedRow
from qwenft_assets.model.tokens import TokenRow
from qwenft_assets.rows import make_row

FIRST_ORDINARY_ID = 3
"""The ids below are the control tokens of tiny_model's tokenizer."""


def mixed_row(
    instruction: str,
    output: str,
    input: str = "",  # noqa: A002
    system: str | None = None,
    split: str = "train",
) -> MixedRow:
    row = make_row(
        source="local_reports",
        upstream_id=f"{instruction}\0{output}",
        instruction=instruction,
        input=input,
        output=output,
        system=system,
        license="MIT",
        revision="abc",
        admitted_by="all",
    )
    return MixedRow(row, split, 0)


def token_row(number: int, length: int, answer_start: int | None = None, split: str = "train"):
    """Random ids, the same for the same arguments; the answer is the second half unless told."""
    draw = random.Random(f"{number}:{length}")
    return TokenRow(
        row_id=f"row-{number}",
        source="local_reports",
        split=split,
        input_ids=[draw.randrange(FIRST_ORDINARY_ID, 600) for _ in range(length)],
        answer_start=length // 2 if answer_start is None else answer_start,
        truncated=False,
    )


def token_rows(*lengths: int, split: str = "train") -> list[TokenRow]:
    return [token_row(number, length, split=split) for number, length in enumerate(lengths)]
