"""What a mixture has gained, lost and changed since the one before, and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from qwenft_assets.records import MixtureManifest
from qwenft_assets.storage.files import is_intact, read_json, read_parquet
from qwenft_assets.storage.root import Storage

CANDIDATES_FILE = "candidates.parquet"
CANDIDATE_SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("source", pa.string()),
        ("content_hash", pa.string()),
        ("outcome", pa.string()),  # train, eval, beyond_quota, or the reason of its removal
        ("partner", pa.string()),  # what it was removed for: a row id, an evaluation file
        ("similarity", pa.float64()),
    ]
)
BEYOND_QUOTA = "beyond_quota"
IN_MIXTURE = {"train", "eval"}
CAUSE_OF_OUTCOME = {
    BEYOND_QUOTA: "quota",
    "duplicate": "dedup",
    "near_duplicate": "dedup",
    "frozen_eval": "rule",
    "contaminated": "rule",
    "over_long": "rule",
}
SHOWN_ROW_IDS = 3


@dataclass(frozen=True)
class Build:
    """One build of a mixture: its version, its samples, and what became of every candidate."""

    version: str
    sources: Mapping[str, Mapping[str, Any]]
    """By source: `revision` and `identity` of its sample."""
    candidates: pa.Table


def previous_build(storage: Storage, recipe: str) -> Build | None:
    """The build that lies in the storage; None where there is none that is whole."""
    folder = storage.mixed_dataset(recipe)
    manifest = read_json(folder / MixtureManifest.FILE) or {}
    path = folder / CANDIDATES_FILE
    if not is_intact(path, manifest.get("files", {}).get(CANDIDATES_FILE)):
        return None
    return Build(manifest["version"], manifest["sources"], read_parquet(path))


def no_difference(version: str) -> dict[str, Any]:
    """The difference of a mixture to itself."""
    return {"previous_version": version, "version": version, "changes": []}


def difference(previous: Build | None, current: Build) -> dict[str, Any]:
    """The content of diff.json: rows by source, change and cause, most telling first.

    A change is `added`, `removed`, `changed` (other text) or `moved` (to the other side of the
    split). A cause is `upstream` (another revision of the source), `rule` (another keyword list,
    seed, length limit or evaluation file), `dedup`, or `quota` (recipe or size of the sample).
    """
    if previous is None:
        return {"previous_version": None, "version": current.version, "changes": []}
    before, after = _by_row_id(previous.candidates), _by_row_id(current.candidates)
    found: defaultdict[tuple[str, str, str], list[str]] = defaultdict(list)
    for row_id in before.keys() | after.keys():
        old, new = before.get(row_id), after.get(row_id)
        was_in = old is not None and old[2] in IN_MIXTURE
        is_in = new is not None and new[2] in IN_MIXTURE
        source = (new or old or ("",))[0]
        of_sample = _cause_in_sample(previous, current, source)
        if is_in and not was_in:
            cause = CAUSE_OF_OUTCOME[old[2]] if old else of_sample
            found[source, "added", cause].append(row_id)
        elif was_in and not is_in:
            cause = CAUSE_OF_OUTCOME[new[2]] if new else of_sample
            found[source, "removed", cause].append(row_id)
        elif old and new and is_in:
            if old[1] != new[1]:
                found[source, "changed", of_sample].append(row_id)
            if old[2] != new[2]:
                found[source, "moved", "split"].append(row_id)
    order = list(current.sources) + [
        name for name in previous.sources if name not in current.sources
    ]
    return {
        "previous_version": previous.version,
        "version": current.version,
        "changes": [
            {
                "source": source,
                "change": change,
                "cause": cause,
                "rows": len(row_ids),
                "first": sorted(row_ids)[:SHOWN_ROW_IDS],
            }
            for (source, change, cause), row_ids in sorted(
                found.items(), key=lambda item: (order.index(item[0][0]), *item[0][1:])
            )
        ],
    }


def _by_row_id(candidates: pa.Table) -> dict[str, tuple[str, str, str]]:
    """Row id to source, content hash and outcome."""
    columns = (candidates.column(name).to_pylist() for name in CANDIDATE_SCHEMA.names[:4])
    return {
        str(row_id): (str(source), str(content), str(outcome))
        for row_id, source, content, outcome in zip(*columns, strict=True)
    }


def _cause_in_sample(previous: Build, current: Build, source: str) -> str:
    """Why a row came into a source's sample, left it, or has another text there."""
    old, new = previous.sources.get(source), current.sources.get(source)
    if old is None or new is None:
        return "quota"  # The recipe names another source now.
    if old["revision"] != new["revision"]:
        return "upstream"
    return "rule" if old["identity"] != new["identity"] else "quota"
