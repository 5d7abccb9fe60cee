"""A scan: the shards of a source, which are its upstream files, read in a fixed order.

The rows of each shard are kept in a file, so that a scan can be interrupted and extended.
"""

import heapq
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qwenft_assets.hashing import seeded_order, short_hash
from qwenft_assets.progress import ReportProgress
from qwenft_assets.rows import InstructionRow, rows_to_table
from qwenft_assets.storage.files import read_parquet, write_parquet

Counts = Counter[str]
MEBIBYTE = 2**20
SECONDS_BETWEEN_NOTES = 0.5
STATE_KEY = b"qwenft"


@dataclass
class Tally:
    """Counts of one shard, filled while its rows are read."""

    scanned: int = 0
    bytes_read: int = 0
    share_read: float = 0.0
    """Share of the shard that has been read, 0 to 1."""
    dropped: Counts = field(default_factory=Counts)
    """Upstream rows that became no row, by reason."""
    keyword_hits: Counts = field(default_factory=Counts)
    """Rows that hold a keyword, by keyword; a row may hold several."""
    findings: Counts = field(default_factory=Counts)
    """Personal data, by kind; a row with a finding is not dropped."""

    def as_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            name: dict(sorted(value.items())) if isinstance(value, Counter) else value
            for name, value in vars(self).items()
        }

    @staticmethod
    def from_json(values: dict[str, Any]) -> "Tally":
        """The inverse of `as_json`."""
        counts: dict[str, Any] = {
            name: Counts(value) if isinstance(value, dict) else value
            for name, value in values.items()
        }
        return Tally(**counts)

    def add(self, other: "Tally") -> None:
        """Add another shard's counts to these."""
        self.scanned += other.scanned
        self.bytes_read += other.bytes_read
        for name in ("dropped", "keyword_hits", "findings"):
            getattr(self, name).update(getattr(other, name))


def no_others(rows: pa.Table) -> Counts:  # noqa: ARG001
    """`Scan.also_in` of a source without keywords."""
    return Counts()


ReadShard = Callable[[str, Tally], Iterator[InstructionRow]]
"""Yields the rows of one shard in upstream order and fills the tally; each call reads the file again."""


@dataclass(frozen=True)
class Scan:
    """One source, ready to be read shard by shard."""

    revision: str
    """Commit of the upstream repository, or sha256 of what is read."""
    shards: tuple[str, ...]
    """File names, in the order in which a sample takes them."""
    read: ReadShard
    """Must be picklable where there are several shards: Ray sends it to other processes."""
    rules: str = ""
    """Anything else that decides which rows come out: keyword lists, held-out ids."""
    also_in: Callable[[pa.Table], Counts] = no_others
    """How many rows the keywords of another domain would admit too, by source."""

    def rows(self, tally: Tally) -> Iterator[InstructionRow]:
        """The rows of all shards."""
        for shard in self.shards:
            yield from self.read(shard, tally)


@dataclass(frozen=True)
class ShardRows:
    """One shard's rows in seeded order, and the counts of reading it."""

    table: pa.Table
    tally: Tally


def read_shard(
    read: ReadShard,
    shard: str,
    seed: int,
    limit: int | None,
    watch: Callable[[Tally], None] = lambda _: None,
) -> ShardRows:
    """At most `limit` rows of a shard (None: all), the first in seeded order; the others are counted.

    Memory holds `limit` rows however many the shard has. `watch` is called with the counts so far,
    row by row.
    """
    tally, number = Tally(), itertools.count()

    def watched() -> Iterator[InstructionRow]:
        for row, _ in zip(read(shard, tally), number, strict=False):
            watch(tally)
            yield row

    def order(row: InstructionRow) -> bytes:
        return seeded_order(seed, row.row_id)

    if limit is None:
        rows = sorted(watched(), key=order)
    else:
        rows = heapq.nsmallest(limit, watched(), key=order)
        tally.dropped["beyond_max_rows"] += next(number) - len(rows)
    tally.share_read = 1.0
    return ShardRows(rows_to_table(rows), tally)


@dataclass(frozen=True)
class ShardCache:
    """The rows of each shard of a scan, in a file of `folder`; a scan of one shard has no use for one."""

    folder: Path
    scan: Scan
    seed: int

    def rows_of(
        self, shard: str, limit: int | None, watch: Callable[[Tally], None] = lambda _: None
    ) -> ShardRows:
        """As `read_shard`, from the shard's file if that has as many rows."""
        if self.holds(shard, limit):
            table = read_parquet(self._file_of(shard))
            tally = Tally.from_json(_state_of(table.schema)["tally"])
            return ShardRows(table.replace_schema_metadata(None), tally)
        return self.keep(shard, limit, read_shard(self.scan.read, shard, self.seed, limit, watch))

    def holds(self, shard: str, limit: int | None) -> bool:
        """Whether the file of a shard is there, with at least `limit` rows if the shard has them."""
        path = self._file_of(shard)
        if not path.exists():
            return False
        with path.open("rb") as file:  # reads the footer only
            state = _state_of(pq.read_schema(file))
        was_cut = Tally.from_json(state["tally"]).dropped["beyond_max_rows"] > 0
        return not was_cut or (limit is not None and limit <= state["limit"])

    def keep(self, shard: str, limit: int | None, rows: ShardRows) -> ShardRows:
        """Write the shard's file; returns `rows`."""
        if len(self.scan.shards) > 1:
            state = json.dumps({"tally": rows.tally.as_json(), "limit": limit})
            write_parquet(
                self._file_of(shard), rows.table.replace_schema_metadata({STATE_KEY: state})
            )
        return rows

    def _file_of(self, shard: str) -> Path:
        return self.folder / f"{short_hash(shard)}.parquet"


def _state_of(schema: pa.Schema) -> dict[str, Any]:
    return json.loads((schema.metadata or {})[STATE_KEY])


class ScanProgress:
    """Reports how far a scan is: scanned, matched and kept rows, MiB, rows a second, time left."""

    def __init__(self, shards: int, report: ReportProgress) -> None:
        self._report = report
        self._shards, self._done = shards, 0
        self._sum, self._kept = Tally(), 0
        self._started = self._last = time.monotonic()

    def within_shard(self, tally: Tally) -> None:
        """Takes the counts of the shard that is being read; reports now and then."""
        if time.monotonic() - self._last >= SECONDS_BETWEEN_NOTES:
            so_far = Tally()
            so_far.add(self._sum)
            so_far.add(tally)
            self._say(so_far, self._done + tally.share_read)

    def after_shard(self, total: Tally, kept: int) -> None:
        """Takes the counts of all shards read so far, and how many rows were kept of them."""
        self._sum, self._kept = total, kept
        self._done += 1
        self._say(total, self._done)

    def _say(self, tally: Tally, done: float) -> None:
        self._last = time.monotonic()
        seconds = max(self._last - self._started, 1e-3)
        matched = tally.scanned - tally.dropped["off_topic"]
        left = seconds / done * (self._shards - done) if done else 0.0
        self._report(
            done,
            self._shards,
            f"{tally.scanned:,} scanned, {matched:,} matched, {self._kept:,} kept, "
            f"{tally.bytes_read / MEBIBYTE:,.0f} MiB, {tally.scanned / seconds:,.0f} rows/s"
            + (f", {left:,.0f} s left" if left else ""),
        )
