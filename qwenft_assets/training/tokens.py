"""Rows to token ids: rendered once, tokenised in batches, kept by content.

The trainer gets ids, not text: the tokenizer in batches is some fifty times faster than the
trainer's own preparation, and a rerun over the same rows tokenises nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from qwenft_assets.config import TrainingConfig
from qwenft_assets.errors import TrainingError
from qwenft_assets.mixture.build import MixedRow
from qwenft_assets.mixture.split import TRAIN
from qwenft_assets.progress import ReportProgress, no_progress
from qwenft_assets.rows import short_hash
from qwenft_assets.storage import Storage, read_parquet, sha256_of_file, write_parquet
from qwenft_assets.text.chatml import (
    SYSTEM_PROMPT,
    TEMPLATE_VERSION,
    render_prompt,
    render_training_text,
)

BATCH_ROWS = 512
NOT_SUPERVISED = -100
"""The label that the loss leaves out."""
TOKEN_SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("answer_start", pa.int32()),  # index of the first token of the answer
        ("truncated", pa.bool_()),
    ]
)


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One row as the model sees it."""

    row_id: str
    source: str
    split: str
    input_ids: list[int]
    answer_start: int
    truncated: bool

    def labels(self, supervise: str) -> list[int]:
        """What each position should predict; NOT_SUPERVISED where the loss does not look."""
        if supervise == "full":
            return self.input_ids
        prompt = min(self.answer_start, len(self.input_ids))
        return [NOT_SUPERVISED] * prompt + self.input_ids[prompt:]

    def supervised_tokens(self, supervise: str) -> int:
        """How many tokens carry loss; the first token of a text is predicted by nothing."""
        return sum(label != NOT_SUPERVISED for label in self.labels(supervise)[1:])


def tokenize_mixture(
    mixed: Sequence[MixedRow],
    mixture_version: str,
    tokenizer: Any,
    tokenizer_folder: Path,
    settings: TrainingConfig,
    storage: Storage,
    report_progress: ReportProgress = no_progress,
) -> list[TokenRow]:
    """All rows of a mixture as tokens, in its order; from the cache where it has them.

    Raises:
        TrainingError: No train row keeps a token that carries loss.
    """
    key = short_hash(
        mixture_version,
        sha256_of_file(tokenizer_folder / "tokenizer.json"),
        TEMPLATE_VERSION,
        SYSTEM_PROMPT,
        settings.system_prompt,
        str(settings.max_length_tokens),
    )
    path = storage.cache("tokens") / key / "tokens.parquet"
    if not path.exists():
        rows = tokenize_rows(mixed, tokenizer, settings, report_progress)
        columns = {name: [getattr(row, name) for row in rows] for name in TOKEN_SCHEMA.names}
        write_parquet(path, pa.table(columns, schema=TOKEN_SCHEMA))
    rows = [TokenRow(**values) for values in read_parquet(path).to_pylist()]
    if not any(row.split == TRAIN and row.supervised_tokens(settings.supervise) for row in rows):
        raise TrainingError(
            f"no train row keeps a token to learn from within max_length_tokens "
            f"{settings.max_length_tokens}. Raise training.max_length_tokens."
        )
    return rows


def tokenize_rows(
    mixed: Sequence[MixedRow],
    tokenizer: Any,
    settings: TrainingConfig,
    report_progress: ReportProgress = no_progress,
) -> list[TokenRow]:
    """Render and tokenise rows; a text beyond `max_length_tokens` loses its end and is marked."""
    rows: list[TokenRow] = []
    for start in range(0, len(mixed), BATCH_ROWS):
        batch = mixed[start : start + BATCH_ROWS]
        prompts, texts = [], []
        for row, _, _ in batch:
            system = row.system if settings.system_prompt == "row" else None
            prompts.append(render_prompt(row.instruction, row.input, system))
            texts.append(render_training_text(row.instruction, row.input, row.output, system))
        encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        for item, prompt, ids, offsets in zip(
            batch, prompts, encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
            beyond_prompt = (n for n, (begin, _) in enumerate(offsets) if begin >= len(prompt))
            rows.append(
                TokenRow(
                    row_id=item.row.row_id,
                    source=item.row.source,
                    split=item.split,
                    input_ids=ids[: settings.max_length_tokens],
                    answer_start=next(beyond_prompt, len(ids)),
                    truncated=len(ids) > settings.max_length_tokens,
                )
            )
        report_progress(start + len(batch), len(mixed), "tokenised")
    return rows
