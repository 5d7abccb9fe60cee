"""What all targets share: their interface, and requests that end in one line where they fail for good."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

from qwenft_assets.errors import PublishingError
from qwenft_assets.progress import ReportProgress
from qwenft_assets.publishing.bundle import Bundle
from qwenft_assets.retries import ask, describe_failure

ATTEMPTS = 5

Answer = TypeVar("Answer")


class Outcome(NamedTuple):
    """The result of publishing a copy."""

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
        """The destination of the copy, as text."""
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


def ask_place(place: str, request: Callable[[], Answer], advice: str) -> Answer:
    """The answer to a request that may be sent twice without harm.

    Args:
        place: What errors call it.
        request: Sends it; called up to ATTEMPTS times.
        advice: What to do about a refusal.

    Raises:
        PublishingError: The place said no, or went on failing.
    """
    from httpx import HTTPError

    try:
        return ask(request, ATTEMPTS)
    except (HTTPError, OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not isinstance(
            error.__cause__, (HTTPError, OSError)
        ):
            raise
        raise PublishingError(
            f"{place}: {describe_failure(error, ATTEMPTS)}. {advice} Running the same command again "
            "goes on where this one stopped."
        ) from error
