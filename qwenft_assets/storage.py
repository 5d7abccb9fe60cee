"""Where artifacts live: paths, atomic writes, hashes, locks.

Every write is atomic (atomic_writes.py). Where several files make one artifact, the manifest is
written last: an artifact without a manifest that matches is not there.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from qwenft_assets.atomic_writes import atomic_folder as atomic_folder
from qwenft_assets.atomic_writes import atomic_path, recover
from qwenft_assets.errors import QwenftError, StorageError
from qwenft_assets.locking import hold

MIXTURE_FILE = "mixed_finetune_dataset.jsonl"
GIB = 2**30

Record = TypeVar("Record", bound=BaseModel)


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


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented, in the order given."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object at `path`; None when there is none.

    Raises:
        StorageError: The file is there and is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: not readable JSON ({error}). Delete it to rebuild.") from error
    if not isinstance(value, dict):
        raise StorageError(f"{path}: holds no JSON object. Delete it to rebuild.")
    return value


def read_json_lines(
    path: Path, model: type[Record], error_kind: type[QwenftError], example: str
) -> list[Record]:
    """The records of a JSON lines file that a user wrote; empty lines are skipped.

    Raises:
        QwenftError: Of `error_kind`: the file cannot be read, or a line is not as `example` shows.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise error_kind(
            f"{path}: cannot be read ({error}). It holds lines like {example}."
        ) from error
    records: list[Record] = []
    # Not splitlines(): it would also break at U+2028 and others that stand inside strings.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            records.append(model.model_validate_json(line, strict=True))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            about = f"field {field!r}: " if field else ""
            raise error_kind(
                f"{path}: line {number}: {about}{first['msg']}. A line looks like {example}."
            ) from error
    return records


def append_json_line(path: Path, value: dict[str, Any]) -> None:
    """Append one JSON line; a single write, so that a kill leaves whole lines only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
    with path.open("ab", buffering=0) as file:
        file.write(line.encode("utf-8"))
        os.fsync(file.fileno())


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a table atomically; the bytes depend on the table alone."""
    with atomic_path(path) as part:
        pq.write_table(table, part, compression="zstd", row_group_size=16_384)


def read_parquet(path: Path) -> pa.Table:
    """The whole table.

    Raises:
        StorageError: The file is damaged.
    """
    try:
        return pq.read_table(path)
    except FileNotFoundError:
        raise
    except (pa.ArrowInvalid, OSError) as error:
        problem = str(error).splitlines()[0]
        raise StorageError(
            f"{path}: not readable as parquet ({problem}). Delete its folder to rebuild."
        ) from error


def sha256_of_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_intact(path: Path, sha256: str | None) -> bool:
    """Whether the file exists with exactly this hash."""
    return sha256 is not None and path.is_file() and sha256_of_file(path) == sha256
