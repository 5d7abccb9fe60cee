"""Artifacts in an object store: files that never change, and a pointer to those of the present version.

    <root>/mixed_dataset/small/current.json                  {"content": "1f0c…", "files": {…}}
    <root>/mixed_dataset/small/files-1f0c…/rows.parquet

The files of an artifact lie below a key that is a hash of their contents; the pointer is one small object
that is written last. So a reader gets the old version or the new one, whenever a writer is killed.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from qwenft_assets.errors import StorageError
from qwenft_assets.hashing import short_hash
from qwenft_assets.records import RECORD_FILES
from qwenft_assets.storage.files import atomic_path, is_intact, sha256_of_file
from qwenft_assets.storage.locking import hold, try_hold
from qwenft_assets.storage.object_store import MissingObjectError, ObjectStore

POINTER_FILE = "current.json"
FILES_PREFIX = "files-"
KEPT_SECONDS = 24 * 3600.0
"""How long files stay that no pointer names any more: someone may still be reading or uploading them."""
ATTEMPTS_AT_A_POINTER = 3


class StoredFile(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True)

    size_bytes: int
    sha256: str
    modified: float
    """Seconds since 1970, by the clock of the machine that made it."""


class Pointer(BaseModel):
    """The present version of an artifact."""

    model_config = ConfigDict(frozen=True)

    content: str
    """Hash of the files' names and hashes; part of the key they lie below."""
    at: str
    files: dict[str, StoredFile]


