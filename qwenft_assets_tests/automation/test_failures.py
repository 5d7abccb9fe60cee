"""The notice of a failure: sent over real HTTP, and never with a secret in it."""

import logging

import pytest

from qwenft_assets.automation.failures import FailureNotice, post, without_secrets
from qwenft_assets_tests.loopback_server import Answer, Fault, LoopbackServer, Request, serving

NOTICE = FailureNotice(
    job="sources_job",
    partition="slimorca",
    run_id="0f1e",
    reason="slimorca: the Hub failed.",
    rebuild="rebuild_small/2026-11-30T03:00",
    champion="small aaaa",
)


class Webhook(LoopbackServer):
    def answer(self, request: Request) -> Answer:
        return Answer(200, {})


def send(url, caplog):
    post(NOTICE, url, logging.getLogger("test_failures"))
    return caplog.text


def test_the_webhook_is_sent_text_and_fields(caplog):
    with serving(Webhook()) as webhook:
        send(f"{webhook.url}/secret-path", caplog)
    (request,) = webhook.requests
    assert str(request) == "POST /secret-path"
    assert request.json["text"] == (
        "qwenft: sources_job slimorca failed: slimorca: the Hub failed. Champion: small aaaa. "
        "Run 0f1e."
    )
    assert request.json["rebuild"] == "rebuild_small/2026-11-30T03:00"


@pytest.mark.parametrize("kind", [404, 500], ids=["gone", "broken"])
def test_a_webhook_that_says_no_is_logged_without_its_url(caplog, kind):
    with serving(Webhook(faults=[Fault("POST", kind)])) as webhook:
        text = send(f"{webhook.url}/secret-path", caplog)
    assert f"webhook at 127.0.0.1: {kind}; the notice was not delivered" in text
    assert "secret-path" not in text


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/secret-path", "file:///secret-path", "secret-path"]
)
def test_a_webhook_that_cannot_be_reached_is_logged_without_its_url(caplog, url):
    text = send(url, caplog)
    assert "secret-path" not in text
    assert "webhook" in text


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        pytest.param("HF_TOKEN", "asked with *** and failed", id="token"),
        pytest.param("QWENFT_WEBHOOK_URL", "asked with *** and failed", id="webhook"),
        pytest.param("EDITOR", "asked with abcdef123 and failed", id="no-secret"),
    ],
)
def test_values_of_secret_variables_are_taken_out(variable, expected):
    text = "asked with abcdef123 and failed"
    assert without_secrets(text, {variable: "abcdef123"}) == expected


def test_a_value_too_short_to_be_a_secret_stays():
    assert without_secrets("a 1 and a 2", {"SOME_TOKEN": "a"}) == "a 1 and a 2"
