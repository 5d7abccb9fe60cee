"""A run: one job at work in this process, with everything that goes through its functions together."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict

from qwenft_assets.config import RecipeName
from qwenft_assets.processes.child import Log, say_nothing
from qwenft_assets.processes.ranks import ALONE, Ranks
from qwenft_assets.progress import ReportProgress, no_progress
from qwenft_assets.storage.locking import hold_device
from qwenft_assets.storage.root import Storage


class StageJob(BaseModel, ABC):
    """The job of one stage, sent as JSON to each process that works on it."""

    model_config = ConfigDict(frozen=True)

    recipe: RecipeName
    device: str
    """`cuda` or `cpu`."""
    storage_root: Path
    """Folder of the storage root; the stage of a remote one."""
    storage_url: str | None = None
    """The remote root, if the processes themselves download from it and upload to it."""

    @abstractmethod
    def makes(self, storage: Storage) -> tuple[Path, ...]:
        """Folders of the artifacts that the job makes."""

    @abstractmethod
    def staged(self, storage: Storage) -> Self:
        """The job on a machine whose stage is `storage`, after downloading what it reads.

        Raises:
            QwenftError: What the job needs is not on that machine, or has changed since it was planned.
        """


Job = TypeVar("Job", bound=StageJob)


@dataclass(frozen=True)
class Run(Generic[Job]):
    """One job, the processes that do it together, and where they report."""

    job: Job
    ranks: Ranks = ALONE
    log: Log = say_nothing
    report_progress: ReportProgress = no_progress

    @cached_property
    def storage(self) -> Storage:
        """Where the job's artifacts are."""
        return Storage(self.job.storage_root, self.job.storage_url)

    @contextmanager
    def exclusive(self, activity: str) -> Iterator[None]:
        """Hold the recipe and the device inside the block; upload the artifacts at its end.

        The worker holds these locks itself: it may still be saving after its parent was killed.

        Args:
            activity: What is done, as the lock's name says it: `training`, `evaluating`.
        """
        with ExitStack() as held:
            if self.ranks.is_main_process:
                held.enter_context(self.storage.lock(f"{activity}-{self.job.recipe}", self.log))
                held.enter_context(hold_device(self.job.device, self.log))
                held.enter_context(self.storage.working_on(makes=self.job.makes(self.storage)))
            self.ranks.barrier()
            yield
