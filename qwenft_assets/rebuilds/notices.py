"""Telling a person that a rebuild failed: by the log, and by a webhook where one is configured."""

from __future__ import annotations

import json
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Protocol
from urllib.parse import urlsplit

WEBHOOK_TIMEOUT_SECONDS = 10
SECRET_WORDS = ("TOKEN", "SECRET", "PASSWORD", "API_KEY", "APIKEY", "WEBHOOK", "POSTGRES_URL")
SHORTEST_SECRET = 6
"""A shorter value would be found in ordinary words."""


@dataclass(frozen=True)
class FailureNotice:
    """One failed run of a rebuild."""

    job: str
    partition: str
    run_id: str
    reason: str
    """One line: the step's message."""
    rebuild: str
    """What started it, and when; empty for a run by hand."""
    champion: str
    """Who goes on serving."""

    def __str__(self) -> str:
        return (
            f"{self.job} {self.partition} failed: {self.reason} Champion: {self.champion}. Run "
            f"{self.run_id}."
        )


class Notifier(Protocol):
    """One way to tell a person."""

    def notify(self, notice: FailureNotice) -> None:
        """Tell of one failure; does not raise when the way is blocked."""
        ...


class LogNotifier:
    """Writes the notice as an error to a log."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log

    def notify(self, notice: FailureNotice) -> None:
        """Write it."""
        self._log.error("%s", notice)


class WebhookNotifier:
    """Posts the notice as JSON: `text`, which chat services show, and the fields by name."""

    def __init__(self, url: str, log: logging.Logger) -> None:
        self._url, self._log = url, log

    def notify(self, notice: FailureNotice) -> None:
        """Post it; what goes wrong is logged without the URL, which may hold a secret."""
        body = json.dumps({"text": f"qwenft: {notice}", **asdict(notice)}).encode()
        host = urlsplit(self._url).hostname
        if urlsplit(self._url).scheme not in {"http", "https"}:
            self._log.error("the webhook's URL is neither http nor https; nothing was sent")
            return
        request = urllib.request.Request(  # noqa: S310  (checked above)
            self._url, body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=WEBHOOK_TIMEOUT_SECONDS):  # noqa: S310
                pass
        except (OSError, ValueError) as error:
            status = (
                error.code if isinstance(error, urllib.error.HTTPError) else type(error).__name__
            )
            self._log.error("webhook at %s: %s; the notice was not delivered", host, status)


def notifiers(
    webhook_variable: str, log: logging.Logger, environment: Mapping[str, str] = os.environ
) -> list[Notifier]:
    """The log, and the webhook whose URL the variable holds."""
    url = environment.get(webhook_variable)
    ways: list[Notifier] = [LogNotifier(log)]
    return [*ways, WebhookNotifier(url, log)] if url else ways


def without_secrets(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """The text with the value of every variable that looks like a secret taken out."""
    secrets = {
        value
        for name, value in environment.items()
        if any(word in name.upper() for word in SECRET_WORDS) and len(value) >= SHORTEST_SECRET
    }
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
