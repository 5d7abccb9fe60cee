"""One notice for each rebuild that fails: in the log, and at a webhook if one is configured."""

import json
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import inf
from urllib.parse import urlsplit

import dagster as dg

from qwenft_assets.assets.reporting import REBUILD_TAG
from qwenft_assets.automation.jobs import job_of, partitions_of
from qwenft_assets.config import RECIPE_NAMES, AutomationConfig
from qwenft_assets.errors import QwenftError
from qwenft_assets.release.registry import read_champion
from qwenft_assets.resources import ProjectResource
from qwenft_assets.storage.root import ALL

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
    """The step's message, on one line."""
    rebuild: str
    """The schedule's tick that began it; empty for any other run."""
    champion: str
    """The champions that go on serving."""

    def __str__(self) -> str:
        return (
            f"{self.job} {self.partition} failed: {self.reason} Champion: {self.champion}. Run "
            f"{self.run_id}."
        )


def make_failure_sensor(settings: AutomationConfig) -> dg.SensorDefinition:
    """The sensor that reports failed runs; on from the start."""

    @dg.run_failure_sensor(
        minimum_interval_seconds=settings.follow_interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Reports a failed run, once for each rebuild: in the log, and at the webhook whose "
        "URL is in QWENFT_WEBHOOK_URL (automation.webhook_variable names another variable).",
    )
    def report_failure(
        context: dg.RunFailureSensorContext, project: ProjectResource
    ) -> dg.SkipReason | None:
        rebuild = context.dagster_run.tags.get(REBUILD_TAG, "")
        if rebuild and _failed_before(context.instance, context.dagster_run, rebuild):
            return dg.SkipReason(f"{rebuild}: its failure was reported before")
        try:
            config = project.config()
            variable, champion = config.automation.webhook_variable, _champions(project)
        except QwenftError as error:  # a broken config is reported like any other failure
            variable, champion = "QWENFT_WEBHOOK_URL", f"unknown ({error})"
        notice = FailureNotice(
            job=job_of(context.dagster_run),
            partition=partitions_of(context.dagster_run),
            run_id=context.dagster_run.run_id,
            reason=without_secrets(" ".join(_reason(context).split())),
            rebuild=rebuild,
            champion=champion,
        )
        context.log.error("%s", notice)
        if url := os.environ.get(variable):
            post(notice, url, context.log)
        return None

    return report_failure


def post(notice: FailureNotice, url: str, log: logging.Logger) -> None:
    """Send the notice as JSON: `text`, which chat services show, and the fields by name.

    An error is logged, without the URL, which may hold a secret.
    """
    body = json.dumps({"text": f"qwenft: {notice}", **asdict(notice)}).encode()
    if urlsplit(url).scheme not in {"http", "https"}:
        log.error("the webhook's URL is neither http nor https; nothing was sent")
        return
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, body, headers)  # noqa: S310  (checked above)
    try:
        with urllib.request.urlopen(request, timeout=WEBHOOK_TIMEOUT_SECONDS):  # noqa: S310
            pass
    except (OSError, ValueError) as error:
        status = error.code if isinstance(error, urllib.error.HTTPError) else type(error).__name__
        host = urlsplit(url).hostname
        # A traceback could show the URL.
        log.error("webhook at %s: %s; the notice was not delivered", host, status)  # noqa: TRY400


def without_secrets(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """The text with the value of every variable that looks like a secret replaced by `***`."""
    secrets = {
        value
        for name, value in environment.items()
        if any(word in name.upper() for word in SECRET_WORDS) and len(value) >= SHORTEST_SECRET
    }
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _reason(context: dg.RunFailureSensorContext) -> str:
    """The message of the first failed step that has one, or else the run's."""
    for event in context.get_step_failure_events():
        failure = getattr(event.event_specific_data, "user_failure_data", None)
        if failure is not None and failure.description:
            return failure.description
    return context.failure_event.message or "no reason"


def _failed_before(instance: dg.DagsterInstance, run: dg.DagsterRun, rebuild: str) -> bool:
    """Whether another run of the same rebuild failed before this one."""
    failed = dg.RunsFilter(tags={REBUILD_TAG: rebuild}, statuses=[dg.DagsterRunStatus.FAILURE])
    records = instance.get_run_records(failed)
    in_order = [(record.end_time or inf, record.dagster_run.run_id) for record in records]
    return bool(in_order) and min(in_order)[1] != run.run_id


def _champions(project: ProjectResource) -> str:
    """The champion of each recipe that has one."""
    config = project.config()
    storage = project.storage(config)
    storage.fetch(storage.release(ALL))
    found = {recipe: read_champion(storage, recipe) for recipe in RECIPE_NAMES}
    named = [f"{recipe} {champion.version}" for recipe, champion in found.items() if champion]
    return ", ".join(named) or "none yet"
