"""The parent's side of a worker process: start it, wait for it, and never leave it behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress

from qwenft_assets.config import LauncherConfig
from qwenft_assets.errors import WorkerError
from qwenft_assets.processes.child import (
    EXIT_INTERRUPTED,
    EXIT_REPORTED,
    PARENT_VARIABLE,
    SECONDS_TO_STOP,
)

SECONDS_BEYOND = 5.0
"""A worker ends itself after SECONDS_TO_STOP; one that does not is killed."""
EXIT_KILLED = 137


def command_of(module: str, launcher: LauncherConfig) -> list[str]:
    """The command that runs a worker module with a launcher."""
    python = [sys.executable, "-m"]
    if launcher.kind == "ray":
        return [*python, "qwenft_assets.processes.ray_job", module, launcher.model_dump_json()]
    if launcher.kind == "accelerate" and launcher.processes > 1:
        return [*python, "qwenft_assets.processes.torchrun", module, str(launcher.processes)]
    return [*python, module]


class WorkerProcess:
    """A process in a group of its own, so that Ctrl-C reaches it through its parent alone."""

    def __init__(
        self, module: str, environment: Mapping[str, str], launcher: LauncherConfig
    ) -> None:
        """Start `python -m module`, or a launcher that starts several of it.

        Args:
            module: Calls `child_process.run_job`.
            environment: Variables to add to those of this process.
            launcher: How many processes, started by what.
        """
        self.module = module
        self._process = subprocess.Popen(  # noqa: S603
            command_of(module, launcher),
            env={**os.environ, **environment, PARENT_VARIABLE: str(os.getpid())},
            stdin=subprocess.PIPE,  # never written to: it closes when this process ends
            start_new_session=True,
        )

    def wait(self) -> None:
        """Wait for the worker to end; an exception in between stops it first.

        Its result, or the user's mistake that ended it, is among its messages.

        Raises:
            WorkerError: The system killed it, or somebody stopped it.
            RuntimeError: It failed.
        """
        try:
            code = self._process.wait()
        finally:
            self._stop()
        if code < 0:
            code = 128 - code
        if code == EXIT_KILLED:
            raise WorkerError(
                f"{self.module} was killed (exit {code}), most likely because main memory ran out: "
                "`dmesg` tells. Give the machine more memory or swap, or lower "
                "training.max_length_tokens; the same command goes on from the last checkpoint."
            )
        if code == EXIT_INTERRUPTED:
            raise WorkerError(
                f"{self.module} was stopped by a signal. Run the same command again: it goes "
                "on from its last checkpoint."
            )
        if code not in {0, EXIT_REPORTED}:
            raise RuntimeError(f"{self.module} failed with code {code}; its traceback is above")

    def _stop(self) -> None:
        try:
            if self._process.poll() is None:
                self._process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(timeout=SECONDS_TO_STOP + SECONDS_BEYOND)
        finally:  # also if a second request to stop comes in between
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)  # what it started, too
            self._process.wait()
            if self._process.stdin is not None:
                self._process.stdin.close()
