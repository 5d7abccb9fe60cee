"""Where dataset repositories are read from: bundled samples, the Hub, or a folder laid out as the Hub.

All three give local files with the same paths below a repository, so that one reading code serves
them.
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from pyarrow import ArrowException

from qwenft_assets.config import PROJECT_ROOT, shipped
from qwenft_assets.errors import SourceError
from qwenft_assets.sources import hub

SAMPLES_FOLDER = shipped("data/samples")


@dataclass(frozen=True)
class Repository:
    """One dataset repository at one revision."""

    repo_id: str
    folder: Path | None
    """None for the Hub."""
    commit: str | None
    """None for a folder, whose files are hashed instead."""

    @property
    def root(self) -> str:
        """What errors name."""
        return str(self.folder or f"{self.repo_id}@{self.commit}")

    def files(self, folder: str, suffix: str) -> list[str]:
        """Paths below `folder` that end in `suffix`, sorted; relative to the repository."""
        if self.folder is None:
            paths = hub.list_files(self.repo_id, self.commit or "")
        else:
            found = (path for path in self.folder.rglob("*") if path.is_file())
            paths = tuple(path.relative_to(self.folder).as_posix() for path in found)
        prefix = f"{folder}/" if folder else ""
        return sorted(path for path in paths if path.startswith(prefix) and path.endswith(suffix))

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

    def local_path(self, path: str) -> Path:
        """A local file with the whole content of `path`."""
        if self.folder is not None:
            return self.folder / path
        return hub.download(self.repo_id, self.commit or "", path)

    @contextmanager
    def open(self, path: str) -> Iterator[BufferedReader]:
        """A file of the repository, seekable.

        Raises:
            SourceError: It cannot be opened, or what reads it in the block finds it broken.
        """
        try:
            with self.local_path(path).open("rb") as file:
                yield file
        except (OSError, ArrowException) as error:
            problem = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise SourceError(
                f"{self.root}/{path}: cannot be read: {problem}. Fetch that file again."
            ) from error

    def revision_of(self, files: Sequence[str]) -> str:
        """The commit, or for a folder the sha256 over the names and bytes of `files`."""
        if self.commit is not None:
            return self.commit
        digest = hashlib.sha256()
        with ThreadPoolExecutor() as pool:  # hashing frees the GIL
            for path, content in zip(files, pool.map(self._sha256, files), strict=True):
                digest.update(f"{path}\0{content}\n".encode())
        return digest.hexdigest()

    def _sha256(self, path: str) -> str:
        with self.open(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


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
        return Repository(repo_id, None, hub.resolve_commit(repo_id, revision))
    folder = SAMPLES_FOLDER if origin == "samples" else PROJECT_ROOT / Path(origin).expanduser()
    root = folder / repo_id
    if not root.is_dir():
        raise SourceError(
            f"{root}: no such folder. Set QWENFT_SOURCES_ORIGIN (or sources.origin) to `samples`, "
            "`hub`, or a folder laid out as the Hub: <folder>/<owner>/<name>/."
        )
    return Repository(repo_id, root, commit=None)
