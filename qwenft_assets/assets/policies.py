"""When an asset follows its data by itself, when it counts as overdue, and where it needs a GPU.

https://docs.dagster.io/guides/automate/declarative-automation
"""

from datetime import timedelta
from typing import Any, cast

import dagster as dg

from qwenft_assets.config_file import load_config


class RecipeSwitchedOn(dg.AutomationCondition[dg.AssetKey]):
    """Holds for the recipes that `automation.recipes` names: `large` is none of them by default."""

    @property
    def name(self) -> str:
        """As the web UI shows it."""
        return "recipe is named in automation.recipes"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult[dg.AssetKey]:
        """The candidates of those recipes."""
        recipes = set(load_config().automation.recipes)
        true_subset = context.candidate_subset.compute_intersection_with_partition_keys(recipes)
        return dg.AutomationResult(context, true_subset=true_subset)


# Dagster types its operands by what they are built over, and its methods by what may use them.
_NEWS = cast(
    "dg.AutomationCondition[Any]",
    dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed())
    | dg.AutomationCondition.code_version_changed()
    | dg.AutomationCondition.missing(),
)
DATA_CHANGED = (
    _NEWS.since_last_handled()
    & ~dg.AutomationCondition.any_deps_missing()
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
    & RecipeSwitchedOn()
)
"""Not `eager`, which trains again on equal data: only another data version upstream counts."""


def gpu_step_tags() -> dict[str, Any]:
    """What the step of an asset asks of Kubernetes where it is a pod of its own; elsewhere unread.

    https://docs.dagster.io/deployment/oss/deployment-options/kubernetes/customizing-your-deployment
    """
    if load_config().training.device == "cpu":
        return {}
    resources = {"limits": {"nvidia.com/gpu": "1"}}
    return {"dagster-k8s/config": {"container_config": {"resources": resources}}}


def freshness_policy() -> dg.FreshnessPolicy | None:
    """Overdue after `automation.fresh_days`, with a warning a day before."""
    days = load_config().automation.fresh_days
    if days is None:
        return None
    return dg.FreshnessPolicy.time_window(
        fail_window=timedelta(days=days), warn_window=timedelta(days=days * 7 / 8)
    )
