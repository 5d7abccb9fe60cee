"""Files and folders that appear whole or not at all.

Every write goes to a `.part` sibling first and is renamed when it is whole, so that a reader, or the
next run after a kill, never sees half of it. What a killed process left is named after that process,
and taken away, or put back, by the next run.
"""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qwenft_assets.errors import StorageError
from qwenft_assets.storage.locking import is_alive


def recover(root: Path) -> None:
    """Mend what killed processes left: put folders back that stood aside, remove half of writes."""
    for left in root.rglob(".*.aside"):
        original = _original(left)
        if original is None:
            continue
        if original.exists():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.replace(original)
    for left in root.rglob(".*.part"):
        if _original(left) is None:
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _beside(path: Path, kind: str) -> Path:
    """A hidden sibling that carries the name of this process."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{kind}")


def _original(beside: Path) -> Path | None:
    """What a hidden sibling belongs to; None while the process that made it may still run."""
    name, _, rest = beside.name[1:].partition(f".{socket.gethostname()}.")
    pid = rest.partition(".")[0]
    if not pid.isdigit() or is_alive(int(pid)):
        return None
    return beside.with_name(name)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A `.part` sibling to write to; it becomes `path` when the block ends without an error.

    Raises:
        StorageError: The disk is full or cannot be written.
    """
    part = _beside(path, "part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        # Where the write failed, this may fail for the same reason, which is told already.
        with suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A fresh `.part` folder; it becomes `path` when the block ends without an error.

    An existing `path` is replaced only then. A kill between the two renames leaves it aside, whole:
    `recover` puts it back.
    """
    part, aside = _beside(path, "part"), _beside(path, "aside")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        for file in part.rglob("*"):  # safetensors leaves 0600, which nobody else could serve
            file.chmod(0o755 if file.is_dir() else 0o644)
            if file.is_file():
                with file.open("rb+") as written:
                    os.fsync(written.fileno())
        if path.exists():
            path.replace(aside)
        try:
            part.replace(path)
        except OSError:
            if aside.exists():
                aside.replace(path)
            raise
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if path.exists():
            shutil.rmtree(aside, ignore_errors=True)


def _not_written(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path}: cannot be written ({error.strerror or error}). Free space or change its "
        "permissions, then run the same command again."
    )
