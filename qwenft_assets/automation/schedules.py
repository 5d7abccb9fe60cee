"""When each recipe is rebuilt if its inputs changed. Off until switched on.

A tick looks at all that decides a recipe: upstream, settings, damaged files, what failed before. It
requests the sampling; the mixture and what comes after it follow by automation condition.
https://docs.dagster.io/guides/automate/schedules
"""

from collections.abc import Collection, Sequence

import dagster as dg

from qwenft_assets.assets.reporting import LONGEST_TAG, REBUILD_TAG, WHY_TAG, newest
from qwenft_assets.automation.jobs import FIRST_TAG, LAST_TAG, job_of, partitions_of, sources_job
from qwenft_assets.config import AutomationConfig, RecipeName, SourceName
from qwenft_assets.rebuilds.recipes import standing
from qwenft_assets.rebuilds.upstream import contiguous, sources_of_recipe, survey
from qwenft_assets.resources import ProjectResource

FINISHED = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}


def make_schedules(settings: AutomationConfig) -> list[dg.ScheduleDefinition]:
    """The weekly rebuild of `small` and the monthly one of `large`."""
    return [
        _rebuild_schedule("small", settings.rebuild_small_cron, settings),
        _rebuild_schedule("large", settings.rebuild_large_cron, settings),
    ]


def _rebuild_schedule(
    recipe: RecipeName, cron: str, settings: AutomationConfig
) -> dg.ScheduleDefinition:
    name = f"rebuild_{recipe}"

    @dg.schedule(
        name=name,
        job=sources_job,
        cron_schedule=cron,
        execution_timezone=settings.time_zone,
        default_status=dg.DefaultScheduleStatus.RUNNING
        if name in settings.switched_on
        else dg.DefaultScheduleStatus.STOPPED,
        description=f"Rebuilds {recipe} if its inputs changed: sources, then mixture, adapter, "
        "evaluation and release. A tick that finds nothing new is skipped and says which versions "
        "were equal.",
    )
    def rebuild(
        context: dg.ScheduleEvaluationContext, project: ProjectResource
    ) -> list[dg.RunRequest] | dg.SkipReason:
        config = project.config()
        storage = project.storage(config)
        if recipe not in config.mixture.recipes:
            return dg.SkipReason(f"config {config.name} has no recipe {recipe}")
        sources = sources_of_recipe(config, recipe)
        busy = _run_under_way(context.instance, {recipe, *sources})
        if busy is not None:
            return dg.SkipReason(f"{busy}: not twice")
        storage.fetch_overview()
        states = survey(config, sources, storage)
        changed = [state for state in states if state.change]
        due = [s.source for s in states if s.change or not _is_recorded(context.instance, s.source)]
        why = "; ".join(str(state) for state in changed)
        if not changed:
            stands = standing(config, recipe, storage)
            equal = "; ".join(str(state) for state in states)
            if stands.due is None:
                confirm_unchanged(context.instance, sources, recipe)
                return dg.SkipReason(f"nothing changed: {equal}; {stands}")
            why = f"no source changed, but {stands.due}"
            context.log.info("equal: %s; %s", equal, stands)
            due = sources
        else:
            # One that failed together with others must not hold the mixture back for ever.
            confirm_unchanged(context.instance, [s.source for s in states if not s.change])
        key = f"{name}/{context.scheduled_execution_time:%Y-%m-%dT%H:%M}"
        tags = {REBUILD_TAG: key, WHY_TAG: why[:LONGEST_TAG]}
        # If no source changed, all are sampled: each reports itself unchanged, the mixture follows.
        return [
            dg.RunRequest(run_key=f"{key}/{first}", tags={**tags, FIRST_TAG: first, LAST_TAG: last})
            for first, last in contiguous(due)
        ]

    return rebuild


def _is_recorded(instance: dg.DagsterInstance, source: SourceName) -> bool:
    """Whether this instance has seen the sample made: the mixture waits for what it has never seen."""
    return newest(instance, dg.AssetKey("source_sample"), source) is not None


def _run_under_way(instance: dg.DagsterInstance, partitions: Collection[str]) -> str | None:
    """A sentence about a queued or running run of one of the partitions; None if there is none."""
    unfinished = [status for status in dg.DagsterRunStatus if status not in FINISHED]
    for run in instance.get_runs(dg.RunsFilter(statuses=unfinished)):
        if partitions_of(run).split("...")[0] in partitions:
            return f"{job_of(run)} {run.run_id} is {run.status.value}"
    return None


def confirm_unchanged(
    instance: dg.DagsterInstance, sources: Sequence[SourceName], recipe: RecipeName | None = None
) -> None:
    """Report samples, and a recipe's champion, again as they are, so that they do not become overdue.

    It leaves the same events as a run that finds everything unchanged, without the run.
    """
    stands: list[tuple[str, str]] = [("source_sample", source) for source in sources]
    if recipe is not None:
        stands.append(("release", recipe))
    for asset, partition in stands:
        record = newest(instance, dg.AssetKey(asset), partition)
        last = record.asset_materialization if record else None
        if last is not None:
            version = (last.tags or {}).get("dagster/data_version")
            instance.report_runless_asset_event(
                dg.AssetMaterialization(
                    asset_key=asset,
                    partition=partition,
                    description="checked by a schedule: unchanged",
                    metadata={**last.metadata, "unchanged": True},
                    tags={"dagster/data_version": version} if version else {},
                )
            )
