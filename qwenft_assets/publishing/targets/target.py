"""What every way out has in common."""

from typing import NamedTuple, Protocol

from qwenft_assets.progress import ReportProgress
from qwenft_assets.publishing.bundle import Bundle


class Outcome(NamedTuple):
    """What became of a copy."""

    where: str
    """Its address."""
    unchanged: bool
    """It was there already, whole; nothing was sent."""


class PlannedFile(NamedTuple):
    """A file that would arrive, and how it would go."""

    path: str
    size_bytes: int
    way: str


class Target(Protocol):
    """A place for copies. `describe` and `plan` ask nobody; only `publish` does."""

    def describe(self, bundle: Bundle) -> str:
        """Where the copy would go, in words."""
        ...

    def plan(self, bundle: Bundle) -> list[PlannedFile]:
        """Every file that would arrive.

        Raises:
            PublishingError: One cannot go there.
        """
        ...

    def publish(self, bundle: Bundle, report_progress: ReportProgress) -> Outcome:
        """Make the copy; a second call completes what the first left half done."""
        ...
