"""What every way out has in common."""

from typing import NamedTuple, Protocol

from qwenft_assets.progress import ReportProgress
from qwenft_assets.release.publishing.bundle import Bundle


class Outcome(NamedTuple):
    """What became of a copy."""

    where: str
    """Its address."""
    unchanged: bool
    """It was there already, whole; nothing was sent."""


class Target(Protocol):
    """A place for copies. `describe` and `carried` ask nobody; only `publish` does."""

    def describe(self, bundle: Bundle) -> str:
        """Where the copy would go, in words."""
        ...

    def carried(self, bundle: Bundle) -> dict[str, str]:
        """How each file would go, by path."""
        ...

    def publish(self, bundle: Bundle, report_progress: ReportProgress) -> Outcome:
        """Make the copy; a second call completes what the first left half done."""
        ...
