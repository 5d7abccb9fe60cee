"""The child's side of a worker process: one job in, one result or one error out, over Dagster Pipes.

Training and evaluation run in a process of their own, so that torch never enters the code location
and GPU memory always comes back. `dagster_pipes` is a single file without dependencies: importing it
does not import dagster.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from dagster_pipes import open_dagster_pipes
from pydantic import BaseModel

from qwenft_assets.errors import QwenftError

EXIT_INTERRUPTED = 143
PARENT_VARIABLE = "QWENFT_PARENT_PID"
"""Names the process that started this one; in a container that may be process 1."""
_PR_SET_PDEATHSIG = 1

Job = TypeVar("Job", bound=BaseModel)


Log = Callable[[str], None]
"""Writes one line to the run log."""


def run_job(job_type: type[Job], work: Callable[[Job, Log], dict[str, Any]]) -> None:
    """Run `work` on the job that the parent sent, and send its result back.

    A QwenftError is sent back in place of the result, and the process still ends with 0: the parent
    raises it again. A cancelled run ends with 143. Any other exception is a bug and leaves its
    traceback on standard error.
    """
    _die_with_parent()
    signal.signal(signal.SIGINT, _exit_interrupted)
    signal.signal(signal.SIGTERM, _exit_interrupted)
    with open_dagster_pipes() as pipes:
        job = job_type.model_validate(pipes.extras["job"])
        try:
            result = work(job, pipes.log.info)
        except QwenftError as error:
            problem = {"kind": type(error).__name__, "message": str(error)}
            pipes.report_custom_message({"error": problem})
        else:
            pipes.report_custom_message({"result": result})


def _exit_interrupted(signal_number: int, frame: object) -> None:  # noqa: ARG001
    sys.exit(EXIT_INTERRUPTED)


def _die_with_parent() -> None:
    """Ask Linux to end this process when its parent dies, even by kill -9."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        parent = os.environ.get(PARENT_VARIABLE)
        if parent and os.getppid() != int(parent):  # it died before the request stood
            sys.exit(EXIT_INTERRUPTED)
