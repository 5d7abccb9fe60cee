"""What every source gives: a revision, its rows, and a count of what was left out and why."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from qwenft_assets.rows import InstructionRow


@dataclass
class Tally:
    """Counts of one scan, filled while its rows are read."""

    scanned: int = 0
    dropped: Counter[str] = field(default_factory=Counter[str])


@dataclass(frozen=True)
class Scan:
    """One source, ready to be read."""

    revision: str
    """Commit of the upstream repository, or sha256 of what was read."""
    read: Callable[[Tally], Iterator[InstructionRow]]
    """Upstream rows in upstream order; each call reads anew."""