@dataclass(frozen=True)
class RemoteArtifacts:
    """The artifacts of a remote root, and their copies in a folder of this machine.

    A `name` is the path of an artifact's folder, the same below the root and below the local folder.
    """

    folder: Path
    store: ObjectStore

    def fetch(self, name: str, *, records_only: bool = False) -> None:
        """Download an artifact; leave alone one that a step on this machine is making.

        Raises:
            StorageError: The store cannot be read, or its files are not what their pointer says.
        """
        with try_hold(self._lock_file(name)) as held:
            if held:
                self._download(name, records_only=records_only)

    def names(self, below: str) -> list[str]:
        """The artifacts that the store has below a folder; hidden ones only if the folder is hidden."""
        suffix = f"/{POINTER_FILE}"
        names = [key.removesuffix(suffix) for key in self.store.keys(below) if key.endswith(suffix)]
        return [name for name in names if "/." not in name.removeprefix(below)]

    @contextmanager
    def working_on(self, names: list[str]) -> Iterator[None]:
        """Hold artifacts on this machine: downloaded first, uploaded if the block ends without an error.

        What has not changed here, but in the store, is downloaded at the end.

        Raises:
            StorageError: The store cannot be read or written, or an artifact has changed both here and
                in the store.
        """
        with ExitStack() as held:
            for name in names:
                held.enter_context(hold(self._lock_file(name), f"{self.store.url}/{name}"))
            before = {name: self._download(name) for name in names}
            local = {
                name: pointer.content if pointer else _content_of(self._files(name))
                for name, pointer in before.items()
            }
            yield
            for name, pointer in before.items():
                files = self._files(name)
                if _content_of(files) == local[name] and self.pointer(name) != pointer:
                    self._download(name)
                else:
                    self._upload(name, files, pointer)

    def sync_down(self, below: str) -> None:
        """Make the local artifacts below a folder those of the store, and remove others."""
        with hold(self._lock_file(below), f"{self.store.url}/{below}"):
            names = self.names(below)
            for folder in (self.folder / below).glob("*/"):
                if f"{below}/{folder.name}" not in names:
                    shutil.rmtree(folder)
            for name in names:
                self._download(name)

    def sync_up(self, below: str) -> None:
        """Make the store's artifacts below a folder those of this machine, and remove others."""
        names = [f"{below}/{folder.name}" for folder in sorted((self.folder / below).glob("*/"))]
        for name in names:
            self._upload(name, self._files(name), self.pointer(name))
        for name in self.names(below):
            if name not in names:
                self.remove(name)

    def remove(self, name: str) -> None:
        """Remove an artifact from the store, its pointer first."""
        self.store.remove(f"{name}/{POINTER_FILE}")
        for key in self.store.keys(name):
            self.store.remove(key)

    def pointer(self, name: str) -> Pointer | None:
        """The store's present version of an artifact; None where it has none.

        Raises:
            StorageError: It is not a pointer.
        """
        key = f"{name}/{POINTER_FILE}"
        content = self.store.read(key)
        if content is None:
            return None
        try:
            return Pointer.model_validate_json(content)
        except ValidationError as error:
            raise StorageError(
                f"{self.store.url}/{key}: not a pointer of this program "
                f"({error.errors()[0]['msg']}). Remove it to rebuild."
            ) from error

    def address(self, name: str) -> str:
        """URL of the files of an artifact's present version."""
        pointer = self.pointer(name)
        files = f"/{FILES_PREFIX}{pointer.content}" if pointer else ""
        return f"{self.store.url}/{name}{files}"

    def _download(self, name: str, *, records_only: bool = False) -> Pointer | None:
        for _ in range(ATTEMPTS_AT_A_POINTER):
            pointer = self.pointer(name)
            if pointer is None:
                return None
            try:
                self._download_files(name, pointer, records_only=records_only)
            except MissingObjectError:
                continue  # another machine has uploaded a newer version and swept this one
            return pointer
        raise StorageError(
            f"{self.store.url}/{name}: files that {POINTER_FILE} names are missing. Remove it to "
            "rebuild."
        )

    def _download_files(self, name: str, pointer: Pointer, *, records_only: bool) -> None:
        folder = self.folder / name
        wanted = {
            file: stored
            for file, stored in pointer.files.items()
            if not (records_only and file not in RECORD_FILES)
            and not is_intact(folder / file, stored.sha256)
        }
        with ExitStack() as parts:
            # The first is renamed last: the record.
            for file in sorted(wanted, key=lambda file: (file not in RECORD_FILES, file)):
                stored = wanted[file]
                part = parts.enter_context(atomic_path(folder / file))
                key = f"{name}/{FILES_PREFIX}{pointer.content}/{file}"
                self.store.download(
                    key, part, lambda path, stored=stored: is_intact(path, stored.sha256)
                )
                os.utime(part, (stored.modified, stored.modified))
        if not records_only:
            for file in _files_of(folder):
                if file.name not in pointer.files:
                    file.unlink()

    def _upload(self, name: str, files: dict[str, StoredFile], before: Pointer | None) -> None:
        content = _content_of(files)
        if not files or (before is not None and before.content == content):
            return
        for file in files:
            self.store.upload(f"{name}/{FILES_PREFIX}{content}/{file}", self.folder / name / file)
        now = self.pointer(name)
        if (now and now.content) not in {content, before and before.content}:
            raise StorageError(
                f"{self.store.url}/{name}: another machine has uploaded another version since this step "
                "began. Run the same command again: it starts from that one."
            )
        pointer = Pointer(
            content=content, at=datetime.now(tz=UTC).isoformat(timespec="seconds"), files=files
        )
        text = pointer.model_dump_json(indent=2) + "\n"
        self.store.write(f"{name}/{POINTER_FILE}", text.encode())
        self._sweep(name, content)

    def _sweep(self, name: str, content: str) -> None:
        """Remove files of older versions, and of uploads that were cut off."""
        prefix = f"{name}/{FILES_PREFIX}"
        older = [
            key
            for key in self.store.keys(name)
            if key.startswith(prefix) and not key.startswith(f"{prefix}{content}/")
        ]
        for key in older:
            if time.time() - self.store.modified(key) > KEPT_SECONDS:
                self.store.remove(key)

    def _files(self, name: str) -> dict[str, StoredFile]:
        found: dict[str, StoredFile] = {}
        for file in _files_of(self.folder / name):
            state = file.stat()
            found[file.name] = StoredFile(
                size_bytes=state.st_size, sha256=sha256_of_file(file), modified=state.st_mtime
            )
        return found

    def _lock_file(self, name: str) -> Path:
        folder = self.folder / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"stage-{name.replace('/', '-')}.lock"


def _files_of(folder: Path) -> list[Path]:
    """The files of an artifact's folder that are uploaded, by name."""
    if not folder.is_dir():
        return []
    files = (file for file in folder.iterdir() if file.is_file())
    return sorted(file for file in files if not file.name.startswith("."))


def _content_of(files: dict[str, StoredFile]) -> str:
    return short_hash(*(f"{name}:{file.sha256}" for name, file in files.items()))
