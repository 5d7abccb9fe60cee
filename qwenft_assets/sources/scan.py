"""What every source gives: shards in a fixed order, how to read one, and counts of what was met."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from qwenft_assets.progress import ReportProgress
from qwenft_assets.rows import InstructionRow

Counts = Counter[str]
MEBIBYTE = 2**20
SECONDS_BETWEEN_NOTES = 0.5


@dataclass
class Tally:
    """Counts of one shard, filled while its rows are read."""

    scanned: int = 0
    bytes_read: int = 0
    share_read: float = 0.0
    """Of the shard, 0 to 1: how far its reading is."""
    dropped: Counts = field(default_factory=Counts)
    keyword_hits: Counts = field(default_factory=Counts)
    """Rows that hold a keyword, by keyword; a row may hold several."""
    findings: Counts = field(default_factory=Counts)
    """Things worth a look that drop nothing, by kind: personal data."""

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
    """Of a source without keywords."""
    return Counts()


@dataclass(frozen=True)
class Split:
    """How a shard is read in parts, by several processes; all parts in turn are the whole shard."""

    count: Callable[[str], int]
    """Of the parts of a shard, at least 1; the file is fetched for it."""
    read: Callable[[str, int, Tally], Iterator[InstructionRow]]
    """The rows of one part of a shard, in upstream order, with the counts of that part."""


@dataclass(frozen=True)
class Scan:
    """One source, ready to be read shard by shard.

    Where it has several, or a split, `read` and `split` are functions of a module, so that they may be
    sent to other processes.
    """

    revision: str
    """Commit of the upstream repository, or sha256 of what is read."""
    shards: tuple[str, ...]
    """Names of files, in the order in which a sample takes them."""
    read: Callable[[str, Tally], Iterator[InstructionRow]]
    """The rows of one shard in upstream order; each call reads anew."""
    rules: str = ""
    """Whatever else decides which rows come out: keyword lists, held-out ids."""
    also_in: Callable[[pa.Table], Counts] = no_others
    """How many rows the keywords of another domain would admit too, by source."""
    split: Split | None = None
    """None: a shard is read by one process."""

    def rows(self, tally: Tally) -> Iterator[InstructionRow]:
        """The rows of all shards."""
        for shard in self.shards:
            yield from self.read(shard, tally)


class ScanProgress:
    """Says how far a scan is: scanned, matched and kept rows, MiB, rows a second, time left."""

    def __init__(self, shards: int, report: ReportProgress) -> None:
        self._report = report
        self._shards, self._done = shards, 0
        self._sum, self._kept = Tally(), 0
        self._started = self._last = time.monotonic()

    def within_shard(self, tally: Tally) -> None:
        """To be called often with the counts of the shard at hand; speaks now and then."""
        if time.monotonic() - self._last >= SECONDS_BETWEEN_NOTES:
            so_far = Tally()
            so_far.add(self._sum)
            so_far.add(tally)
            self._say(so_far, self._done + tally.share_read)

    def after_shard(self, total: Tally, kept: int) -> None:
        """To be called with the counts of all shards read, and the rows kept of them."""
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
