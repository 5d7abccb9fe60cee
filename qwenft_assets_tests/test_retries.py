"""Which failures are asked again, over real HTTP, and what is said about those that stay."""

from dataclasses import dataclass

import httpx
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from qwenft_assets.retries import ask, describe_failure, may_pass
from qwenft_assets_tests.loopback_server import Answer, Fault, LoopbackServer, serving


@dataclass
class Busy(LoopbackServer):
    """Fails with a status and `Retry-After: 0` so many times."""

    status: int = 503
    failures: int = 0

    def answer(self, request):
        if len(self.requests) <= self.failures:
            return Answer(self.status, {}, {"Retry-After": "0"})
        return Answer(200, "here")


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_busy_or_broken_server_is_asked_until_it_answers(status):
    with serving(Busy(status=status, failures=2)) as server:
        assert ask(lambda: httpx.get(server.url).raise_for_status().json(), 3) == "here"
        assert len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422])
def test_a_refusal_is_final(status):
    with serving(Busy(status=status, failures=9)) as server:
        with pytest.raises(httpx.HTTPStatusError) as failure:
            ask(lambda: httpx.get(server.url).raise_for_status(), 3)
        assert len(server.requests) == 1
    assert describe_failure(failure.value, 3).startswith("failed: Client error '")


def test_after_the_last_attempt_the_failure_is_raised_and_counted():
    with serving(Busy(failures=9)) as server:
        with pytest.raises(httpx.HTTPStatusError) as failure:
            ask(lambda: httpx.get(server.url).raise_for_status(), 2)
        assert len(server.requests) == 2
    assert describe_failure(failure.value, 2).startswith("failed after 2 attempts: Server error '5")


def test_a_cut_connection_is_asked_again():
    with serving(Busy()) as server:
        server.faults.append(Fault("GET /", "lost"))
        assert ask(lambda: httpx.get(server.url).json(), 2) == "here"


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        pytest.param(OfflineModeIsEnabled("off"), False, id="offline"),
        pytest.param(OSError("Consistency check failed: 1 of 2 bytes"), True, id="cut-download"),
        pytest.param(OSError("no space left"), False, id="full-disk"),
        pytest.param(LocalEntryNotFoundError("x"), False, id="not-there"),
        pytest.param(
            caused(LocalEntryNotFoundError("x"), httpx.ConnectError("refused")),
            True,
            id="hidden-behind-a-missing-entry",
        ),
        pytest.param(
            caused(RuntimeError("upload failed"), httpx.ReadTimeout("slow")), True, id="wrapped"
        ),
    ],
)
def test_errors_of_the_clients(error, passes):
    assert may_pass(error) is passes


def test_a_wrapping_error_is_quoted_by_what_it_wraps_on_one_line():
    error = caused(RuntimeError("upload failed"), httpx.ReadTimeout("no\nanswer. "))
    assert describe_failure(error, 5) == "failed after 5 attempts: no answer"
