"""Several processes of a worker on this machine: `python -m qwenft_assets.processes.torchrun MODULE N`.

torch's elastic agent, the engine of `torchrun` and `accelerate launch`, starts and watches them: when
one of them dies, it ends the others. This launcher also ends when its parent does, and exits with the
code of the process that failed.
"""

import logging
import os
import signal
import sys
import uuid
from typing import Any, NoReturn

from qwenft_assets.processes.child import (
    EXIT_INTERRUPTED,
    PARENT_VARIABLE,
    SECONDS_TO_STOP,
    end_with_parent,
)

SECONDS_BEYOND = 2
"""Processes end themselves after SECONDS_TO_STOP; one that does not is killed."""


def launch(module: str, processes: int) -> NoReturn:
    """Run `processes` copies of `python -m module`, and exit as they do."""
    end_with_parent()
    os.environ[PARENT_VARIABLE] = str(os.getpid())  # the parent of the processes
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // processes, 1)))
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.ERROR)
    patience: dict[str, Any] = {}
    if "shutdown_timeout" in LaunchConfig.__dataclass_fields__:  # before torch 2.12 it is 30 s
        patience["shutdown_timeout"] = int(SECONDS_TO_STOP) + SECONDS_BEYOND
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,  # the next run goes on from the last checkpoint
        **patience,
    )
    try:
        elastic_launch(config, sys.executable)("-m", module)
    except SignalException:
        sys.exit(EXIT_INTERRUPTED)
    except ChildFailedError as error:
        sys.exit(first_cause([failure.exitcode for failure in error.failures.values()]))
    sys.exit(0)


def first_cause(codes: list[int]) -> int:
    """The exit code that explains the others when several processes failed together.

    A process that loses another in mid-step fails as well, with a traceback and 1. So a process that was
    killed, or has reported its error, comes first.
    """
    by_signal = [128 - code for code in codes if code < 0 and -code != signal.SIGTERM]
    reported = [code for code in codes if code > 1]
    return [*by_signal, *reported, EXIT_INTERRUPTED if min(codes) < 0 else 1][0]


if __name__ == "__main__":
    launch(sys.argv[1], int(sys.argv[2]))
