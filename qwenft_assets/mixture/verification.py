"""What is true of a mixture as it lies on disk, read back rather than believed.

The checks know nothing of how the mixture was built: a rule that is switched off, or that has a
fault, shows here.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from qwenft_assets.config import Config, RecipeName
from qwenft_assets.mixture.build import MixedRow, read_mixture
from qwenft_assets.mixture.decontamination import find_contaminated, read_evaluation_file
from qwenft_assets.mixture.manifest import RATIO_TOLERANCE
from qwenft_assets.mixture.split import find_leaks
from qwenft_assets.progress import ReportProgress, no_progress
from qwenft_assets.records import MixtureManifest
from qwenft_assets.rows import InstructionRow
from qwenft_assets.sources.pubmedqa import official_test_ids
from qwenft_assets.storage.files import read_json
from qwenft_assets.storage.root import MIXTURE_FILE, Storage

JSONL_KEYS = ["instruction", "input", "output"]
DECODER = json.JSONDecoder(object_pairs_hook=list)
"""Made once: `json.loads` with a hook makes one for every line."""
SHOWN = 5


class Finding(NamedTuple):
    """The outcome of one check."""

    passed: bool
    details: dict[str, Any]


def verify_mixture(
    config: Config,
    storage: Storage,
    recipe: RecipeName,
    report_progress: ReportProgress = no_progress,
) -> dict[str, Finding]:
    """The checks of a built mixture, by name.

    Raises:
        MixtureError: There is no mixture, or an evaluation file cannot be read.
    """
    mixed = read_mixture(storage, recipe)
    manifest = read_json(storage.mixed_dataset(recipe) / MixtureManifest.FILE) or {}
    return {
        "schema_valid": _schema(storage, recipe, mixed),
        "ratios_kept_or_shortfall_named": _ratios(manifest),
        "no_leakage": _leakage(config, mixed, report_progress),
        "no_contamination": _contamination(config, mixed, report_progress),
    }


def _schema(storage: Storage, recipe: RecipeName, mixed: list[MixedRow]) -> Finding:
    """Each JSON line has exactly the three keys, as text, and is the row of the same place."""
    path = storage.mixed_dataset(recipe) / MIXTURE_FILE
    count, wrong = 0, list[int]()
    # Not splitlines(): a text may hold U+2028 and its like, which JSON leaves as they are.
    with path.open(encoding="utf-8", newline="\n") as lines:
        for count, line in enumerate(lines, 1):
            if count <= len(mixed) and not _is_line_of(mixed[count - 1].row, line):
                wrong.append(count)
    same_length = count == len(mixed) > 0
    return Finding(not wrong and same_length, {"lines": count, "first_wrong": wrong[:SHOWN]})


def _is_line_of(row: InstructionRow, line: str) -> bool:
    try:
        value: Any = DECODER.decode(line)
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


def _leakage(config: Config, mixed: list[MixedRow], report_progress: ReportProgress) -> Finding:
    """No eval row asks what a train row asks, in the same words or nearly."""
    pairs = [(row, side) for row, side, _ in mixed]
    leaks = find_leaks(pairs, config.mixture.similar_questions, report_progress)
    return Finding(
        not leaks,
        {
            "leaked_rows": len(leaks),
            "first": [leak._asdict() for leak in leaks[:SHOWN]],
            "eval_rows": sum(side != "train" for _, side in pairs),
        },
    )


def _contamination(
    config: Config, mixed: list[MixedRow], report_progress: ReportProgress
) -> Finding:
    """No row overlaps with an evaluation file, none is of PubMedQA's test set while that is held out."""
    files = [read_evaluation_file(path) for path in config.mixture.decontaminate]
    rows = [row for row, _, copy in mixed if not copy]
    hits = find_contaminated(rows, files, report_progress)
    tested = official_test_ids() if config.sources.pubmedqa.holdout_official_test else ()
    held_out = {str(number) for number in tested}
    of_test = [
        row.row_id for row in rows if row.source == "pubmedqa" and row.upstream_id in held_out
    ]
    return Finding(
        not hits and not of_test,
        {
            "contaminated_rows": len(hits),
            "first": [{"row": hit.row.row_id, "file": hit.partner} for hit in hits[:SHOWN]],
            "pubmedqa_test_rows": len(of_test),
            "evaluation_files": list(config.mixture.decontaminate),
        },
    )
