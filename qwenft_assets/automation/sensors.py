"""What looks upstream between the scheduled rebuilds, and what starts what follows.

https://docs.dagster.io/guides/automate/sensors
"""

import json
import os

import dagster as dg

from qwenft_assets.assets.upstream import IN_FILES, IN_REPOSITORIES, observation
from qwenft_assets.automation.policies import sources_of_recipes
from qwenft_assets.config import AutomationConfig, Config, SourceName
from qwenft_assets.rebuilds.upstream import survey
from qwenft_assets.resources import ProjectResource
from qwenft_assets.storage.root import ALL


def make_sensors(settings: AutomationConfig) -> list[dg.SensorDefinition]:
    """Two that look upstream, off by default, and the one that evaluates automation conditions."""

    @dg.sensor(
        minimum_interval_seconds=settings.reports_interval_seconds,
        default_status=_status("local_reports_changed", settings),
        description="Observes the sha256 of the local reports file. Another one than before starts a "
        "rebuild of the recipes in automation.recipes that mix it.",
    )
    def local_reports_changed(
        context: dg.SensorEvaluationContext, project: ProjectResource
    ) -> dg.SensorResult:
        return _look_at(context, project, project.config(), IN_FILES)

    @dg.sensor(
        minimum_interval_seconds=settings.hub_interval_seconds,
        default_status=_status("hub_revisions_changed", settings),
        description="Observes the commit of each dataset on the Hub, by one request for each "
        "repository, none while HF_HUB_OFFLINE is set. Another one than before starts a rebuild of "
        "the recipes in automation.recipes; only their sources are looked at.",
    )
    def hub_revisions_changed(
        context: dg.SensorEvaluationContext, project: ProjectResource
    ) -> dg.SensorResult | dg.SkipReason:
        config = project.config()
        if config.sources.origin != "hub":
            return dg.SkipReason(f"sources.origin is {config.sources.origin}: no Hub to ask")
        if os.environ.get("HF_HUB_OFFLINE"):
            return dg.SkipReason("HF_HUB_OFFLINE is set: the Hub is not asked")
        return _look_at(context, project, config, IN_REPOSITORIES)

    automation_conditions = dg.AutomationConditionSensorDefinition(
        "automation_conditions",
        target=dg.AssetSelection.assets("source_sample").downstream(),
        # On from the start: it acts on what a schedule or sensor has seen or sampled.
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=settings.follow_interval_seconds,
        # OfPartitions is a condition of this project.
        use_user_code_server=True,
        description="Starts what follows: the sampling of what changed upstream, and after it mixture, "
        "adapter, evaluation and release, and publishing where publishing.target is set. Follows work "
        "by hand too where automation.switched_on names it.",
    )
    return [local_reports_changed, hub_revisions_changed, automation_conditions]


def _look_at(
    context: dg.SensorEvaluationContext,
    project: ProjectResource,
    config: Config,
    watched: tuple[SourceName, ...],
) -> dg.SensorResult:
    """Observe each place once more where it holds another revision than at the last look."""
    storage = project.storage(config)
    storage.fetch(storage.source_sample(ALL))
    wanted = set(sources_of_recipes(config, config.automation.recipes)).intersection(watched)
    states = survey(config, wanted, storage)
    seen: dict[str, str] = json.loads(context.cursor or "{}")
    found = {s.source: s.upstream for s in states if s.upstream}
    news = {source: revision for source, revision in found.items() if seen.get(source) != revision}
    story = [f"{'unchanged: ' if state.change is None else ''}{state}" for state in states]
    return dg.SensorResult(
        asset_events=[observation(source, revision) for source, revision in news.items()],
        skip_reason=("observed: " if news else "") + ("; ".join(story) or "no recipe mixes it"),
        cursor=json.dumps({**seen, **found}),
    )


def _status(name: str, settings: AutomationConfig) -> dg.DefaultSensorStatus:
    running = name in settings.switched_on
    return dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED
