"""When an asset follows its data by itself, and when it counts as overdue.

https://docs.dagster.io/guides/automate/declarative-automation
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import dagster as dg

from qwenft_assets.config import AutomationConfig, Config

AUTOMATED = ("mixed_dataset", "lora_adapter", "evaluation", "release")
DATED = ("source_sample", "release")


def with_policies(
    assets: Sequence[dg.AssetsDefinition], config: Config
) -> list[dg.AssetsDefinition]:
    """The assets with the automation conditions and freshness policies that the config asks for."""
    condition, freshness = _data_changed(config.automation), _freshness(config.automation)

    def with_its_policies(spec: dg.AssetSpec) -> dg.AssetSpec:
        name = spec.key.to_user_string()
        return spec.replace_attributes(
            automation_condition=condition if name in AUTOMATED else None,
            freshness_policy=freshness if name in DATED else None,
        )

    return [asset.map_asset_specs(with_its_policies) for asset in assets]


@dataclass(frozen=True)
class OfPartitions(dg.AutomationCondition[dg.AssetKey]):
    """Holds for the named partitions: `large`, say, is no recipe of automation.recipes by default."""

    partitions: tuple[str, ...]

    @property
    def name(self) -> str:
        """As the web UI shows it."""
        return f"partition is one of {', '.join(self.partitions) or 'none'}"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult[dg.AssetKey]:
        """The candidates among those partitions."""
        named = set(self.partitions)
        true_subset = context.candidate_subset.compute_intersection_with_partition_keys(named)
        return dg.AutomationResult(context, true_subset=true_subset)


def _data_changed(settings: AutomationConfig) -> dg.AutomationCondition[Any]:
    """Not `eager`, which trains again on equal data: only another data version upstream counts."""
    # Dagster types its operands by what they are built over, and its methods by what may use them.
    news = cast(
        "dg.AutomationCondition[Any]",
        dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed())
        | dg.AutomationCondition.code_version_changed()
        | dg.AutomationCondition.missing(),
    )
    return (
        news.since_last_handled()
        & ~dg.AutomationCondition.any_deps_missing()
        & ~dg.AutomationCondition.any_deps_in_progress()
        & ~dg.AutomationCondition.in_progress()
        & OfPartitions(settings.recipes)
    )


def _freshness(settings: AutomationConfig) -> dg.FreshnessPolicy | None:
    """Overdue after `automation.fresh_days`, with a warning a day before."""
    days = settings.fresh_days
    if days is None:
        return None
    return dg.FreshnessPolicy.time_window(
        fail_window=timedelta(days=days), warn_window=timedelta(days=days * 7 / 8)
    )
