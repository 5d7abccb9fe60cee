"""Where artifacts live: paths, atomic writes, hashes, locks.

Every write is atomic (atomic_writes.py). Where several files make one artifact, the manifest is
written last: an artifact without a manifest that matches is not there.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qwenft_assets.errors import StorageError
from qwenft_assets.storage.atomic_writes import recover
from qwenft_assets.storage.locking import hold

MIXTURE_FILE = "mixed_finetune_dataset.jsonl"
GIB = 2**30


@dataclass(frozen=True)
class Storage:
    """The storage root and the place of each artifact below it."""

    root: Path
    url: str | None = None
    """Of a remote root; `root` is its stage then, which staging.py keeps in step with it."""

    def source_sample(self, source: str) -> Path:
        """Folder of one source's sample: rows.parquet, manifest.json."""
        return self.root / "source_sample" / source

    def mixed_dataset(self, recipe: str) -> Path:
        """Folder of one recipe's mixture: the JSONL, rows.parquet, manifest.json."""
        return self.root / "mixed_dataset" / recipe

    def adapters(self, recipe: str) -> Path:
        """Folder that holds one folder an adapter version, and latest.json."""
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
        """Folder of what was made ready to be shared of one adapter version."""
        return self.root / "published_adapter" / recipe / version / content

    def cache(self, kind: str) -> Path:
        """Folder of things that can be made again: `tokens`, `base_models`."""
        return self.root / "cache" / kind

    @property
    def where(self) -> str:
        """The storage root as the user knows it."""
        return self.url or str(self.root)

    def ensure_writable(self) -> None:
        """Create the root.

        Raises:
            StorageError: It cannot be created or written.
        """
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

    @contextmanager
    def lock(self, name: str, say: Callable[[str], None] | None = None) -> Iterator[None]:
        """Hold the lock `name` of this root; wait for another process that holds it.

        Args:
            name: Of what is written.
            say: Told who holds it while this process waits; None: standard error.
        """
        self.ensure_writable()
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
        """Mend what killed processes left below the root."""
        recover(self.root)
