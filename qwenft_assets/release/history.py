"""What happened to the champion pointer, line by line, and what follows from it."""

from collections.abc import Sequence

from qwenft_assets.config import RecipeName
from qwenft_assets.records import HistoryLine
from qwenft_assets.storage.files import read_lines
from qwenft_assets.storage.root import Storage

BY_HAND = frozenset({"promote", "rollback"})
"""Actions of a person; the others are the gate's."""


def read_history(storage: Storage, recipe: RecipeName) -> list[HistoryLine]:
    """Every decision and move, oldest first.

    Raises:
        StorageError: A line is damaged.
    """
    return read_lines(storage.release(recipe), HistoryLine)


def last_decision(storage: Storage, recipe: RecipeName) -> HistoryLine | None:
    """The newest line of the history; None while there is none."""
    history = read_history(storage, recipe)
    return history[-1] if history else None


def champions_in_turn(history: Sequence[HistoryLine], champion: str) -> list[str]:
    """The champions that a rollback can go through, oldest first; the last one is `champion`.

    A rollback takes its version off, so that two in a row go back two versions.
    """
    moves = [line for line in history if line.released]
    if moves and moves[-1].version != champion:
        moves.pop()  # written down, then killed before the pointer moved
    stack: list[str] = []
    for line in moves:
        if line.action == "rollback":
            while stack and stack[-1] != line.version:
                stack.pop()
        if not stack or stack[-1] != line.version:
            stack.append(line.version)
    return stack if stack and stack[-1] == champion else [champion]


def withdrawal_of(version: str, history: Sequence[HistoryLine]) -> str | None:
    """How and why a version was rolled back, unless it was promoted since; None: it was not."""
    for line in reversed(history):
        if line.action == "promote" and line.version == version:
            return None
        if line.action == "rollback" and line.previous == version:
            return (
                f"rolled back at {line.at} by {line.who}: {line.why}. `qwenft releases "
                f"promote {version}` brings it back"
            )
    return None
