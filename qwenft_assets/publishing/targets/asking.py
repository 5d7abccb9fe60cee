"""Requests to the places that copies go to, with one line where they fail for good."""

from collections.abc import Callable
from typing import TypeVar

from qwenft_assets.errors import PublishingError
from qwenft_assets.retries import ask, describe_failure

ATTEMPTS = 5

Answer = TypeVar("Answer")


def asked(place: str, request: Callable[[], Answer], advice: str) -> Answer:
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
