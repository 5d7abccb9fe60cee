"""When an asset follows its data by itself, and when it counts as overdue.

What is new upstream starts `source_sample`; what a schedule or a condition has sampled starts the
recipe's chain from `mixed_dataset` on, as one run. Work by hand starts nothing, unless the config
switches `automation_conditions` on.
https://docs.dagster.io/guides/automate/declarative-automation
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import dagster as dg
from dagster import AutomationCondition as Condition

from qwenft_assets.assets.reporting import newest
from qwenft_assets.assets.upstream import upstream_key
from qwenft_assets.config import RECIPE_NAMES, AutomationConfig, Config, SourceName
from qwenft_assets.rebuilds.upstream import sources_of_recipe

BY_CONDITION = "dagster/from_automation_condition"
BY_SCHEDULE = "dagster/schedule_name"
"""Dagster's own tags of the runs that it starts."""
DATED = ("source_sample", "release")


def with_policies(
    assets: Sequence[dg.AssetsDefinition], config: Config
) -> list[dg.AssetsDefinition]:
    """The assets with conditions, freshness policies and partition mappings as the config asks."""
    conditions, freshness = _conditions(config), _freshness(config.automation)

    def with_its_policies(spec: dg.AssetSpec) -> dg.AssetSpec:
        name = spec.key.to_user_string()
        return spec.replace_attributes(
            automation_condition=conditions.get(name),
            freshness_policy=freshness if name in DATED else None,
            deps=[_from_its_sources(config)] if name == "mixed_dataset" else spec.deps,
        )

    return [asset.map_asset_specs(with_its_policies) for asset in assets]


def sources_of_recipes(config: Config, recipes: Sequence[str]) -> dict[SourceName, list[str]]:
    """The sources that are mixed, each with those of the recipes that mix it."""
    found = dict[SourceName, list[str]]()
    for recipe in config.mixture.recipes:
        if recipe in recipes:
            for source in sources_of_recipe(config, recipe):
                found.setdefault(source, []).append(recipe)
    return found


class PartitionCondition(Condition[dg.AssetKey]):
    """A condition of this project's own, decided for one partition at a time."""

    def holds(self, context: dg.AutomationContext, partition: str) -> bool:
        """Whether it holds for the partition."""
        raise NotImplementedError

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult[dg.AssetKey]:
        """The candidates for which it holds."""
        candidates = context.candidate_subset
        keys = candidates.expensively_compute_partition_keys()
        held = {key for key in keys if self.holds(context, key)}
        true_subset = candidates.compute_intersection_with_partition_keys(held)
        return dg.AutomationResult(context, true_subset=true_subset)


@dataclass(frozen=True)
class OfPartitions(PartitionCondition):
    """Holds for the named partitions: `large`, say, is no recipe of automation.recipes by default."""

    partitions: tuple[str, ...]

    @property
    def name(self) -> str:
        """The label in the web UI."""
        return f"partition is one of: {', '.join(self.partitions) or 'none'}"

    def holds(self, context: dg.AutomationContext, partition: str) -> bool:  # noqa: ARG002
        """Whether the partition is named."""
        return partition in self.partitions


@dataclass(frozen=True)
class MadeByRunWith(PartitionCondition):
    """Holds for partitions whose last materialization was made by a run with this tag.

    Dagster's own `executed_with_tags` only looks at the partition of an asset that was made last.
    """

    tag: str

    @property
    def name(self) -> str:
        """The label in the web UI."""
        return f"made by a run with {self.tag}"

    def holds(self, context: dg.AutomationContext, partition: str) -> bool:
        """Whether the run has the tag."""
        instance = context.asset_graph_view.instance
        record = newest(instance, context.key, partition)
        run = instance.get_run_by_id(record.run_id) if record else None
        return run is not None and self.tag in run.tags


