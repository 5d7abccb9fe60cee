"""What looks for news between the scheduled rebuilds, and what carries a rebuild on.

https://docs.dagster.io/guides/automate/sensors
"""

import json
import os
from datetime import UTC, datetime

import dagster as dg

from qwenft_assets.automation.jobs import finetune_job, publish_job, sources_job
from qwenft_assets.automation.requests import (
    PARTITION_TAG,
    REBUILD_TAG,
    RECIPES_TAG,
    following_request,
    run_under_way,
    sampling_requests,
    what_waits,
)
from qwenft_assets.config import SOURCE_NAMES, AutomationConfig, Config, RecipeName, SourceName
from qwenft_assets.rebuilds.upstream import SourceState, source_state, sources_of_recipe
from qwenft_assets.resources import ProjectResource
from qwenft_assets.sources.registry import repositories
from qwenft_assets.storage.files import read_json
from qwenft_assets.storage.root import ALL, Storage


def make_sensors(settings: AutomationConfig) -> list[dg.SensorDefinition]:
    """Three that look for news, off by default, and the one that carries rebuilds on."""
    return [
        _local_reports_changed(settings),
        _hub_revisions_changed(settings),
        _automation_conditions(settings),
        _continue_rebuild(settings),
    ]


def _local_reports_changed(settings: AutomationConfig) -> dg.SensorDefinition:
    @dg.sensor(
        name="local_reports_changed",
        job=sources_job,
        minimum_interval_seconds=settings.reports_interval_seconds,
        default_status=_status("local_reports_changed", settings),
        description="Starts a rebuild when the sha256 of the local reports file is not that of its "
        "sample. Rebuilds the recipes in automation.recipes that mix it.",
    )
    def local_reports_changed(
        context: dg.SensorEvaluationContext, project: ProjectResource
    ) -> dg.SensorResult | dg.SkipReason:
        config = project.config()
        return _look_at(context, config, project.storage(config), ["local_reports"])

    return local_reports_changed


def _hub_revisions_changed(settings: AutomationConfig) -> dg.SensorDefinition:
    @dg.sensor(
        name="hub_revisions_changed",
        job=sources_job,
        minimum_interval_seconds=settings.hub_interval_seconds,
        default_status=_status("hub_revisions_changed", settings),
        description="Starts a rebuild when a dataset on the Hub has another commit than its sample: "
        "one request for each repository, none while HF_HUB_OFFLINE is set. Looks at the sources of "
        "automation.recipes only.",
    )
    def hub_revisions_changed(
        context: dg.SensorEvaluationContext, project: ProjectResource
    ) -> dg.SensorResult | dg.SkipReason:
        config = project.config()
        if config.sources.origin != "hub":
            return dg.SkipReason(f"sources.origin is {config.sources.origin}: no Hub to ask")
        if os.environ.get("HF_HUB_OFFLINE"):
            return dg.SkipReason("HF_HUB_OFFLINE is set: the Hub is not asked")
        return _look_at(context, config, project.storage(config), list(repositories()))

    return hub_revisions_changed


def _automation_conditions(settings: AutomationConfig) -> dg.SensorDefinition:
    return dg.AutomationConditionSensorDefinition(
        "automation_conditions",
        target=dg.AssetSelection.assets("mixed_dataset").downstream()
        - dg.AssetSelection.assets("published_adapter"),
        default_status=_status("automation_conditions", settings),
        minimum_interval_seconds=settings.follow_interval_seconds,
        # RecipeSwitchedOn is a condition of this project.
        use_user_code_server=True,
        description="Builds what depends on a changed data version, of the recipes in "
        "automation.recipes. For work by hand: materialize a source, and the rest follows. The "
        "schedules do without it.",
    )


def _continue_rebuild(settings: AutomationConfig) -> dg.SensorDefinition:
    @dg.run_status_sensor(
        name="continue_rebuild",
        run_status=dg.DagsterRunStatus.SUCCESS,
        monitored_jobs=[sources_job, finetune_job],
        request_jobs=[finetune_job, publish_job],
        minimum_interval_seconds=settings.follow_interval_seconds,
        # On from the start: it acts on runs of a rebuild only, which something else has to start.
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Carries a rebuild on: when all its sources are sampled, mixture to release of "
        "each recipe; after a release, its publishing where publishing.target is set.",
    )
    def continue_rebuild(
        context: dg.RunStatusSensorContext, project: ProjectResource
    ) -> list[dg.RunRequest] | dg.SkipReason:
        return _next_runs(context, project)

    return continue_rebuild


def _next_runs(
    context: dg.RunStatusSensorContext, project: ProjectResource
) -> list[dg.RunRequest] | dg.SkipReason:
    """The next runs of the rebuild that a finished run belongs to."""
    run = context.dagster_run
    rebuild = run.tags.get(REBUILD_TAG)
    if rebuild is None:
        return dg.SkipReason(f"{run.job_name} {run.run_id} is no part of a rebuild")
    if run.job_name == finetune_job.name:
        if project.config().publishing.target is None:
            return dg.SkipReason(f"{rebuild} is complete; publishing.target is null")
        return [following_request(run, publish_job.name, run.tags[PARTITION_TAG])]
    waiting = what_waits(context.instance, rebuild)
    if waiting is not None:
        return dg.SkipReason(f"{rebuild} waits: {waiting}")
    recipes = run.tags[RECIPES_TAG].split(",")
    return [following_request(run, finetune_job.name, recipe) for recipe in recipes]


def _look_at(
    context: dg.SensorEvaluationContext,
    config: Config,
    storage: Storage,
    watched: list[SourceName],
) -> dg.SensorResult | dg.SkipReason:
    """Request what changed and was not requested before; the cursor keeps the revisions requested.

    So a revision that fails is tried once here, and again by the scheduled rebuild.
    """
    mixed = _recipes_by_source(config)
    storage.fetch(storage.source_sample(ALL))
    names: list[SourceName] = [
        name
        for name in SOURCE_NAMES
        if name in watched and name in mixed and _sampled(storage, name)
    ]
    if not names:
        return dg.SkipReason(
            "nothing sampled yet: the first build is started by rebuild_small or by hand"
        )
    seen = dict[tuple[str, str | None], str]()
    states = [source_state(config, name, storage, seen) for name in names]
    asked: dict[str, str] = json.loads(context.cursor or "{}")
    due = [s for s in states if s.change and s.upstream and asked.get(s.source) != s.upstream]
    if not due:
        return dg.SkipReason("; ".join(_as_skipped(state, asked) for state in states))
    recipes: list[RecipeName] = [
        recipe
        for recipe in config.automation.recipes
        if any(recipe in mixed[state.source] for state in due)
    ]
    busy = next(filter(None, (run_under_way(context.instance, recipe) for recipe in recipes)), None)
    if busy is not None:
        return dg.SkipReason(
            f"waits for {busy.job_name} {busy.run_id}, which is {busy.status.value}"
        )
    revisions = {state.source: str(state.upstream) for state in due}
    # With the time: a file that is changed and changed back is asked for again.
    rebuild = f"{context.sensor_name}/{datetime.now(tz=UTC).isoformat(timespec='seconds')}"
    why = "; ".join(str(state) for state in due)
    return dg.SensorResult(
        run_requests=sampling_requests(due, recipes, rebuild, why),
        cursor=json.dumps({**asked, **revisions}),
    )


def _as_skipped(state: SourceState, asked: dict[str, str]) -> str:
    if state.upstream and state.change and asked.get(state.source) == state.upstream:
        return f"{state}, requested before"
    return f"unchanged: {state}" if state.change is None else str(state)


def _recipes_by_source(config: Config) -> dict[SourceName, list[RecipeName]]:
    """The sources of the recipes that sensors may rebuild."""
    found = dict[SourceName, list[RecipeName]]()
    for recipe in config.automation.recipes:
        if recipe in config.mixture.recipes:
            for source in sources_of_recipe(config, recipe):
                found.setdefault(source, []).append(recipe)
    return found


def _sampled(storage: Storage, source: SourceName) -> bool:
    return read_json(storage.source_sample(source) / "manifest.json") is not None


def _status(name: str, settings: AutomationConfig) -> dg.DefaultSensorStatus:
    running = name in settings.switched_on
    return dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED
