"""The rows that an evaluation is timed on: random ones that begin as a mixture's do, or real ones."""

import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PROJECT_ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT_ROOT), str(PROJECT_ROOT / "benchmarks")]

from evaluation_agreement import read_rows  # noqa: E402
from transformers import AutoConfig  # noqa: E402, TID253

from qwenft_assets.config import TrainingConfig  # noqa: E402
from qwenft_assets.model.batches import common_start  # noqa: E402
from qwenft_assets.model.engines.peft import load_tokenizer  # noqa: E402
from qwenft_assets.model.tokens import TokenRow, tokenize_rows  # noqa: E402
from qwenft_assets.text.chatml import render_prompt  # noqa: E402


def random_rows(
    count: int, mean_length: int, vocabulary: int, start: Sequence[int] = ()
) -> list[TokenRow]:
    """Rows of half to one and a half times the mean length, the same for the same arguments."""
    draw = random.Random(0)
    rows: list[TokenRow] = []
    for number in range(count):
        length = draw.randint(mean_length // 2, mean_length * 3 // 2)
        drawn = (draw.randrange(3, vocabulary) for _ in range(length - len(start)))
        ids = [*start, *drawn]
        rows.append(TokenRow(str(number), "random", "eval", ids, length // 2, truncated=False))
    return rows


def start_of_rows(tokenizer: Any) -> list[int]:
    """The tokens that every row begins with, whatever is asked."""
    asked = [tokenizer.encode(render_prompt(text, "")) for text in "12"]
    rows = [TokenRow(str(n), "", "eval", ids, 0, truncated=False) for n, ids in enumerate(asked)]
    return asked[0][: common_start(rows)]


def make_rows(model: Path, count: int, mean_length: int, pubmedqa: Path | None) -> list[TokenRow]:
    """Real rows, or random ones that begin as real ones do."""
    tokenizer = load_tokenizer(model)
    if pubmedqa is None:
        vocabulary = AutoConfig.from_pretrained(model).vocab_size
        return random_rows(count, mean_length, vocabulary, start_of_rows(tokenizer))
    mixed = read_rows(pubmedqa, count)
    return tokenize_rows(mixed, tokenizer.backend_tokenizer, TrainingConfig())
