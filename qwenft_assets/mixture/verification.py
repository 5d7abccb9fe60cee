"""What is true of a mixture as it lies on disk, read back rather than believed."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from qwenft_assets.config import RecipeName
from qwenft_assets.mixture.build import RATIO_TOLERANCE, MixedRow, read_mixture
from qwenft_assets.mixture.split import leaked_questions
from qwenft_assets.rows import InstructionRow
from qwenft_assets.storage import MIXTURE_FILE, Storage, read_json

JSONL_KEYS = ["instruction", "input", "output"]


class Finding(NamedTuple):
    """The outcome of one check."""

    passed: bool
    details: dict[str, Any]


def verify_mixture(storage: Storage, recipe: RecipeName) -> dict[str, Finding]:
    """The three checks of a built mixture, by name."""
    mixed = read_mixture(storage, recipe)
    manifest = read_json(storage.mixed_dataset(recipe) / "manifest.json") or {}
    return {
        "schema_valid": _schema(storage, recipe, mixed),
        "ratios_kept_or_shortfall_named": _ratios(manifest),
        "no_row_in_both_splits": _splits(mixed),
    }


def _schema(storage: Storage, recipe: RecipeName, mixed: list[MixedRow]) -> Finding:
    """Each JSON line has exactly the three keys, as text, and is the row of the same place."""
    path = storage.mixed_dataset(recipe) / MIXTURE_FILE
    # Not splitlines(): a text may hold U+2028 and its like, which JSON leaves as they are.
    with path.open(encoding="utf-8", newline="\n") as file:
        lines = file.readlines()
    wrong = [
        number
        for number, (line, item) in enumerate(zip(lines, mixed, strict=False), 1)
        if not _is_line_of(item.row, line)
    ]
    same_length = len(lines) == len(mixed) > 0
    return Finding(not wrong and same_length, {"lines": len(lines), "first_wrong": wrong[:5]})


def _is_line_of(row: InstructionRow, line: str) -> bool:
    try:
        value: Any = json.loads(line, object_pairs_hook=list)
    except ValueError:
        return False
    return value == [(key, getattr(row, key)) for key in JSONL_KEYS]


def _ratios(manifest: dict[str, Any]) -> Finding:
    asked, got = manifest["ratios_asked"], manifest["ratios_got"]
    off = {
        key: got[key] - asked[key] for key in asked if abs(got[key] - asked[key]) > RATIO_TOLERANCE
    }
    shortfall: dict[str, int] = manifest["shortfall"]
    details = {"asked": asked, "got": got, "shortfall": shortfall}
    return Finding(not off or bool(shortfall), details)


def _splits(mixed: list[MixedRow]) -> Finding:
    leaked = leaked_questions((item.row, item.split) for item in mixed)
    return Finding(not leaked, {"leaked_rows": len(leaked), "first": leaked[:5]})
