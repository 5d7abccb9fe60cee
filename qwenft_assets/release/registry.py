"""The stage: the champion pointer and its history.

`champion.json` is replaced in one step; every decision and every move is a line of `history.jsonl`,
refusals too, written before the pointer moves: a run killed in between leaves the old champion, and
the next one finishes the move.
"""

import getpass
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from qwenft_assets.config import Config, RecipeName, ReleaseConfig
from qwenft_assets.errors import ReleaseError
from qwenft_assets.evaluation.job import EvaluationJob, is_current, read_evaluation
from qwenft_assets.records import Champion, HistoryLine, RuleResult, TrainingRecord
from qwenft_assets.release.gate import GateDecision, decide
from qwenft_assets.release.history import (
    BY_HAND,
    champions_in_turn,
    last_decision,
    read_history,
    withdrawal_of,
)
from qwenft_assets.storage.files import append_json_line, read_record, write_record
from qwenft_assets.storage.root import Storage
from qwenft_assets.training.job import training_record


@dataclass(frozen=True)
class ReleaseReport:
    """What became of a candidate."""

    version: str
    released: bool
    """It is the champion now."""
    reused: bool
    """It was decided before, on the same figures."""
    reasons: tuple[str, ...]
    champion: Champion | None
    previous: str | None
    """The champion before this decision."""
    rules: tuple[RuleResult, ...]


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
        previous = champion.version if champion else None
        last = last_decision(storage, recipe)

        def report(line: HistoryLine, *, reused: bool) -> ReleaseReport:
            rules = line.rules or ()
            return ReleaseReport(
                version, line.released, reused, line.reasons, champion, previous, rules
            )

        if last and previous == version == last.version and last.action in BY_HAND:
            return report(last, reused=True)
        if last and _same_question(last, evaluation, config.release):
            if last.released and previous == last.previous != version:
                champion = _point_to(storage, recipe, last)  # the move that a kill cut short
                return report(last, reused=False)
            if previous == (version if last.released else last.previous):
                return report(last, reused=True)
        decision = _decide(evaluation, storage, recipe, version, previous, config.release)
        line = _append(
            storage,
            recipe,
            evaluation,
            action="release" if decision.passed else "refuse",
            version=version,
            previous=previous,
            reasons=decision.reasons,
            rules=decision.rules,
            settings=config.release.model_dump(mode="json"),
        )
        if decision.passed:
            champion = _point_to(storage, recipe, line)
        return report(line, reused=False)


def promote(
    config: Config, storage: Storage, recipe: RecipeName, version: str, why: str, *, force: bool
) -> HistoryLine:
    """Make a version the champion by hand; returns the line of the history.

    Raises:
        ReleaseError: There is no such adapter, it is the champion, it was never evaluated, or the
            gate says no and `force` does not overrule it.
    """
    with storage.lock(f"release-{recipe}"):
        champion = read_champion(storage, recipe)
        previous = champion.version if champion else None
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
        line = _append(
            storage,
            recipe,
            evaluation,
            action="promote",
            version=version,
            previous=previous,
            why=why,
            forced=not decision.passed,
            reasons=[f"promoted by hand: {why}"],
            rules=decision.rules,
        )
        _point_to(storage, recipe, line)
        return line


def rollback(storage: Storage, recipe: RecipeName, why: str) -> HistoryLine:
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
        before = champions_in_turn(history, champion.version)[:-1]
        if not before:
            raise ReleaseError(
                f"{champion.version} is the first champion of {recipe}: there is none to go back "
                "to. `qwenft releases list` shows the versions."
            )
        version = before[-1]
        _require_adapter(storage, recipe, version)
        released = next(
            line for line in reversed(history) if line.version == version and line.released
        )
        line = _append(
            storage,
            recipe,
            released.model_dump(exclude={"forced", "rules", "settings"}),
            action="rollback",
            version=version,
            previous=champion.version,
            why=why,
            reasons=[f"rolled back from {champion.version}: {why}"],
        )
        _point_to(storage, recipe, line)
        return line


def read_champion(storage: Storage, recipe: RecipeName) -> Champion | None:
    """The released adapter; None while nothing was released."""
    return read_record(storage.release(recipe), Champion)


def is_decided(config: Config, job: EvaluationJob, storage: Storage) -> bool:
    """Whether the gate has spoken on the evaluated adapter, or it is the champion by hand."""
    evaluation = read_evaluation(storage, job.recipe, job.adapter_version)
    last = last_decision(storage, job.recipe)
    champion = read_champion(storage, job.recipe)
    is_champion = champion is not None and champion.version == job.adapter_version
    if evaluation is None or last is None:
        return False
    if last.action in BY_HAND:
        return is_champion
    # A kill between the line of the history and the pointer leaves a release undone.
    return _same_question(last, evaluation, config.release) and last.released == is_champion


def _same_question(last: HistoryLine, evaluation: dict[str, Any], settings: ReleaseConfig) -> bool:
    """Whether the newest line is a decision of the gate on the same figures and settings."""
    return (
        last.action not in BY_HAND
        and last.version == evaluation["adapter_version"]
        and last.inputs == evaluation["inputs"]
        and last.settings == settings.model_dump(mode="json")
        and last.champion_version == evaluation["champion_version"]
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


def _append(
    storage: Storage, recipe: RecipeName, figures: Mapping[str, Any], **decided: Any
) -> HistoryLine:
    """Write down a decision or move, with the figures that it rests on."""
    own = {
        "released": decided["action"] != "refuse",
        "at": datetime.now(tz=UTC).isoformat(timespec="seconds"),
        "who": _who(),
    }
    line = HistoryLine.model_validate({**figures, **own, **decided})
    append_json_line(storage.release(recipe) / line.FILE, line.as_json())
    return line


def _point_to(storage: Storage, recipe: RecipeName, line: HistoryLine) -> Champion:
    champion = Champion.model_validate(line.model_dump())
    write_record(storage.release(recipe), champion)
    return champion


def _require_adapter(storage: Storage, recipe: RecipeName, version: str) -> None:
    storage.fetch(storage.adapter(recipe, version))
    if training_record(storage, recipe, version) is None:
        known = sorted(
            p.parent.name for p in storage.adapters(recipe).glob(f"*/{TrainingRecord.FILE}")
        )
        raise ReleaseError(
            f"{storage.adapter(recipe, version)}: no such adapter. There is: "
            f"{', '.join(known) or 'none yet: run `qwenft run`'}."
        )


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"uid {os.getuid()}"
