"""The child's side of a worker process: one job in, one result or one error out, over Dagster Pipes.

Training and evaluation run in a process of their own, so that torch never enters the code location
and GPU memory always comes back. `dagster_pipes` is a single file without dependencies: importing it
does not import dagster.

A worker ends when it is asked to, or when its parent dies, even by kill -9: at once, or after saving its
state if the job can be resumed. A watching thread ends a worker that takes too long.

Of several processes that do one job, only the first reports log and result; the others report nothing but
the error that ends them. A process that has reported its error exits with EXIT_REPORTED, so that the
launcher ends the others.
"""

import ctypes
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

from dagster_pipes import (
    PIPES_PROTOCOL_VERSION,
    PipesDefaultContextLoader,
    PipesDefaultMessageWriter,
    PipesEnvVarParamsLoader,
    open_dagster_pipes,
)
from pydantic import BaseModel

from qwenft_assets.errors import QwenftError

EXIT_INTERRUPTED = 143
EXIT_REPORTED = 4
"""Exit code of one process among several whose error is among the messages."""
SECONDS_TO_STOP = 20.0
"""How long a worker may take to save its state after it was asked to stop."""
PARENT_VARIABLE = "QWENFT_PARENT_PID"
"""Environment variable: id of the parent process, which holds the other end of standard input open."""
_PR_SET_PDEATHSIG = 1

Job = TypeVar("Job", bound=BaseModel)


Log = Callable[[str], None]
"""Writes one line to the run log."""


class _Stop:
    """Whether this process was asked to stop, and whether it may at any moment."""

    requested = False
    deferred = False


def run_job(job_type: type[Job], work: Callable[[Job, Log], dict[str, Any]]) -> None:
    """Run `work` on the job that the parent sent, and send its result back.

    A QwenftError is sent back in place of the result, and the process still ends with 0: the parent
    raises it again. A cancelled run ends with 143. Any other exception is a bug and leaves its
    traceback on standard error.
    """
    _obey_stop_requests()
    if int(os.environ.get("RANK", "0")) > 0:
        _run_beside_the_first(job_type, work)
        return
    problem = None
    with open_dagster_pipes() as pipes:
        job = job_type.model_validate(pipes.extras["job"])
        try:
            result = work(job, pipes.log.info)
        except QwenftError as error:
            problem = _as_message(error)
            pipes.report_custom_message(problem)
        else:
            pipes.report_custom_message({"result": result})
    if problem and "RANK" in os.environ:
        sys.exit(EXIT_REPORTED)


def _run_beside_the_first(job_type: type[Job], work: Callable[[Job, Log], dict[str, Any]]) -> None:
    """Run the same job without opening Pipes: the parent would take a second opening for an error."""
    parameters = PipesEnvVarParamsLoader()
    with PipesDefaultContextLoader().load_context(parameters.load_context_params()) as context:
        job = job_type.model_validate((context["extras"] or {})["job"])
    try:
        work(job, say_nothing)
    except QwenftError as error:
        with PipesDefaultMessageWriter().open(parameters.load_messages_params()) as channel:
            channel.write_message(
                {
                    "__dagster_pipes_version": PIPES_PROTOCOL_VERSION,
                    "method": "report_custom_message",
                    "params": {"payload": _as_message(error)},
                }
            )
        sys.exit(EXIT_REPORTED)


def _as_message(error: QwenftError) -> dict[str, Any]:
    return {"error": {"kind": type(error).__name__, "message": str(error)}}


def say_nothing(line: str) -> None:
    """Log of a process that is not the first: drops the line."""


def stop_requested() -> bool:
    """Whether this process was asked to stop: by a signal, or by the death of its parent."""
    return _Stop.requested


def request_stop() -> None:
    """Do what a stop signal does, from any thread; outside `stopping_between_steps` the process ends."""
    _Stop.requested = True
    if not _Stop.deferred:
        os._exit(EXIT_INTERRUPTED)


@contextmanager
def stopping_between_steps() -> Iterator[None]:
    """Inside the block a request to stop only sets `stop_requested()`, which the caller checks."""
    _Stop.deferred = True
    try:
        yield
    finally:
        _Stop.deferred = False


def stop() -> NoReturn:
    """End this process with the exit code of a requested stop."""
    sys.exit(EXIT_INTERRUPTED)


def end_with_parent() -> None:
    """Get SIGTERM when the parent process dies; end at once if it is already dead."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent:
        end_with(int(parent))


def end_with(parent: int) -> None:
    """Do the same for the process `parent`, which must have started this one."""
    if sys.platform == "linux":  # also where the parent's end of the pipe was inherited
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the request stood
        stop()


def _obey_stop_requests() -> None:
    """Listen to SIGINT, SIGTERM and the parent's death.

    Python runs a signal handler between two instructions of the main thread only, which may be inside
    a long product of matrices: the watching thread learns of the signal at once, and sees to the end.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _on_signal)
    end_with_parent()
    pipes_to_parent = [sys.stdin.fileno()] if os.environ.get(PARENT_VARIABLE) else []
    threading.Thread(target=_watch, args=(reader, pipes_to_parent), daemon=True).start()


def _on_signal(signal_number: int, frame: object) -> None:  # noqa: ARG001
    if _Stop.requested:
        return
    _Stop.requested = True
    if not _Stop.deferred:
        stop()


def _watch(signals: int, parent: list[int]) -> None:
    ready, _, _ = select.select([signals, *parent], [], [])
    if signals not in ready:  # the parent is gone
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_STOP)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # with what it started itself
    os._exit(EXIT_INTERRUPTED)
