"""The stage: the champion pointer and its history.

`champion.json` is replaced in one step; every decision and every move is a line of `history.jsonl`,
refusals too, written before the pointer moves: a run killed in between leaves the old champion, and
the next one finishes the move.
"""

import getpass
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from qwenft_assets.config import Config, RecipeName, ReleaseConfig
from qwenft_assets.errors import ReleaseError
from qwenft_assets.evaluation.job import EvaluationJob, is_current, read_evaluation
from qwenft_assets.release.gate import GateDecision, decide
from qwenft_assets.release.history import (
    BY_HAND,
    PROMOTE,
    REFUSE,
    RELEASE,
    ROLLBACK,
    champions_in_turn,
    last_decision,
    read_history,
    withdrawal_of,
)
from qwenft_assets.storage.files import append_json_line, read_json, write_json
from qwenft_assets.storage.root import Storage
from qwenft_assets.training.job import training_record

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
    rules: tuple[dict[str, Any], ...]
    """Each rule of the gate: name, passed, detail."""


def release_adapter(config: Config, job: EvaluationJob, storage: Storage) -> ReleaseReport:
    """Hold the evaluated adapter against the gate's rules, and move the pointer if all hold.

    Raises:
        ReleaseError: The adapter has no evaluation on its present rows against this champion.
    """
    recipe, version = job.recipe, job.adapter_version
    with storage.lock(f"release-{recipe}"):
        evaluation = read_evaluation(storage, recipe, version)
        if evaluation is None or not is_current(evaluation, job):
            raise ReleaseError(
                f"{storage.evaluation(recipe, version)}: not evaluated with the present settings "
                f"against the present champion. Run `qwenft run --recipe {recipe}`."
            )
        champion = read_champion(storage, recipe)
        previous = champion["version"] if champion else None
        last = last_decision(storage, recipe)
        if last and previous == version == last["version"] and last["action"] in BY_HAND:
            rules, reasons = tuple(last.get("rules", ())), tuple(last["reasons"])
            return ReleaseReport(version, True, True, reasons, champion, previous, rules)
        if last and _same_question(last, evaluation, config.release):
            rules, reasons = tuple(last["rules"]), tuple(last["reasons"])
            if last["released"] and previous == last["previous"] != version:
                champion = _point_to(storage, recipe, last)  # the move that a kill cut short
                return ReleaseReport(version, True, False, reasons, champion, previous, rules)
            if previous == (version if last["released"] else last["previous"]):
                released = last["released"]
                return ReleaseReport(version, released, True, reasons, champion, previous, rules)
        decision = _decide(evaluation, storage, recipe, version, previous, config.release)
        entry = {
            **_entry(RELEASE if decision.passed else REFUSE, version, previous, evaluation),
            "reasons": list(decision.reasons),
            "rules": [vars(rule) for rule in decision.rules],
            "settings": config.release.model_dump(mode="json"),
        }
        append_json_line(storage.release(recipe) / "history.jsonl", entry)
        if decision.passed:
            champion = _point_to(storage, recipe, entry)
        return ReleaseReport(
            version,
            decision.passed,
            False,
            decision.reasons,
            champion,
            previous,
            tuple(entry["rules"]),
        )


def promote(
    config: Config, storage: Storage, recipe: RecipeName, version: str, why: str, *, force: bool
) -> dict[str, Any]:
    """Make a version the champion by hand; returns the line of the history.

    Raises:
        ReleaseError: There is no such adapter, it is the champion, it was never evaluated, or the
            gate says no and `force` does not overrule it.
    """
    with storage.lock(f"release-{recipe}"):
        champion = read_champion(storage, recipe)
        previous = champion["version"] if champion else None
        if version == previous:
            raise ReleaseError(
                f"{version} is the champion of {recipe} already. Nothing needs to be done."
            )
        _require_adapter(storage, recipe, version)
        evaluation = read_evaluation(storage, recipe, version)
        if evaluation is None:
            raise ReleaseError(
                f"{storage.evaluation(recipe, version)}: never evaluated, so nobody knows what it is "
                f"worth. Run `qwenft run --recipe {recipe}` with the config it was trained with."
            )
        # Who promotes by hand knows of the rollback, so that it is no reason to refuse.
        decision = decide(evaluation, previous, config.release)
        if not decision.passed and not force:
            raise ReleaseError(
                f"{version}: the gate says no ({'; '.join(decision.reasons)}). Add --force to "
                "promote it all the same."
            )
        entry = {
            **_entry(PROMOTE, version, previous, evaluation),
            "why": why,
            "forced": not decision.passed,
            "reasons": [f"promoted by hand: {why}"],
            "rules": [vars(rule) for rule in decision.rules],
        }
        append_json_line(storage.release(recipe) / "history.jsonl", entry)
        _point_to(storage, recipe, entry)
        return entry


