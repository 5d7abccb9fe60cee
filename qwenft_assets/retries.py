"""Asking a server again where that may help: it is busy or broken, or the connection was cut."""

from collections.abc import Callable
from typing import Any, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_random_exponential

LONGEST_WAIT_SECONDS = 30.0
LONGEST_QUOTE = 200
"""Characters of an error message of a client."""
TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})

Answer = TypeVar("Answer")


def ask(
    request: Callable[[], Answer],
    attempts: int,
    worth_another: Callable[[BaseException], bool] | None = None,
) -> Answer:
    """The answer to a request that may be sent more than once without harm.

    Waits between attempts as long as the server asks for, else exponentially longer with jitter.

    Args:
        request: Sends it and returns the answer.
        attempts: At most.
        worth_another: Whether asking again may help after an error; None: `may_pass`.

    Raises:
        Exception: What the last attempt raised; at once where another would not help.
    """
    retrying = Retrying(
        retry=retry_if_exception(worth_another or may_pass),
        wait=_backoff,
        stop=stop_after_attempt(attempts),
        reraise=True,
    )
    return retrying(request)


def may_pass(error: BaseException) -> bool:
    """Whether asking again may help: a busy or broken server, a connection that was cut."""
    from httpx import TransportError
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return False
    response: Any = getattr(error, "response", None)
    if response is not None:
        return response.status_code in TRANSIENT_STATUS
    cut_off = isinstance(error, OSError) and "consistency check" in str(error).lower()
    if cut_off or isinstance(error, (TransportError, ConnectionError, TimeoutError)):
        return True
    # Clients hide a failed request behind an error of their own.
    return error.__cause__ is not None and may_pass(error.__cause__)


def describe_failure(error: BaseException, attempts: int) -> str:
    """`failed after 5 attempts: ...`, or `failed: ...` where one was enough, on one line.

    Messages name addresses and statuses; request headers, where tokens stand, are in none.
    """
    tried = f" after {attempts} attempts" if may_pass(error) else ""
    # These say less than what they wrap.
    wraps = isinstance(error, (FileNotFoundError, RuntimeError)) and error.__cause__
    said = error.__cause__ if wraps else error
    words = " ".join(str(said).split()) or type(said).__name__
    return f"failed{tried}: {words[:LONGEST_QUOTE].rstrip('. ')}"


def _backoff(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    response: Any = getattr(error, "response", None)
    wanted = getattr(response, "headers", {}).get("Retry-After", "")
    if wanted.isdigit():
        return min(float(wanted), LONGEST_WAIT_SECONDS)
    return wait_random_exponential(multiplier=0.15, max=LONGEST_WAIT_SECONDS)(state)
