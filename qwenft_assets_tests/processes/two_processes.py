"""Two processes that do one job together, without the imports that a launcher starts with.

They are forked from one that has imported torch already, and find each other as a launcher's processes
do: by RANK, WORLD_SIZE and a port.
"""

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIZE = 2
SECONDS = 120
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["qwenft_assets_tests.faults.warm"])
Work = Callable[..., Any]
"""Of a module, with the processes as its first argument; its result crosses the process border."""


def together(work: Work, *arguments: Any) -> list[Any]:
    """What each of the processes returns."""
    with started(work, *arguments) as (processes, readers):
        results = [reader.recv() for reader in readers if reader.poll(SECONDS)]
        for process in processes:
            process.join(SECONDS)
        assert [process.exitcode for process in processes] == [0] * SIZE
    return results


def killed(work: Work, *arguments: Any) -> None:
    """Have both killed as soon as one of them has called `wait_for_the_kill`."""
    with started(work, *arguments) as (processes, readers):
        assert readers[0].poll(SECONDS)
        assert readers[0].recv() == "now"
        for process in processes:
            os.kill(process.pid, signal.SIGKILL)
            process.join(SECONDS)


class WaitForTheKill:
    """A log that says when a line begins so, and then goes no further."""

    def __init__(self, line: str) -> None:
        self.line = line
        self.writer: Any = None

    def __call__(self, line: str) -> None:
        if line.startswith(self.line):
            self.writer.send("now")
            time.sleep(SECONDS)


@contextmanager
def started(work: Work, *arguments: Any) -> Iterator[tuple[list[Any], list[Any]]]:
    """The processes, and what each of them answers through."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes, readers = list[Any](), list[Any]()
    for rank in range(SIZE):
        reader, writer = PROCESSES.Pipe(duplex=False)
        process = PROCESSES.Process(target=_work, args=(rank, port, writer, work, arguments))
        process.start()
        writer.close()
        processes.append(process)
        readers.append(reader)
    try:
        yield processes, readers
    finally:
        for process in processes:
            process.kill()


def _work(rank: int, port: int, writer: Any, work: Work, arguments: tuple[Any, ...]) -> None:
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": SIZE, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in places.items()})
    os.environ["MASTER_ADDR"] = "localhost"
    from qwenft_assets.processes.ranks import process_group
    from qwenft_assets.training.train import silence_libraries

    silence_libraries()
    for argument in arguments:
        if isinstance(argument, WaitForTheKill):
            argument.writer = writer
    with process_group("cpu") as ranks:
        writer.send(work(ranks, *arguments))
