"""The figures of a mixture: what was asked, what it got, what was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from qwenft_assets.config import MixtureConfig, Recipe
from qwenft_assets.mixture.deduplication import REASONS, Removal
from qwenft_assets.mixture.quotas import Quota
from qwenft_assets.rows import InstructionRow

RATIO_TOLERANCE = 0.02


def figures(
    mixed: Sequence[tuple[InstructionRow, str, int]],
    recipe: Recipe,
    config: MixtureConfig,
    quotas: Mapping[str, Quota],
    removed: Sequence[Removal],
    samples: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Counts, ratios, drops and licences, as the manifest holds them.

    Args:
        mixed: The mixture: row, side, and number of the copy.
        recipe: What was asked.
        config: The rules.
        quotas: What each source gives.
        removed: What the rules left out.
        samples: The manifest of each source's sample.
    """
    sides = Counter((row.source, side) for row, side, _ in mixed)
    dropped = Counter((removal.row.source, removal.reason) for removal in removed)
    by_source = {
        source: {
            **asdict(quotas[source]),
            "rows": sides[source, "train"] + sides[source, "eval"],
            "train": sides[source, "train"],
            "eval": sides[source, "eval"],
            **{f"dropped_{reason}": dropped[source, reason] for reason in REASONS},
            "version": sample["version"],
            "revision": sample["revision"],
            "identity": sample["identity"],
        }
        for source, sample in samples.items()
    }
    members = {key: config.groups.get(key, (key,)) for key in recipe.ratios}
    got = {
        key: round(sum(by_source[name]["rows"] for name in names) / len(mixed), 4)
        for key, names in members.items()
    }
    short = {
        key: sum(quotas[name].asked - quotas[name].available for name in names)
        for key, names in members.items()
    }
    return {
        "rows_asked": recipe.rows,
        "rows": len(mixed),
        "train_rows": sum(source["train"] for source in by_source.values()),
        "eval_rows": sum(source["eval"] for source in by_source.values()),
        "ratios_asked": dict(recipe.ratios),
        "ratios_got": got,
        "ratios_kept": all(
            abs(got[key] - ratio) <= RATIO_TOLERANCE for key, ratio in recipe.ratios.items()
        ),
        "shortfall": {key: rows for key, rows in short.items() if rows > 0},
        "shortfall_policy": config.shortfall,
        **{
            f"dropped_{reason}": sum(source[f"dropped_{reason}"] for source in by_source.values())
            for reason in REASONS
        },
        "sources": by_source,
        "licenses": dict(sorted(Counter(row.license for row, _, _ in mixed).items())),
    }
