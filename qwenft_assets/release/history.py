"""What happened to the champion pointer, line by line, and what follows from it."""

import json
from collections.abc import Sequence
from typing import Any

from qwenft_assets.config import RecipeName
from qwenft_assets.errors import ReleaseError
from qwenft_assets.storage.root import Storage

RELEASE, REFUSE, PROMOTE, ROLLBACK = "release", "refuse", "promote", "rollback"
"""What a line stands for: the gate passed, the gate said no, moved by hand, taken back."""
BY_HAND = frozenset({PROMOTE, ROLLBACK})


def read_history(storage: Storage, recipe: RecipeName) -> list[dict[str, Any]]:
    """Every decision and move, oldest first.

    Raises:
        ReleaseError: A line is not JSON.
    """
    path = storage.release(recipe) / "history.jsonl"
    if not path.exists():
        return []
    lines: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if line.strip():
            try:
                lines.append(json.loads(line))
            except ValueError as error:
                raise ReleaseError(
                    f"{path}: line {number} is not JSON ({error}). Remove that line."
                ) from error
    return lines


def last_decision(storage: Storage, recipe: RecipeName) -> dict[str, Any] | None:
    """The newest line of the history; None while there is none."""
    history = read_history(storage, recipe)
    return history[-1] if history else None


def champions_in_turn(history: Sequence[dict[str, Any]], champion: str) -> list[str]:
    """The champions that a rollback can go through, oldest first; the last one is `champion`.

    A rollback takes its version off, so that two in a row go back two versions.
    """
    moves = [line for line in history if line["released"]]
    if moves and moves[-1]["version"] != champion:
        moves.pop()  # written down, then killed before the pointer moved
    stack: list[str] = []
    for line in moves:
        if line["action"] == ROLLBACK:
            while stack and stack[-1] != line["version"]:
                stack.pop()
        if not stack or stack[-1] != line["version"]:
            stack.append(line["version"])
    return stack if stack and stack[-1] == champion else [champion]


def withdrawal_of(version: str, history: Sequence[dict[str, Any]]) -> str | None:
    """How and why a version was rolled back, unless it was promoted since; None: it was not."""
    for line in reversed(history):
        if line["action"] == PROMOTE and line["version"] == version:
            return None
        if line["action"] == ROLLBACK and line["previous"] == version:
            return (
                f"rolled back at {line['at']} by {line['who']}: {line['why']}. `qwenft releases "
                f"promote {version}` brings it back"
            )
    return None
