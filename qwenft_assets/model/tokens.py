"""The rows of a mixture as tokens: made once, kept by content, read from a mapped file.

The trainer gets ids, not text: tokenising in batches is some fifty times faster than the trainer's
own preparation, and the mixture's report of lengths, training and evaluation share one file.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, overload

import numpy as np
import pyarrow as pa

from qwenft_assets.config import TrainingConfig
from qwenft_assets.errors import TrainingError
from qwenft_assets.hashing import short_hash
from qwenft_assets.mixture.build import MixedRow
from qwenft_assets.mixture.split import TRAIN
from qwenft_assets.model.row_tokenizer import RowTokenizer, tokenizer_version
from qwenft_assets.progress import ReportProgress, no_progress
from qwenft_assets.storage.files import atomic_path
from qwenft_assets.storage.root import Storage
from qwenft_assets.text.chatml import SYSTEM_PROMPT, TEMPLATE_VERSION

NOT_SUPERVISED = -100
"""The label that the loss leaves out."""
TOKENIZER_FILE = "tokenizer.json"
TOKEN_SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("input_ids", pa.list_(pa.int32())),  # whole; a reader cuts
        ("answer_start", pa.int32()),  # index of the first token of the answer
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
        prompt = 0 if supervise == "full" else self.answer_start
        return max(len(self.input_ids) - max(prompt, 1), 0)


class TokenRows(Sequence[TokenRow]):
    """Rows of a mapped file, made when they are asked for: 240,000 rows take no memory."""

    def __init__(self, table: pa.Table, max_length_tokens: int, places: Any = None) -> None:
        """Take a table of TOKEN_SCHEMA, and which of its rows; None for all, in their order.

        A row beyond `max_length_tokens` loses its end.
        """
        self._table = table
        self._max_length_tokens = max_length_tokens
        self._places = np.arange(table.num_rows) if places is None else places
        self.whole_lengths = _lengths_of(table)[self._places]
        """Tokens of each row before the cut; int64, shape (rows,)."""
        self.answer_starts = table.column("answer_start").to_numpy()[self._places]
        """int32, shape (rows,)."""
        self.splits = np.array(table.column("split").to_pylist(), object)[self._places]
        """`train` or `eval`; str, shape (rows,)."""

    @property
    def lengths(self) -> Any:
        """Tokens of each row after the cut; int64, shape (rows,)."""
        return np.minimum(self.whole_lengths, self._max_length_tokens)

    def supervised_counts(self, supervise: str) -> Any:
        """How many tokens of each row carry loss; int64, shape (rows,)."""
        prompts = np.zeros_like(self.lengths) if supervise == "full" else self.answer_starts
        return np.maximum(self.lengths - np.maximum(prompts, 1), 0)

    def only(self, wanted: Any) -> "TokenRows":
        """The rows where a bool array of shape (rows,) says so, in their order."""
        return TokenRows(self._table, self._max_length_tokens, self._places[wanted])

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> TokenRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[TokenRow]: ...
    def __getitem__(self, index: int | slice) -> TokenRow | list[TokenRow]:
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        (values,) = self._table.slice(int(self._places[index]), 1).to_pylist()
        truncated = len(values["input_ids"]) > self._max_length_tokens
        values["input_ids"] = values["input_ids"][: self._max_length_tokens]
        return TokenRow(**values, truncated=truncated)


def tokenize_mixture(
    mixed: Sequence[MixedRow],
    mixture_version: str,
    tokenizer: Any,
    settings: TrainingConfig,
    storage: Storage,
    report_progress: ReportProgress = no_progress,
) -> TokenRows:
    """All rows of a mixture as tokens, in its order; from the cache where it has them.

    Args:
        mixed: The mixture.
        mixture_version: Its version.
        tokenizer: A `tokenizers.Tokenizer`.
        settings: Of training.
        storage: Where the cache is.
        report_progress: Called along the way.
    """
    key = short_hash(
        mixture_version,
        tokenizer_version(tokenizer),
        TEMPLATE_VERSION,
        SYSTEM_PROMPT,
        settings.system_prompt,
    )
    path = storage.cache("tokens") / key / "tokens.arrow"
    if not path.exists():
        with (
            atomic_path(path) as part,
            pa.OSFile(str(part), "wb") as file,
            pa.ipc.new_file(file, TOKEN_SCHEMA) as writer,
        ):
            for batch in _batches(mixed, tokenizer, settings, report_progress):
                writer.write_batch(batch)
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
    return TokenRows(table, settings.max_length_tokens)


def tokenize_rows(
    mixed: Sequence[MixedRow],
    tokenizer: Any,
    settings: TrainingConfig,
    report_progress: ReportProgress = no_progress,
) -> TokenRows:
    """Rows as tokens; a text beyond `max_length_tokens` loses its end and is marked."""
    batches = _batches(mixed, tokenizer, settings, report_progress)
    table = pa.Table.from_batches(batches, TOKEN_SCHEMA)
    return TokenRows(table, settings.max_length_tokens)


def rows_to_train_on(rows: TokenRows, settings: TrainingConfig) -> TokenRows:
    """The train rows that have a token which carries loss.

    Raises:
        TrainingError: There is none.
    """
    found = rows.only((rows.splits == TRAIN) & (rows.supervised_counts(settings.supervise) > 0))
    if not len(found):
        raise TrainingError(
            f"no train row keeps a token to learn from within max_length_tokens "
            f"{settings.max_length_tokens}. Raise training.max_length_tokens."
        )
    return found


def lengths_of(rows: Sequence[TokenRow]) -> list[int]:
    """Tokens of each row."""
    if isinstance(rows, TokenRows):
        return rows.lengths.tolist()
    return [len(row.input_ids) for row in rows]


def supervised_counts(rows: Sequence[TokenRow], supervise: str) -> list[int]:
    """How many tokens of each row carry loss."""
    if isinstance(rows, TokenRows):
        return rows.supervised_counts(supervise).tolist()
    return [row.supervised_tokens(supervise) for row in rows]


def _batches(
    mixed: Sequence[MixedRow],
    tokenizer: Any,
    settings: TrainingConfig,
    report_progress: ReportProgress,
) -> Iterable[pa.RecordBatch]:
    rows = [item.row for item in mixed]
    done = 0
    for batch in RowTokenizer(tokenizer, settings).batches(rows):
        items = mixed[done : done + len(batch)]
        offsets = [0, *accumulate(len(found.ids) for found in batch)]
        ids: Any = pa.array(np.concatenate([found.ids for found in batch]))
        yield pa.record_batch(
            [
                pa.array([item.row.row_id for item in items]),
                pa.array([item.row.source for item in items]),
                pa.array([item.split for item in items]),
                pa.ListArray.from_arrays(offsets, ids),
                pa.array([found.answer_start for found in batch], pa.int32()),
            ],
            schema=TOKEN_SCHEMA,
        )
        done += len(batch)
        report_progress(done, len(rows), "tokenised")


def _lengths_of(table: pa.Table) -> Any:
    import pyarrow.compute as pc

    lengths: Any = pc.call_function("list_value_length", [table.column("input_ids")])
    return lengths.to_numpy().astype(np.int64)
