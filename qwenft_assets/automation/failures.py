"""One notice for each rebuild that fails. What a notice says, and where it goes: rebuilds/notices.py."""

import dagster as dg

from qwenft_assets.assets.reporting import REBUILD_TAG
from qwenft_assets.automation.requests import job_of, partitions_of
from qwenft_assets.config import RECIPE_NAMES, AutomationConfig
from qwenft_assets.errors import QwenftError
from qwenft_assets.rebuilds.notices import FailureNotice, notifiers, without_secrets
from qwenft_assets.release.registry import read_champion
from qwenft_assets.resources import ProjectResource
from qwenft_assets.storage.root import ALL


def make_failure_sensor(settings: AutomationConfig) -> dg.SensorDefinition:
    """The sensor that tells of failed runs; on from the start."""

    @dg.run_failure_sensor(
        minimum_interval_seconds=settings.follow_interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells of a failed run, once for each rebuild: in the log, and at the webhook whose "
        "URL stands in QWENFT_WEBHOOK_URL (automation.webhook_variable names another variable).",
    )
    def report_failure(
        context: dg.RunFailureSensorContext, project: ProjectResource
    ) -> dg.SkipReason | None:
        return _tell(context, project)

    return report_failure


def _tell(context: dg.RunFailureSensorContext, project: ProjectResource) -> dg.SkipReason | None:
    """Tell of the failed run, unless an earlier failure of the same rebuild was told."""
    run = context.dagster_run
    rebuild = run.tags.get(REBUILD_TAG, "")
    if rebuild and _is_told(context.instance, run, rebuild):
        return dg.SkipReason(f"{rebuild}: its failure was told before")
    reasons = [
        event.event_specific_data.user_failure_data.description  # type: ignore[union-attr]
        for event in context.get_step_failure_events()
        if getattr(event.event_specific_data, "user_failure_data", None)
    ]
    reason = next((r for r in reasons if r), None) or context.failure_event.message or "no reason"
    try:
        config = project.config()
        variable, champion = config.automation.webhook_variable, _champions(project)
    except QwenftError as error:  # a broken config is told like any other failure
        variable, champion = "QWENFT_WEBHOOK_URL", f"unknown ({error})"
    notice = FailureNotice(
        job=job_of(run),
        partition=partitions_of(run),
        run_id=run.run_id,
        reason=without_secrets(" ".join(reason.split())),
        rebuild=rebuild,
        champion=champion,
    )
    for way in notifiers(variable, context.log):
        way.notify(notice)
    return None


def _is_told(instance: dg.DagsterInstance, run: dg.DagsterRun, rebuild: str) -> bool:
    """Whether another run of the same rebuild failed before this one."""
    failed = dg.RunsFilter(tags={REBUILD_TAG: rebuild}, statuses=[dg.DagsterRunStatus.FAILURE])
    ended = {
        record.dagster_run.run_id: record.end_time for record in instance.get_run_records(failed)
    }
    own = ended.get(run.run_id) or float("inf")
    return any(
        (end or 0, run_id) < (own, run.run_id)
        for run_id, end in ended.items()
        if run_id != run.run_id
    )


def _champions(project: ProjectResource) -> str:
    """Who serves each recipe."""
    config = project.config()
    storage = project.storage(config)
    storage.fetch(storage.release(ALL))
    found = {recipe: read_champion(storage, recipe) for recipe in RECIPE_NAMES}
    named = [f"{recipe} {champion.version}" for recipe, champion in found.items() if champion]
    return ", ".join(named) or "none yet"
