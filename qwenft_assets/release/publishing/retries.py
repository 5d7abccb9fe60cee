"""Asking again where that may help: a busy or broken server, a connection that was cut."""

from collections.abc import Callable
from typing import Any, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_random_exponential

from qwenft_assets.errors import PublishingError

ATTEMPTS = 5
LONGEST_WAIT_SECONDS = 30.0
LONGEST_QUOTE = 200
TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})

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

    retrying = Retrying(
        retry=retry_if_exception(_may_pass),
        wait=_backoff,
        stop=stop_after_attempt(ATTEMPTS),
        reraise=True,
    )
    try:
        return retrying(request)
    except (HTTPError, OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not isinstance(
            error.__cause__, (HTTPError, OSError)
        ):
            raise
        tried = f" after {ATTEMPTS} attempts" if _may_pass(error) else ""
        raise PublishingError(
            f"{place}: failed{tried}: {_on_one_line(error)}. {advice} Running the same command again "
            "goes on where this one stopped."
        ) from error


def _may_pass(error: BaseException) -> bool:
    from httpx import TransportError

    response: Any = getattr(error, "response", None)
    if response is not None:
        return response.status_code in TRANSIENT_STATUS
    # A client that wraps a failed request keeps it as the cause.
    cause = error.__cause__
    return isinstance(error, (TransportError, ConnectionError, TimeoutError)) or (
        cause is not None and _may_pass(cause)
    )


def _backoff(state: RetryCallState) -> float:
    """Seconds to wait: what the server asks for, else exponential with jitter."""
    error = state.outcome.exception() if state.outcome else None
    response: Any = getattr(error, "response", None)
    wanted = response.headers.get("Retry-After", "") if response is not None else ""
    if wanted.isdigit():
        return min(float(wanted), LONGEST_WAIT_SECONDS)
    return wait_random_exponential(multiplier=0.15, max=LONGEST_WAIT_SECONDS)(state)


def _on_one_line(error: BaseException) -> str:
    # Clients that wrap an error say less than what they wrap.
    error = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
    # Messages name addresses and statuses; request headers, where tokens stand, are in none.
    words = " ".join(str(error).split()) or type(error).__name__
    return words[:LONGEST_QUOTE].rstrip(". ")
