"""When each recipe is rebuilt if its inputs changed. Off until switched on.

https://docs.dagster.io/guides/automate/schedules
"""

import dagster as dg

from qwenft_assets.automation.confirmation import confirm_unchanged
from qwenft_assets.automation.jobs import sources_job
from qwenft_assets.automation.requests import run_under_way, sampling_requests
from qwenft_assets.config import AutomationConfig, RecipeName
from qwenft_assets.rebuilds.standing import standing
from qwenft_assets.rebuilds.upstream import sources_of_recipe, survey
from qwenft_assets.resources import ProjectResource


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
        return _tick(context, project, recipe)

    return rebuild


def _tick(
    context: dg.ScheduleEvaluationContext, project: ProjectResource, recipe: RecipeName
) -> list[dg.RunRequest] | dg.SkipReason:
    config = project.config()
    storage = project.storage(config)
    if recipe not in config.mixture.recipes:
        return dg.SkipReason(f"config {config.name} has no recipe {recipe}")
    busy = run_under_way(context.instance, recipe)
    if busy is not None:
        return dg.SkipReason(f"{busy.job_name} {busy.run_id} is {busy.status.value}: not twice")
    storage.fetch_overview()
    states = survey(config, sources_of_recipe(config, recipe), storage)
    changed = [state for state in states if state.change]
    why = "; ".join(str(state) for state in changed)
    if not changed:
        stands = standing(config, recipe, storage)
        equal = "; ".join(str(state) for state in states)
        if stands.due is None:
            confirm_unchanged(context.instance, [state.source for state in states], recipe)
            return dg.SkipReason(f"nothing changed: {equal}; {stands}")
        why = f"no source changed, but {stands.due}"
        context.log.info("equal: %s; %s", equal, stands)
    when = context.scheduled_execution_time.strftime("%Y-%m-%dT%H:%M")
    # Where none changed, all of them: each says that it is unchanged, and the mixture follows.
    return sampling_requests(changed or states, [recipe], f"rebuild_{recipe}/{when}", why)
