"""Whether an adapter may become the champion: a pure decision over two evaluations."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwenft_assets.config import ReleaseConfig

SAME_LINE = ("base_model", "base_revision", "mixture_version")
"""Evaluations are compared only within one line: the same base on the same held-out rows."""


@dataclass(frozen=True)
class GateDecision:
    """The outcome, with every reason for it."""

    passed: bool
    reasons: tuple[str, ...]


def better_than_base(evaluation: Mapping[str, Any], settings: ReleaseConfig) -> bool:
    """Whether the whole 95 % interval of adapter - base lies below -min_delta_loss."""
    return evaluation["delta_loss_ci95"][1] < -settings.min_delta_loss


def decide(
    candidate: Mapping[str, Any], champion: Mapping[str, Any] | None, settings: ReleaseConfig
) -> GateDecision:
    """Decide on a candidate.

    Args:
        candidate: Its evaluation.json.
        champion: The champion's evaluation; None while there is none.
        settings: The margin over the base.
    """
    low, high = candidate["delta_loss_ci95"]
    interval = f"delta loss {candidate['delta_loss']:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}"
    if not better_than_base(candidate, settings):
        return GateDecision(False, (f"not better than the base beyond chance: {interval}",))
    reasons = [f"better than the base: {interval}"]
    if champion is None:
        return GateDecision(True, (*reasons, "no champion yet"))
    if any(candidate[key] != champion[key] for key in SAME_LINE):
        return GateDecision(
            True, (*reasons, "another base model or evaluation set: a new line starts")
        )
    compared = f"eval loss {candidate['eval_loss']:.4f} against {champion['eval_loss']:.4f}"
    if candidate["eval_loss"] >= champion["eval_loss"]:
        return GateDecision(False, (*reasons, f"not better than the champion: {compared}"))
    return GateDecision(True, (*reasons, f"better than the champion: {compared}"))
