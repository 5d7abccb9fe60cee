"""A training in a process of its own, which a test may stop, starve or kill at a chosen moment.

The processes are forked from one that has imported torch already: real ones, without ten seconds of
imports each.
"""

import multiprocessing
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from qwenft_assets.training.job import TrainingJob

NOW = "waiting for the kill"
SECONDS = 240
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["qwenft_assets_tests.faults.warm"])


def moved(job: TrainingJob, folder: Path) -> TrainingJob:
    """The same job on a copy of its storage."""
    root = Path(shutil.copytree(job.storage_root, folder / "storage"))
    return job.model_copy(update={"storage_root": root})


class Training:
    """One training process, and what it said."""

    def __init__(self, job: TrainingJob, stop_at: str = "", fault: str = "") -> None:
        """Start it.

        Args:
            job: On a storage of its own.
            stop_at: Wait for the kill once a line of the log begins so.
            fault: Python that runs before training; it may call `wait_for_the_kill()`.
        """
        self.said: list[str] = []
        self._reader, writer = PROCESSES.Pipe(duplex=False)
        arguments = (job.model_dump_json(), stop_at, fault, writer)
        self.process = PROCESSES.Process(target=_train, args=arguments, daemon=True)
        self.process.start()
        writer.close()

    def kill_when_it_waits(self) -> None:
        """`kill -9` at the chosen moment."""
        while self._next_line() != NOW:
            pass
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join(SECONDS)
        assert self.process.exitcode == -signal.SIGKILL

    def finish(self) -> int | None:
        """Let it come to its end; its exit code."""
        while self._next_line() is not None:
            pass
        self.process.join(SECONDS)
        return self.process.exitcode

    def _next_line(self) -> str | None:
        try:
            assert self._reader.poll(SECONDS), self.said
            self.said.append(self._reader.recv())
        except EOFError:
            return None
        return self.said[-1]


def _train(job: str, stop_at: str, fault: str, writer: Any) -> None:
    from qwenft_assets.errors import QwenftError
    from qwenft_assets.training.run import TrainingRun
    from qwenft_assets.training.train import silence_libraries, train

    def wait_for_the_kill() -> None:
        writer.send(NOW)
        time.sleep(SECONDS)

    def log(line: str) -> None:
        writer.send(line)
        if stop_at and line.startswith(stop_at):
            wait_for_the_kill()

    silence_libraries()
    exec(fault, {"wait_for_the_kill": wait_for_the_kill})  # noqa: S102  (a test's own text)
    try:
        train(TrainingRun(TrainingJob.model_validate_json(job), log=log))
    except QwenftError as error:
        writer.send(f"{type(error).__name__}: {error}")
        sys.exit(2)
