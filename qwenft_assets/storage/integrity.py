"""Checks the files below a storage root against the hashes in their records."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from qwenft_assets.errors import StorageError
from qwenft_assets.records import (
    EvaluationResult,
    MixtureManifest,
    PublishedManifest,
    SampleManifest,
    TrainingRecord,
)
from qwenft_assets.storage.files import is_intact, read_json
from qwenft_assets.storage.root import Storage

RECORDS = (
    f"source_sample/*/{SampleManifest.FILE}",
    f"mixed_dataset/*/{MixtureManifest.FILE}",
    f"lora_adapter/*/*/{TrainingRecord.FILE}",
    f"evaluation/*/*/{EvaluationResult.FILE}",
    f"published_adapter/*/*/*/{PublishedManifest.FILE}",
)
"""Each is the last file written to its folder, and holds the sha256 of the others."""


class Checked(NamedTuple):
    """The check of one artifact."""

    folder: Path
    files: int
    problem: str | None
    """What is wrong, and how to repair it; None if nothing is."""


def check_artifacts(storage: Storage) -> Iterator[Checked]:
    """Check every artifact that has a record, in order of stages; reads all their bytes."""
    for pattern in RECORDS:
        for record in sorted(storage.root.glob(pattern)):
            if not any(part.startswith(".") for part in record.relative_to(storage.root).parts):
                yield _check(record)


def is_whole(record: Path) -> bool:
    """Whether the files beside a record match its hashes; True if the record has none."""
    checked = _check(record)
    return checked.problem is None or checked.files == 0


def _check(record: Path) -> Checked:
    folder = record.parent
    try:
        files = _hashes(read_json(record) or {})
    except StorageError as error:
        return Checked(folder, 0, str(error))
    if not files:
        return Checked(folder, 0, f"{record}: has no hashes; an older version wrote it")
    for name, sha256 in files.items():
        if not (folder / name).is_file():
            return Checked(folder, len(files), _mend(folder / name, "is missing"))
        if not is_intact(folder / name, sha256):
            return Checked(folder, len(files), _mend(folder / name, "is damaged: another sha256"))
    return Checked(folder, len(files), None)


def _hashes(record: dict[str, Any]) -> dict[str, str]:
    if "files" not in record:
        return {"rows.parquet": record["sha256"]} if "sha256" in record else {}
    files = record["files"]
    if isinstance(files, dict):
        return {name: _sha256(value) for name, value in files.items()}
    return {entry["path"]: entry["sha256"] for entry in files}


def _sha256(value: Any) -> str:
    return value["sha256"] if isinstance(value, dict) else value


def _mend(file: Path, problem: str) -> str:
    return f"{file} {problem}. Delete {file.parent}, then run the same command again."
