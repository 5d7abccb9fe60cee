"""The job on a node of a Ray cluster: on the disk of the machine that runs the step, or on its own.

Which of both it is, a mark tells that the driver leaves below its storage root. A node that does not see
it keeps a stage of its own in step with the remote root, as any other machine does.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, Self

from qwenft_assets.config import stage_folder
from qwenft_assets.errors import QwenftError, StorageError
from qwenft_assets.storage.root import Storage

OF_ONE_PROCESS = "memory://"


class StagedJob(Protocol):
    """What a job of several machines has beside what its worker reads."""

    @property
    def storage_root(self) -> Path:
        """Folder of the storage root, or its stage."""
        ...

    @property
    def storage_url(self) -> str | None:
        """Of a remote root; None once nothing need be fetched from it or sent to it."""
        ...

    def model_copy(self, *, update: dict[str, object]) -> Self:
        """The same but for some fields."""
        ...

    def staged(self, storage: Storage) -> Self:
        """The job on a machine whose stage is `storage`, with what it reads fetched."""
        ...


@contextmanager
def mark_of(storage_root: Path) -> Iterator[Path]:
    """A file below the storage root, for the length of the block: who sees it shares the disk."""
    # Named so that `Storage.recover` removes that of a driver which was killed.
    mark = storage_root / f".ray.{socket.gethostname()}.{os.getpid()}.part"
    mark.touch()
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)


def on_this_node(job: StagedJob, mark: Path) -> StagedJob:
    """The job as this node does it.

    Args:
        job: As the driver has it.
        mark: Of `mark_of`, in the driver.

    Raises:
        QwenftError: The node has neither the disk nor what it takes to do without; names the node.
    """
    if mark.exists():
        return job.model_copy(update={"storage_url": None})
    node = f"Ray node {socket.gethostname()}"
    if job.storage_url is None or job.storage_url.startswith(OF_ONE_PROCESS):
        raise StorageError(
            f"{node}: {job.storage_url or job.storage_root} is the storage root, and this node does not "
            "see it. Set storage_root to s3://bucket/path, which each node reads and writes by itself, "
            "or mount that folder on every node at the same path."
        )
    folder = stage_folder(job.storage_url, os.environ.get("QWENFT_STAGE"))
    storage = Storage(folder, job.storage_url)
    try:
        storage.ensure_writable()
        with storage.lock("ray-node"):  # of the processes of one node, one fetches
            storage.recover()
            return job.staged(storage)
    except QwenftError as error:
        raise type(error)(f"{node}: {error}") from error
