"""The stage: the champion pointer and its history.

`champion.json` is replaced in one step, and only when the gate passes; every decision is a line of
`history.jsonl`, refusals too.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from qwenft_assets.config import Config, RecipeName
from qwenft_assets.errors import ReleaseError
from qwenft_assets.evaluation.job import EvaluationJob, read_evaluation
from qwenft_assets.release.gate import decide
from qwenft_assets.storage import Storage, append_json_line, read_json, write_json

KEPT_KEYS = (
    "eval_loss",
    "perplexity",
    "base_eval_loss",
    "base_perplexity",
    "delta_loss",
    "delta_loss_ci95",
    "mixture_version",
    "base_model",
    "base_revision",
)


@dataclass(frozen=True)
class ReleaseReport:
    """What became of a candidate."""

    version: str
    released: bool
    """It is the champion now."""
    reused: bool
    """It was decided before, on the same figures."""
    reasons: tuple[str, ...]
    champion: dict[str, Any] | None
    previous: str | None
    """The champion before this decision."""


def release_adapter(config: Config, job: EvaluationJob, storage: Storage) -> ReleaseReport:
    """Hold the evaluated adapter against base and champion, and move the pointer if it is better.

    Raises:
        ReleaseError: The adapter has no evaluation on its present mixture.
    """
    recipe, version = job.recipe, job.adapter_version
    evaluation = read_evaluation(storage, recipe, version)
    if evaluation is None or evaluation["inputs"] != job.inputs:
        raise ReleaseError(
            f"{storage.evaluation(recipe, version)}: not evaluated with the present settings. Run "
            f"`qwenft run --recipe {recipe}`."
        )
    with storage.lock(f"release-{recipe}"):
        champion = read_champion(storage, recipe)
        previous = champion["version"] if champion else None
        last = last_decision(storage, recipe)
        settings = config.release.model_dump(mode="json")
        if (
            last
            and last["inputs"] == job.inputs
            and last["settings"] == settings
            and previous == (version if last["released"] else last["previous"])
        ):
            reasons = tuple(last["reasons"])
            return ReleaseReport(version, last["released"], True, reasons, champion, previous)
        rival = champion if previous != version else None
        decision = decide(evaluation, rival, config.release)
        entry = {
            "version": version,
            "released": decision.passed,
            "reasons": list(decision.reasons),
            "previous": previous,
            "at": datetime.now(tz=UTC).isoformat(timespec="seconds"),
            "inputs": job.inputs,
            "settings": settings,
            **{key: evaluation[key] for key in KEPT_KEYS},
        }
        append_json_line(storage.release(recipe) / "history.jsonl", entry)
        if decision.passed:
            champion = {key: entry[key] for key in ("version", "at", "reasons", *KEPT_KEYS)}
            write_json(storage.release(recipe) / "champion.json", champion)
        return ReleaseReport(version, decision.passed, False, decision.reasons, champion, previous)


def read_champion(storage: Storage, recipe: RecipeName) -> dict[str, Any] | None:
    """The released adapter's entry; None while nothing was released."""
    return read_json(storage.release(recipe) / "champion.json")


def last_decision(storage: Storage, recipe: RecipeName) -> dict[str, Any] | None:
    """The newest line of the history; None while there is none."""
    path = storage.release(recipe) / "history.jsonl"
    if not path.exists():
        return None
    lines = path.read_text(encoding="utf-8").strip().split("\n")
    return json.loads(lines[-1]) if lines[-1] else None
