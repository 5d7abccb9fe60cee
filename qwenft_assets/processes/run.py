"""A run: one job at work in this process, with everything that goes through its functions together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from qwenft_assets.processes.child import Log, say_nothing
from qwenft_assets.processes.ranks import ALONE, Ranks
from qwenft_assets.progress import ReportProgress, no_progress
from qwenft_assets.storage.locking import hold_device
from qwenft_assets.storage.root import Storage


class StageJob(Protocol):
    """What the job of every stage has."""

    @property
    def recipe(self) -> str:
        """The recipe whose artifacts it makes."""
        ...

    @property
    def device(self) -> str:
        """`cuda` or `cpu`."""
        ...

    @property
    def storage_root(self) -> Path:
        """The local folder that holds all artifacts."""
        ...

    @property
    def storage_url(self) -> str | None:
        """The remote root that the processes themselves read and write; None if they do not."""
        ...

    def makes(self, storage: Storage) -> tuple[Path, ...]:
        """The folders of the artifacts that it makes."""
        ...


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
