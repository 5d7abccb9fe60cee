"""Artifacts in an object store: files that never change, and a pointer that says which are the artifact.

    <root>/mixed_dataset/small/current.json                  {"content": "1f0c…", "files": {…}}
    <root>/mixed_dataset/small/files-1f0c…/rows.parquet

The files of an artifact's folder lie below a key that is a hash of them; the pointer is one small object,
written last. So a reader has the old artifact or the new one, whenever a writer is killed.
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
from qwenft_assets.rows import short_hash
from qwenft_assets.storage.atomic_writes import atomic_path
from qwenft_assets.storage.files import is_intact, sha256_of_file
from qwenft_assets.storage.locking import hold, try_hold
from qwenft_assets.storage.object_store import MissingObjectError, ObjectStore

POINTER_FILE = "current.json"
FILES_PREFIX = "files-"
RECORD_FILES = frozenset(
    {
        *("manifest.json", "training.json", "evaluation.json"),
        *("diff.json", "lengths.json", "latest.json", "champion.json", "history.jsonl"),
    }
)
"""The small files that say what an artifact is; put in place last."""
KEPT_SECONDS = 24 * 3600.0
"""Files that no pointer names any more stay so long: someone may still be reading, or sending them."""
ATTEMPTS_AT_A_POINTER = 3


class SentFile(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True)

    size_bytes: int
    sha256: str
    modified: float
    """Seconds since 1970, on the machine that made it."""


class Pointer(BaseModel):
    """What an artifact is."""

    model_config = ConfigDict(frozen=True)

    content: str
    """Hash of names and hashes of the files; names their folder."""
    at: str
    files: dict[str, SentFile]


@dataclass(frozen=True)
class Stage:
    """A folder beside a remote root; `name` is an artifact's folder below both, with `/`."""

    folder: Path
    store: ObjectStore

    def fetch(self, name: str, *, records_only: bool = False) -> None:
        """Bring an artifact up to date.

        One that the store has not is left alone, and so is one that a step of this machine is at work
        on.

        Raises:
            StorageError: The store cannot be read, or what it holds is not what the pointer says.
        """
        with try_hold(self._lock_file(name)) as held:
            if held:
                self._pull(name, records_only=records_only)

    def artifacts(self, below: str) -> list[str]:
        """The names of the artifacts that the store holds below a folder; hidden ones if it is hidden."""
        suffix = f"/{POINTER_FILE}"
        names = [key.removesuffix(suffix) for key in self.store.keys(below) if key.endswith(suffix)]
        return [name for name in names if "/." not in name.removeprefix(below)]

    @contextmanager
    def delivering(self, names: list[str]) -> Iterator[None]:
        """Hold artifacts on this machine: fetched first, sent when the block ends without an error.

        Raises:
            StorageError: The store cannot be read or written, or another machine has sent one of them
                in the meantime.
        """
        with ExitStack() as held:
            for name in names:
                lock_file = self._lock_file(name)
                held.enter_context(hold(lock_file, f"{self.store.url}/{name}"))
            before = {name: self._pull(name) for name in names}
            yield
            for name, pointer in before.items():
                self._push(name, pointer)

    def receive(self, name: str) -> None:
        """Bring an artifact up to date that a process elsewhere has sent for the one that holds it here.

        Raises:
            StorageError: The store cannot be read, or what it holds is not what the pointer says.
        """
        self._pull(name)

    def fetch_all(self, below: str) -> None:
        """Make the artifacts below a folder those of the store, and no others."""
        with hold(self._lock_file(below), f"{self.store.url}/{below}"):
            names = self.artifacts(below)
            for folder in (self.folder / below).glob("*/"):
                if f"{below}/{folder.name}" not in names:
                    shutil.rmtree(folder)
            for name in names:
                self._pull(name)

    def send_all(self, below: str) -> None:
        """Make the artifacts that the store has below a folder those of the stage, and no others."""
        names = [f"{below}/{folder.name}" for folder in sorted((self.folder / below).glob("*/"))]
        for name in names:
            self._push(name, self.pointer(name))
        for name in self.artifacts(below):
            if name not in names:
                self.remove(name)

    def remove(self, name: str) -> None:
        """Remove an artifact from the store, its pointer first."""
        self.store.remove(f"{name}/{POINTER_FILE}")
        for key in self.store.keys(name):
            self.store.remove(key)

    def pointer(self, name: str) -> Pointer | None:
        """What the store says an artifact is; None where it has none.

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
        """The URL of an artifact's files, as they are now."""
        pointer = self.pointer(name)
        files = f"/{FILES_PREFIX}{pointer.content}" if pointer else ""
        return f"{self.store.url}/{name}{files}"

    def _pull(self, name: str, *, records_only: bool = False) -> Pointer | None:
        for _ in range(ATTEMPTS_AT_A_POINTER):
            pointer = self.pointer(name)
            if pointer is None:
                return None
            try:
                self._download(name, pointer, records_only=records_only)
            except MissingObjectError:
                continue  # another machine has sent a newer one, and swept this
            return pointer
        raise StorageError(
            f"{self.store.url}/{name}: files that {POINTER_FILE} names are missing. Remove it to "
            "rebuild."
        )

    def _download(self, name: str, pointer: Pointer, *, records_only: bool) -> None:
        folder = self.folder / name
        wanted = {
            file: sent
            for file, sent in pointer.files.items()
            if not (records_only and file not in RECORD_FILES)
            and not is_intact(folder / file, sent.sha256)
        }
        with ExitStack() as parts:
            # The first is renamed last: the record.
            for file in sorted(wanted, key=lambda file: (file not in RECORD_FILES, file)):
                sent = wanted[file]
                part = parts.enter_context(atomic_path(folder / file))
                key = f"{name}/{FILES_PREFIX}{pointer.content}/{file}"
                self.store.download(key, part, lambda path, sent=sent: is_intact(path, sent.sha256))
                os.utime(part, (sent.modified, sent.modified))
        if not records_only:
            for file in _files_of(folder):
                if file.name not in pointer.files:
                    file.unlink()

    def _push(self, name: str, before: Pointer | None) -> None:
        folder = self.folder / name
        files = {file.name: _sent(file) for file in _files_of(folder)}
        content = short_hash(*(f"{file}:{sent.sha256}" for file, sent in files.items()))
        if not files or (before is not None and before.content == content):
            return
        for file in files:
            self.store.upload(f"{name}/{FILES_PREFIX}{content}/{file}", folder / file)
        now = self.pointer(name)
        if (now and now.content) not in {content, before and before.content}:
            raise StorageError(
                f"{self.store.url}/{name}: another machine has sent another one since this step began. "
                "Run the same command again: it starts from that one."
            )
        pointer = Pointer(
            content=content, at=datetime.now(tz=UTC).isoformat(timespec="seconds"), files=files
        )
        text = pointer.model_dump_json(indent=2) + "\n"
        self.store.write(f"{name}/{POINTER_FILE}", text.encode())
        self._sweep(name, content)

    def _sweep(self, name: str, content: str) -> None:
        """Remove the files of older contents, and those of uploads that were cut off."""
        prefix = f"{name}/{FILES_PREFIX}"
        older = [
            key
            for key in self.store.keys(name)
            if key.startswith(prefix) and not key.startswith(f"{prefix}{content}/")
        ]
        for key in older:
            if time.time() - self.store.modified(key) > KEPT_SECONDS:
                self.store.remove(key)

    def _lock_file(self, name: str) -> Path:
        folder = self.folder / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"stage-{name.replace('/', '-')}.lock"


def _files_of(folder: Path) -> list[Path]:
    """The files that are sent of an artifact's folder, by name."""
    if not folder.is_dir():
        return []
    files = (file for file in folder.iterdir() if file.is_file())
    return sorted(file for file in files if not file.name.startswith("."))


def _sent(file: Path) -> SentFile:
    state = file.stat()
    return SentFile(size_bytes=state.st_size, sha256=sha256_of_file(file), modified=state.st_mtime)
