"""What every source gives: shards in a fixed order, how to read one, and counts of what was met."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from qwenft_assets.rows import InstructionRow

Counts = Counter[str]


@dataclass
class Tally:
    """Counts of one shard, filled while its rows are read."""

    scanned: int = 0
    bytes_read: int = 0
    dropped: Counts = field(default_factory=Counts)
    keyword_hits: Counts = field(default_factory=Counts)
    """Rows that hold a keyword, by keyword; a row may hold several."""
    also_in: Counts = field(default_factory=Counts)
    """Matched questions that another domain's keywords would admit too, by source."""
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
        for name in ("dropped", "keyword_hits", "also_in", "findings"):
            getattr(self, name).update(getattr(other, name))


@dataclass(frozen=True)
class Scan:
    """One source, ready to be read shard by shard."""

    revision: str
    """Commit of the upstream repository, or sha256 of what is read."""
    shards: tuple[str, ...]
    """Names of files, in the order in which a sample takes them."""
    read: Callable[[str, Tally], Iterator[InstructionRow]]
    """The rows of one shard in upstream order; each call reads anew."""
    rules: str = ""
    """Whatever else decides which rows come out: keyword lists, held-out ids."""

    def rows(self, tally: Tally) -> Iterator[InstructionRow]:
        """The rows of all shards."""
        for shard in self.shards:
            yield from self.read(shard, tally)
