"""The manifest: what a published copy holds, and where it came from.

It is the same for every target, so that a copy can be checked wherever it was found.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from qwenft_assets.errors import PublishingError
from qwenft_assets.records import MANIFEST_FILE, PublishedFile, PublishedManifest
from qwenft_assets.storage.files import read_record, sha256_of_file

ADDED_BY_PLACES = (".git", ".gitattributes", ".gitignore", ".cache")
"""What a repository or a download tool puts beside the files."""
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\n"


@dataclass(frozen=True)
class VerifiedCopy:
    """A copy whose files are exactly those of its manifest."""

    folder: Path
    manifest: PublishedManifest
    unlisted: tuple[str, ...]
    """Files beside them that the manifest does not name."""


def files_below(folder: Path) -> list[str]:
    """Paths of all files but the manifest, relative to the folder, sorted."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(
        path for path in (p.relative_to(folder).as_posix() for p in found) if path != MANIFEST_FILE
    )


def published_file(folder: Path, path: str) -> PublishedFile:
    """A file of a copy, as its manifest names it."""
    file = folder / path
    return PublishedFile(path=path, bytes=file.stat().st_size, sha256=sha256_of_file(file))


def verify_copy(path: Path) -> VerifiedCopy:
    """Hold a published copy against its manifest.

    Args:
        path: The folder of the copy, or its manifest.json.

    Raises:
        PublishingError: There is no manifest, or a file is missing or differs.
        StorageError: The manifest is damaged, or of another version of qwenft.
    """
    folder = path.parent if path.name == MANIFEST_FILE else path
    manifest = read_record(folder, PublishedManifest)
    if manifest is None:
        raise PublishingError(
            f"{folder / MANIFEST_FILE}: no such file. Give the folder of a published copy."
        )
    for file in manifest.files:
        _verify_file(folder, file)
    listed = manifest.hashes
    unlisted = tuple(
        name
        for name in files_below(folder)
        if name not in listed and name.split("/")[0] not in ADDED_BY_PLACES
    )
    return VerifiedCopy(folder, manifest, unlisted)


def _verify_file(folder: Path, entry: PublishedFile) -> None:
    path = PurePosixPath(entry.path)
    if path.is_absolute() or ".." in path.parts:
        raise PublishingError(
            f"{folder / MANIFEST_FILE}: names {path}, which lies outside the copy. Do not use it."
        )
    file = folder / path
    if not file.is_file():
        raise PublishingError(f"{file}: missing, the manifest names it. Fetch the copy again.")
    if file.stat().st_size != entry.bytes:
        with file.open("rb") as start:
            if start.read(len(LFS_POINTER)) == LFS_POINTER:
                raise PublishingError(f"{file}: a Git LFS pointer. Run `git lfs pull` there.")
        raise PublishingError(
            f"{file}: {file.stat().st_size} bytes, the manifest says {entry.bytes}. Fetch it again."
        )
    if (actual := sha256_of_file(file)) != entry.sha256:
        raise PublishingError(
            f"{file}: sha256 is {actual}, the manifest says {entry.sha256}. Fetch it again."
        )