def rollback(storage: Storage, recipe: RecipeName, why: str) -> dict[str, Any]:
    """Bring back the champion before the present one; returns the line of the history.

    Raises:
        ReleaseError: There was none before it, or its adapter is gone.
    """
    with storage.lock(f"release-{recipe}"):
        champion = read_champion(storage, recipe)
        if champion is None:
            raise ReleaseError(
                f"{storage.release(recipe)}: nothing was released yet, so nothing can be rolled "
                f"back. Run `qwenft run --recipe {recipe}`."
            )
        history = read_history(storage, recipe)
        before = champions_in_turn(history, champion["version"])[:-1]
        if not before:
            raise ReleaseError(
                f"{champion['version']} is the first champion of {recipe}: there is none to go back "
                "to. `qwenft releases list` shows the versions."
            )
        version = before[-1]
        _require_adapter(storage, recipe, version)
        figures = next(
            line for line in reversed(history) if line["version"] == version and line["released"]
        )
        entry = {
            **_entry(ROLLBACK, version, champion["version"], figures),
            "why": why,
            "reasons": [f"rolled back from {champion['version']}: {why}"],
        }
        append_json_line(storage.release(recipe) / "history.jsonl", entry)
        _point_to(storage, recipe, entry)
        return entry


def read_champion(storage: Storage, recipe: RecipeName) -> dict[str, Any] | None:
    """The released adapter's entry; None while nothing was released."""
    return read_json(storage.release(recipe) / "champion.json")


def is_decided(config: Config, job: EvaluationJob, storage: Storage) -> bool:
    """Whether the gate has spoken on the evaluated adapter, or it is the champion by hand."""
    evaluation = read_evaluation(storage, job.recipe, job.adapter_version)
    last = last_decision(storage, job.recipe)
    champion = read_champion(storage, job.recipe)
    is_champion = champion is not None and champion["version"] == job.adapter_version
    if evaluation is None or last is None:
        return False
    if last["action"] in BY_HAND:
        return is_champion
    # A kill between the line of the history and the pointer leaves a release undone.
    return _same_question(last, evaluation, config.release) and last["released"] == is_champion


def _same_question(
    last: dict[str, Any], evaluation: dict[str, Any], settings: ReleaseConfig
) -> bool:
    """Whether the newest line is a decision of the gate on the same figures and settings."""
    return (
        last["action"] in {RELEASE, REFUSE}
        and last["version"] == evaluation["adapter_version"]
        and last["inputs"] == evaluation["inputs"]
        and last["settings"] == settings.model_dump(mode="json")
        and last["champion_version"] == evaluation["champion_version"]
    )


def _decide(
    evaluation: dict[str, Any],
    storage: Storage,
    recipe: RecipeName,
    version: str,
    previous: str | None,
    settings: ReleaseConfig,
) -> GateDecision:
    rival = None if previous == version else previous
    withdrawn = withdrawal_of(version, read_history(storage, recipe))
    return decide(evaluation, rival, settings, None if previous == version else withdrawn)


def _entry(
    action: str, version: str, previous: str | None, figures: dict[str, Any]
) -> dict[str, Any]:
    return {
        "action": action,
        "version": version,
        "released": action != REFUSE,
        "previous": previous,
        "at": datetime.now(tz=UTC).isoformat(timespec="seconds"),
        "who": _who(),
        "inputs": figures["inputs"],
        "champion_version": figures.get("champion_version"),
        **{key: figures[key] for key in KEPT_KEYS},
    }


def _point_to(storage: Storage, recipe: RecipeName, entry: dict[str, Any]) -> dict[str, Any]:
    champion = {key: entry[key] for key in ("version", "at", "who", "reasons", *KEPT_KEYS)}
    write_json(storage.release(recipe) / "champion.json", champion)
    return champion


def _require_adapter(storage: Storage, recipe: RecipeName, version: str) -> None:
    storage.fetch(storage.adapter(recipe, version))
    if training_record(storage, recipe, version) is None:
        known = sorted(p.parent.name for p in storage.adapters(recipe).glob("*/training.json"))
        raise ReleaseError(
            f"{storage.adapter(recipe, version)}: no such adapter. There is: "
            f"{', '.join(known) or 'none yet: run `qwenft run`'}."
        )


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"uid {os.getuid()}"
