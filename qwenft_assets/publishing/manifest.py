"""The manifest: what a published copy holds, and where it came from.

It is the same for every target, so that a copy can be checked wherever it was found.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from qwenft_assets.errors import PublishingError
from qwenft_assets.storage.files import read_json, sha256_of_file

MANIFEST_FILE = "manifest.json"
FORMAT = 1
ADDED_BY_PLACES = (".git", ".gitattributes", ".gitignore", ".cache")
"""What a repository or a download tool puts beside the files."""
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\n"


@dataclass(frozen=True)
class VerifiedCopy:
    """A copy whose files are exactly those of its manifest."""

    folder: Path
    manifest: dict[str, Any]
    unlisted: tuple[str, ...]
    """Files beside them that the manifest does not name."""


def files_below(folder: Path) -> list[str]:
    """Paths of all files but the manifest, relative to the folder, sorted."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(
        path for path in (p.relative_to(folder).as_posix() for p in found) if path != MANIFEST_FILE
    )


def file_entries(folder: Path, paths: Iterable[str]) -> list[dict[str, Any]]:
    """`path`, `bytes` and `sha256` of each file, in the order given."""
    return [
        {
            "path": path,
            "bytes": (folder / path).stat().st_size,
            "sha256": sha256_of_file(folder / path),
        }
        for path in paths
    ]


def verify_copy(path: Path) -> VerifiedCopy:
    """Hold a published copy against its manifest.

    Args:
        path: The folder of the copy, or its manifest.json.

    Raises:
        PublishingError: There is no manifest, or a file is missing or differs.
    """
    folder = path.parent if path.name == MANIFEST_FILE else path
    manifest = read_json(folder / MANIFEST_FILE)
    if manifest is None:
        raise PublishingError(
            f"{folder / MANIFEST_FILE}: no such file. Give the folder of a published copy."
        )
    entries = manifest.get("files")
    if manifest.get("format") != FORMAT or not isinstance(entries, list) or not entries:
        raise PublishingError(
            f"{folder / MANIFEST_FILE}: not a manifest of format {FORMAT}. Fetch the copy again."
        )
    for entry in entries:
        _verify_file(folder, str(entry["path"]), int(entry["bytes"]), str(entry["sha256"]))
    listed = {str(entry["path"]) for entry in entries}
    unlisted = tuple(
        name
        for name in files_below(folder)
        if name not in listed and name.split("/")[0] not in ADDED_BY_PLACES
    )
    return VerifiedCopy(folder, manifest, unlisted)


def _verify_file(folder: Path, name: str, size: int, sha256: str) -> None:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise PublishingError(
            f"{folder / MANIFEST_FILE}: names {name}, which lies outside the copy. Do not use it."
        )
    file = folder / name
    if not file.is_file():
        raise PublishingError(f"{file}: missing, the manifest names it. Fetch the copy again.")
    if file.stat().st_size != size:
        with file.open("rb") as start:
            if start.read(len(LFS_POINTER)) == LFS_POINTER:
                raise PublishingError(f"{file}: a Git LFS pointer. Run `git lfs pull` there.")
        raise PublishingError(
            f"{file}: {file.stat().st_size} bytes, the manifest says {size}. Fetch it again."
        )
    if (actual := sha256_of_file(file)) != sha256:
        raise PublishingError(
            f"{file}: sha256 is {actual}, the manifest says {sha256}. Fetch it again."
        )