@dataclass(frozen=True)
class BehindUpstream(PartitionCondition):
    """Holds for sources of which another revision was observed than their sample was read from.

    A sampling reports what it reads, which is news to the condition but nothing to sample again.
    """

    @property
    def name(self) -> str:
        """The label in the web UI."""
        return "the sample was read from another revision"

    def holds(self, context: dg.AutomationContext, partition: str) -> bool:
        """Whether the last observation and the last sample name different revisions."""
        instance = context.asset_graph_view.instance
        place = dg.AssetRecordsFilter(upstream_key(partition), asset_partitions=[partition])
        seen = next(iter(instance.fetch_observations(place, limit=1).records), None)
        made = newest(instance, context.key, partition)
        observed = seen.asset_observation if seen else None
        sampled = made.asset_materialization if made else None
        if observed is None or sampled is None or "revision" not in sampled.metadata:
            return True
        return observed.tags["dagster/data_version"] != str(sampled.metadata["revision"].value)


def _from_its_sources(config: Config) -> dg.AssetDep:
    """A recipe follows from the samples that it mixes, whatever becomes of the others."""
    recipes = sources_of_recipes(config, RECIPE_NAMES)
    return dg.AssetDep("source_sample", partition_mapping=dg.StaticPartitionMapping(recipes))


def _conditions(config: Config) -> dict[str, Condition[Any]]:
    """The condition of each asset that follows its data."""
    settings = config.automation
    chain = ["lora_adapter", "evaluation", "release"]
    if config.publishing.target is not None:
        chain.append("published_adapter")
    follows: Condition[Any] = Condition.any_deps_match(Condition.will_be_requested())
    mixture = _sampled_by_automation(settings)
    if "automation_conditions" in settings.switched_on:
        follows |= _anything_new(settings).since_last_handled() & _nothing_under_way()
        mixture |= _anything_new(settings)
    return {
        "source_sample": _new_upstream(config),
        "mixed_dataset": mixture.since_last_handled() & _nothing_under_way(),
        **dict.fromkeys(chain, follows),
    }


def _new_upstream(config: Config) -> Condition[Any]:
    """Another data version of what a sample was read from, while no mixture is read from it."""
    news: Condition[Any] = Condition.any_deps_match(Condition.data_version_changed())
    return (
        news.since_last_handled()
        & OfPartitions(tuple(sources_of_recipes(config, config.automation.recipes)))
        & BehindUpstream()
        # The first build is started by a schedule or by hand.
        & ~Condition.missing()
        & ~Condition.in_progress()
        & ~Condition.asset_matches("mixed_dataset", Condition.in_progress())
    )


def _sampled_by_automation(settings: AutomationConfig) -> Condition[Any]:
    """A sample that a schedule of the recipe has made, or another data version by a condition."""
    condition: Condition[Any] = OfPartitions(settings.recipes) & Condition.any_deps_match(
        Condition.data_version_changed() & MadeByRunWith(BY_CONDITION)
    )
    for recipe in RECIPE_NAMES:
        by_its_schedule = Condition.executed_with_tags(
            tag_values={BY_SCHEDULE: f"rebuild_{recipe}"}
        )
        condition |= OfPartitions((recipe,)) & Condition.any_deps_match(
            Condition.newly_updated() & by_its_schedule
        )
    return condition


def _anything_new(settings: AutomationConfig) -> Condition[Any]:
    """Not `eager`, which trains again on equal data: only another data version upstream counts."""
    news: Condition[Any] = (
        Condition.any_deps_match(Condition.data_version_changed())
        | Condition.code_version_changed()
        | Condition.missing()
    )
    return OfPartitions(settings.recipes) & news


def _nothing_under_way() -> Condition[Any]:
    return (
        ~Condition.any_deps_missing()
        & ~Condition.any_deps_in_progress()
        & ~Condition.any_deps_match(Condition.execution_failed())
        & ~Condition.in_progress()
    )


def _freshness(settings: AutomationConfig) -> dg.FreshnessPolicy | None:
    """Overdue after `automation.fresh_days`, with a warning a day before."""
    days = settings.fresh_days
    if days is None:
        return None
    return dg.FreshnessPolicy.time_window(
        fail_window=timedelta(days=days), warn_window=timedelta(days=days * 7 / 8)
    )
