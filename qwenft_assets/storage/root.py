"""The storage root: where each artifact lives, and how a remote root and this machine stay in step.

Each step works on local disk: it downloads its inputs first and uploads its outputs when it is done, so
remote and local runs produce the same bytes. Below a local root there is nothing to download or upload.

Stay local: `cache`, `published_adapter`, files that start with a dot, and folders inside an artifact's
folder (`shards`). Checkpoints do too, except on a Ray node, whose disk the next run may not see.
"""

import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from qwenft_assets.errors import StorageError
from qwenft_assets.storage.artifacts import RemoteArtifacts
from qwenft_assets.storage.files import recover
from qwenft_assets.storage.locking import hold
from qwenft_assets.storage.object_store import ObjectStore

MIXTURE_FILE = "mixed_finetune_dataset.jsonl"
GIB = 2**30
ALL = "*"
"""As the last part of an artifact's path: every artifact below that folder."""


@dataclass(frozen=True)
class Storage:
    """The storage root and the place of each artifact below it."""

    root: Path
    url: str | None = None
    """URL of a remote root; `root` is then its local copy on this machine, the stage."""

    def source_sample(self, source: str) -> Path:
        """Folder of one source's sample: rows.parquet, manifest.json."""
        return self.root / "source_sample" / source

    def mixed_dataset(self, recipe: str) -> Path:
        """Folder of one recipe's mixture: the JSONL, rows.parquet, manifest.json."""
        return self.root / "mixed_dataset" / recipe

    def adapters(self, recipe: str) -> Path:
        """Folder that holds one folder for each adapter version, and latest.json."""
        return self.root / "lora_adapter" / recipe

    def adapter(self, recipe: str, version: str) -> Path:
        """Folder of one adapter version."""
        return self.adapters(recipe) / version

    def evaluation(self, recipe: str, version: str) -> Path:
        """Folder of one adapter version's evaluation."""
        return self.root / "evaluation" / recipe / version

    def release(self, recipe: str) -> Path:
        """Folder of the champion pointer and its history."""
        return self.root / "release" / recipe

    def published(self, recipe: str, version: str, content: str) -> Path:
        """Folder of one bundle of an adapter version, ready to be published."""
        return self.root / "published_adapter" / recipe / version / content

    def cache(self, kind: str) -> Path:
        """Folder of files that can be made again: `tokens`, `base_models`."""
        return self.root / "cache" / kind

    @property
    def where(self) -> str:
        """The storage root as the user knows it."""
        return self.url or str(self.root)

    @contextmanager
    def working_on(self, *, reads: Iterable[Path] = (), makes: Iterable[Path]) -> Iterator[None]:
        """Download what a step reads, hold what it makes, and upload that when the step succeeds.

        What it makes is downloaded first as well. If a process on another machine uploads it while the
        block runs and nothing changes here, the block ends by downloading that. A step that fails
        uploads nothing.

        Args:
            reads: Artifact folders; the last part of a path may be ALL.
            makes: Artifact folders.

        Raises:
            StorageError: The store cannot be read or written, or another machine has uploaded another
                version of what was made here.
        """
        self.fetch(*reads)
        remote = self._remote
        with remote.working_on([self._name(f) for f in makes]) if remote else nullcontext():
            yield

    def fetch(self, *folders: Path, records_only: bool = False) -> None:
        """Download artifacts from the object store of a remote root.

        Leaves alone what the store does not have, and what a step on this machine is making.

        Args:
            folders: Artifact folders; the last part of a path may be ALL.
            records_only: Download manifests and other records, not the files they describe.

        Raises:
            StorageError: The store cannot be read, or its files are not what their pointer says.
        """
        if remote := self._remote:
            for folder in folders:
                below = self._name(folder.parent)
                names = remote.names(below) if folder.name == ALL else [self._name(folder)]
                for name in names:
                    remote.fetch(name, records_only=records_only)

    def fetch_overview(self) -> None:
        """Download what shows the state of a deployment: whole samples, the records of all else."""
        self.fetch(self.root / ALL, records_only=True)
        self.fetch(self.source_sample(ALL))

    def sync_down(self, folder: Path) -> None:
        """Make the artifacts below a folder the same as in the store; others are removed.

        Of several processes that share a stage, one downloads while the others wait.

        Raises:
            StorageError: The store cannot be read, or its files are not what their pointer says.
        """
        if remote := self._remote:
            remote.sync_down(self._name(folder))

    def sync_up(self, folder: Path) -> None:
        """Make the artifacts that the store has below a folder the same as here; others are removed.

        Raises:
            StorageError: The store cannot be read or written.
        """
        if remote := self._remote:
            remote.sync_up(self._name(folder))

    def remove(self, folder: Path) -> None:
        """Remove an artifact, from the store first."""
        if remote := self._remote:
            remote.remove(self._name(folder))
        shutil.rmtree(folder, ignore_errors=True)

    def address(self, folder: Path, file: str = "") -> str:
        """Path of an artifact or one of its files; below a remote root, the URL of its present version."""
        place = remote.address(self._name(folder)) if (remote := self._remote) else str(folder)
        return f"{place}/{file}" if file else place

    def ensure_writable(self) -> None:
        """Create the root, and see that it and the store behind it can be written.

        Raises:
            StorageError: They cannot; says what to change.
        """
        self._ensure_folder_writable()
        if remote := self._remote:
            remote.store.require_writable(f".writable-{socket.gethostname()}-{os.getpid()}")

    @contextmanager
    def lock(self, name: str, say: Callable[[str], None] | None = None) -> Iterator[None]:
        """Hold the lock `name` of this root; wait while another process holds it.

        Args:
            name: What is locked.
            say: Called with who holds it while this process waits; None: standard error.
        """
        self._ensure_folder_writable()
        folder = self.root / ".locks"
        folder.mkdir(exist_ok=True)
        with hold(folder / f"{name}.lock", f"{self.root.name}/{name}", say):
            yield

    def free_gib(self) -> float:
        """Free space of the disk that holds the root."""
        return shutil.disk_usage(self.root).free / GIB

    def require_free(self, needed_gib: float, what: str) -> None:
        """See that the disk has room.

        Raises:
            StorageError: It has not; says how much is missing.
        """
        free_gib = self.free_gib()
        if free_gib < needed_gib:
            raise StorageError(
                f"{self.root}: {free_gib:.1f} GiB free, {what} needs {needed_gib:.1f}. Free "
                f"{needed_gib - free_gib:.1f} GiB, let keep_versions remove old adapters, or set "
                "QWENFT_STORAGE to a larger disk."
            )

    def recover(self) -> None:
        """Repair what killed processes left below the root."""
        recover(self.root)

    def _ensure_folder_writable(self) -> None:
        probe = self.root / f".writable-{os.getpid()}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise StorageError(
                f"{self.root}: storage root cannot be written ({error.strerror}). Free the space, "
                "change its permissions, or set QWENFT_STORAGE to another folder."
            ) from error

    @property
    def _remote(self) -> RemoteArtifacts | None:
        return RemoteArtifacts(self.root, ObjectStore(self.url)) if self.url else None

    def _name(self, folder: Path) -> str:
        """Path below the root, the same on every machine; empty for the root itself."""
        return folder.relative_to(self.root).as_posix() if folder != self.root else ""
