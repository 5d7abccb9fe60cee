"""Whether an adapter may become the champion: rules over its evaluation, each with by how much."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwenft_assets.config import ReleaseConfig
from qwenft_assets.evaluation.models import ADAPTER, BASE
from qwenft_assets.records import RuleResult


@dataclass(frozen=True)
class GateDecision:
    """The outcome: passed when every rule holds."""

    rules: tuple[RuleResult, ...]

    @property
    def passed(self) -> bool:
        """Whether the adapter may be released."""
        return all(rule.passed for rule in self.rules)

    @property
    def reasons(self) -> tuple[str, ...]:
        """The rules that say no; where none does, what speaks for the adapter."""
        broken = tuple(f"{rule.name}: {rule.detail}" for rule in self.rules if not rule.passed)
        return broken or tuple(rule.detail for rule in self.rules[:2])


def decide(
    evaluation: Mapping[str, Any],
    champion_version: str | None,
    settings: ReleaseConfig,
    withdrawn: str | None = None,
) -> GateDecision:
    """Decide on a candidate.

    Args:
        evaluation: Its evaluation.json.
        champion_version: The champion's; None where there is none, or the candidate is it.
        settings: The margins.
        withdrawn: How and why the candidate was rolled back before; None: it was not.
    """
    return GateDecision(
        (
            _better_than_base(evaluation, settings),
            _not_worse_than_champion(evaluation, champion_version, settings),
            _no_source_worse(evaluation, settings),
            _canaries(evaluation, settings),
            RuleResult(
                "no_leakage",
                evaluation["leaked_rows"] == 0,
                f"{evaluation['leaked_rows']} of {evaluation['eval_rows']} held-out rows ask what "
                "the adapter was trained on",
            ),
            RuleResult("not_withdrawn", withdrawn is None, withdrawn or "never rolled back"),
        )
    )


def better_than_base(evaluation: Mapping[str, Any], settings: ReleaseConfig) -> bool:
    """Whether the whole 95 % interval of adapter - base lies below -min_delta_loss.

    The interval of a single question has no width, so that it proves nothing.
    """
    return (
        evaluation["delta_loss_ci95"][1] < -settings.min_delta_loss
        and evaluation["eval_questions"] > 1
    )


def _better_than_base(evaluation: Mapping[str, Any], settings: ReleaseConfig) -> RuleResult:
    passed = better_than_base(evaluation, settings)
    interval = _interval(evaluation["delta_loss"], evaluation["delta_loss_ci95"])
    if passed:
        return RuleResult("better_than_base", True, f"better than the base: {interval}")
    if evaluation["eval_questions"] < 2:  # noqa: PLR2004
        return RuleResult("better_than_base", False, "one held-out question proves nothing")
    short = evaluation["delta_loss_ci95"][1] + settings.min_delta_loss
    return RuleResult(
        "better_than_base",
        False,
        f"{interval}; its upper end is {short:.4f} above the {0 - settings.min_delta_loss:+.4f} "
        "it must lie below",
    )


def _not_worse_than_champion(
    evaluation: Mapping[str, Any], champion_version: str | None, settings: ReleaseConfig
) -> RuleResult:
    name = "not_worse_than_champion"
    if champion_version is None:
        return RuleResult(name, True, "no champion yet")
    if (
        evaluation["champion_version"] != champion_version
        or "champion_delta_loss" not in evaluation
    ):
        return RuleResult(
            name,
            True,
            f"champion {champion_version} has another base model or was trained on all of these "
            "rows: a new line starts",
        )
    delta, interval = evaluation["champion_delta_loss"], evaluation["champion_delta_loss_ci95"]
    excess = interval[0] - settings.max_champion_delta_loss
    shown = _interval(delta, interval)
    if excess > 0:
        return RuleResult(
            name,
            False,
            f"against champion {champion_version}: {shown}; its lower end is {excess:.4f} above the "
            f"{settings.max_champion_delta_loss:+.4f} allowed",
        )
    return RuleResult(name, True, f"not worse than champion {champion_version}: {shown}")


def _no_source_worse(evaluation: Mapping[str, Any], settings: ReleaseConfig) -> RuleResult:
    name, allowed = "no_source_worse_than_base", settings.max_source_regression
    regressions = {
        source: own["eval_loss"] / own["base_eval_loss"] - 1
        for source, own in evaluation["per_source"].items()
    }
    worst = max(regressions, key=lambda source: regressions[source])
    shown = f"{worst} {regressions[worst]:+.1%} of the base's loss, {allowed:.1%} allowed"
    worse = {source for source, regression in regressions.items() if regression > allowed}
    if len(worse) > 1:
        shown += f"; {len(worse)} sources are worse: {', '.join(sorted(worse))}"
    return RuleResult(name, not worse, shown)


def _canaries(evaluation: Mapping[str, Any], settings: ReleaseConfig) -> RuleResult:
    """Each canary's share must reach the setting, or the base's share where that is lower.

    A base that cannot do it either is not the adapter's fault.
    """
    name = "canaries_pass"
    shares, of_base = evaluation["canaries"][ADAPTER], evaluation["canaries"][BASE]
    needed = {canary: min(settings.min_canary_share, of_base[canary]) for canary in shares}
    failed = [canary for canary in shares if shares[canary] < needed[canary]]
    if failed:
        return RuleResult(
            name,
            False,
            "; ".join(
                f"{canary} holds for {shares[canary]:.0%} of the answers, {needed[canary]:.0%} needed"
                for canary in failed
            ),
        )
    return RuleResult(name, True, f"all {len(shares)} canaries" if shares else "no prompt asked")


def _interval(delta: float, ends: list[float]) -> str:
    return f"delta loss {delta:+.4f}, 95 % interval {ends[0]:+.4f} to {ends[1]:+.4f}"
