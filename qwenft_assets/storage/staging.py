"""The local copy of a remote storage root: what is fetched before it is read, and sent when it is made.

Steps work on files of a local folder, the stage, as they do below a local root: nothing here does
anything then. How an artifact lies in the store is in artifacts.py. `cache`, `published_adapter`, files
that start with a dot and folders inside an artifact's folder (`shards`) stay local; so do checkpoints,
but for those of a Ray node, whose disk the next run may not see.
"""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from qwenft_assets.storage.artifacts import Stage
from qwenft_assets.storage.object_store import ObjectStore
from qwenft_assets.storage.root import Storage


def fetch(storage: Storage, *folders: Path, records_only: bool = False) -> None:
    """Bring artifacts up to date from a remote root; nothing to do below a local one.

    One that the store has not is left alone, and so is one that a step of this machine is at work on.

    Args:
        storage: Where they are.
        folders: Of the artifacts.
        records_only: Bring the records alone, not the files that these describe.

    Raises:
        StorageError: The store cannot be read, or what it holds is not what the pointer says.
    """
    if stage := _stage_of(storage):
        for folder in folders:
            stage.fetch(_name(storage, folder), records_only=records_only)


def fetch_below(storage: Storage, folder: Path, *, records_only: bool = False) -> None:
    """Bring every artifact below a folder up to date, as `fetch` does."""
    if stage := _stage_of(storage):
        for name in stage.artifacts(_name(storage, folder)):
            stage.fetch(name, records_only=records_only)


def fetch_overview(storage: Storage) -> None:
    """Bring what tells how a deployment stands: samples whole, of all else the records."""
    fetch_below(storage, storage.root, records_only=True)
    fetch_below(storage, storage.root / "source_sample")


@contextmanager
def delivering(storage: Storage, *folders: Path) -> Iterator[None]:
    """Make artifacts inside the block: fetched and held before it, sent when it ends without an error.

    Nothing to do below a local root, where they are in place already.

    Raises:
        StorageError: The store cannot be read or written, or another machine has sent one of them in
            the meantime.
    """
    stage = _stage_of(storage)
    with stage.delivering([_name(storage, f) for f in folders]) if stage else nullcontext():
        yield


def receive(storage: Storage, *folders: Path) -> None:
    """Bring artifacts that a process elsewhere has sent for the step which holds them on this machine."""
    if stage := _stage_of(storage):
        for folder in folders:
            stage.receive(_name(storage, folder))


def fetch_all(storage: Storage, folder: Path) -> None:
    """Make the artifacts below a folder those which the store has there, and no others.

    Of several processes with one stage, one fetches, and the others wait for it.

    Raises:
        StorageError: The store cannot be read, or what it holds is not what the pointer says.
    """
    if stage := _stage_of(storage):
        stage.fetch_all(_name(storage, folder))


def send_all(storage: Storage, folder: Path) -> None:
    """Make the artifacts that the store has below a folder those which are there, and no others.

    Raises:
        StorageError: The store cannot be read or written.
    """
    if stage := _stage_of(storage):
        stage.send_all(_name(storage, folder))


def remove(storage: Storage, folder: Path) -> None:
    """Remove an artifact, from the store first."""
    if stage := _stage_of(storage):
        stage.remove(_name(storage, folder))
    shutil.rmtree(folder, ignore_errors=True)


def address(storage: Storage, folder: Path, file: str = "") -> str:
    """Where an artifact, or a file of it, is to be found: a path, or the URL of what it is now."""
    stage = _stage_of(storage)
    place = stage.address(_name(storage, folder)) if stage else str(folder)
    return f"{place}/{file}" if file else place


def require_writable(storage: Storage) -> None:
    """See that the root, and the stage of a remote one, can be written.

    Raises:
        StorageError: They cannot; says what to change.
    """
    storage.ensure_writable()
    if stage := _stage_of(storage):
        stage.store.require_writable(f".writable-{socket.gethostname()}-{os.getpid()}")


def _stage_of(storage: Storage) -> Stage | None:
    return Stage(storage.root, ObjectStore(storage.url)) if storage.url else None


def _name(storage: Storage, folder: Path) -> str:
    return folder.relative_to(storage.root).as_posix() if folder != storage.root else ""
