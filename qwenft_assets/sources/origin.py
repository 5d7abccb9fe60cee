"""Where dataset repositories are read from: bundled samples, the Hub, or a folder laid out as the Hub.

All three are an fsspec filesystem with the same paths below a repository, so that one reading code
serves them.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem
from pyarrow import ArrowException

from qwenft_assets.config import PROJECT_ROOT
from qwenft_assets.errors import SourceError

SAMPLES_FOLDER = PROJECT_ROOT / "data" / "samples"
WAY_OUT = "Check the network, HF_ENDPOINT and HF_TOKEN, or set QWENFT_SOURCES_ORIGIN=samples."


@dataclass(frozen=True)
class Repository:
    """One dataset repository at one revision."""

    repo_id: str
    filesystem: AbstractFileSystem
    root: str
    commit: str | None
    """None for a folder, whose files are hashed instead."""

    def files(self, folder: str, suffix: str) -> list[str]:
        """Paths below `folder` that end in `suffix`, sorted; relative to the repository."""
        base = f"{self.root}/{folder}".rstrip("/")
        with _hub_errors(self.repo_id):
            if not self.filesystem.isdir(base):
                return []
            found = self.filesystem.find(base)
        return sorted(
            str(path).removeprefix(f"{self.root}/") for path in found if str(path).endswith(suffix)
        )

    def require_files(self, folder: str, suffix: str) -> list[str]:
        """As `files`.

        Raises:
            SourceError: There is none.
        """
        files = self.files(folder, suffix)
        if not files:
            raise SourceError(
                f"{self.root}/{folder}: holds no *{suffix} file. Lay the folder out as "
                f"{self.repo_id} on the Hub, or set QWENFT_SOURCES_ORIGIN=samples."
            )
        return files

    @contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        """A file of the repository, seekable.

        Raises:
            SourceError: It cannot be opened, or what reads it in the block finds it broken.
        """
        full = f"{self.root}/{path}"
        try:
            with _hub_errors(self.repo_id), self.filesystem.open(full, "rb") as file:
                yield cast("BinaryIO", file)
        except (OSError, ArrowException) as error:
            raise SourceError(
                f"{full}: cannot be read: {_first_line(error)} Fetch that file again."
            ) from error

    def revision_of(self, files: Sequence[str]) -> str:
        """The commit, or for a folder the sha256 over the names and bytes of `files`."""
        if self.commit is not None:
            return self.commit
        digest = hashlib.sha256()
        for path in files:
            with self.open(path) as file:
                content = hashlib.file_digest(cast("BytesIO", file), "sha256").hexdigest()
            digest.update(f"{path}\0{content}\n".encode())
        return digest.hexdigest()


def open_repository(origin: str, repo_id: str, revision: str | None = None) -> Repository:
    """A dataset repository at `revision` (None: the newest).

    Args:
        origin: `samples`, `hub`, or a folder that holds `<owner>/<name>/` folders.
        repo_id: `<owner>/<name>`.
        revision: Commit or tag; a folder has one revision only and ignores it.

    Raises:
        SourceError: The folder is not there, or the Hub cannot be reached or knows no such thing.
    """
    if origin == "hub":
        return _hub_repository(repo_id, revision)
    folder = SAMPLES_FOLDER if origin == "samples" else PROJECT_ROOT / Path(origin).expanduser()
    root = folder / repo_id
    if not root.is_dir():
        raise SourceError(
            f"{root}: no such folder. Set QWENFT_SOURCES_ORIGIN (or sources.origin) to `samples`, "
            "`hub`, or a folder laid out as the Hub: <folder>/<owner>/<name>/."
        )
    return Repository(repo_id, LocalFileSystem(), str(root), commit=None)


def _hub_repository(repo_id: str, revision: str | None) -> Repository:
    from huggingface_hub import HfApi, HfFileSystem

    with _hub_errors(repo_id):
        commit = HfApi().dataset_info(repo_id, revision=revision).sha
    if commit is None:
        raise SourceError(f"{repo_id}: the Hub names no commit for {revision or 'main'}. Pin one.")
    return Repository(repo_id, HfFileSystem(), f"datasets/{repo_id}@{commit}", commit)


@contextmanager
def _hub_errors(repo_id: str) -> Iterator[None]:
    # Imported late: the client takes half a second, and folders do not need it.
    from httpx import HTTPError
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    endpoint = os.environ.get("HF_ENDPOINT", "the Hub")
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise SourceError(
            f"{repo_id}: HF_HUB_OFFLINE is set, so it cannot be read from {endpoint}. Unset it, or "
            "set QWENFT_SOURCES_ORIGIN to a folder laid out as the Hub."
        ) from error
    except (HfHubHTTPError, HTTPError) as error:
        raise SourceError(f"{repo_id}: {endpoint}: {_first_line(error)} {WAY_OUT}") from error


def _first_line(error: Any) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".") + "."
