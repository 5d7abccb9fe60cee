"""Processes of this machine that read parts of shards for the one that started them.

They are no copies of it, as it has threads, of Arrow and of Dagster; nor does each import anew whatever
the program at hand imports, as multiprocessing's do: only what reads. One that has read stays for a while,
so that the next source of the same run need not wait for another to start.
"""

import atexit
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, Pipe
from typing import Any

import pyarrow as pa

from qwenft_assets.errors import WorkerError
from qwenft_assets.processes.child import end_with
from qwenft_assets.sources.scan import Scan
from qwenft_assets.sources.shards import PartRows, read_part

SECONDS_KEPT = 30.0
"""How long one stays that nobody needs: some sources are small, and read in between."""


class PartReader:
    """One such process, seen from the one that started it."""

    def __init__(self) -> None:
        self._ours, theirs = Pipe()
        self._process = subprocess.Popen(  # noqa: S603
            [
                sys.executable,
                "-m",
                "qwenft_assets.sources.part_readers",
                str(theirs.fileno()),
                str(os.getpid()),
            ],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches it through this process alone
        )
        theirs.close()
        self._thread = threading.get_ident()
        self.busy = False

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def usable(self) -> bool:
        """Whether it is there and waits, and will not end before the caller does."""
        # The system ends it with the thread that started it.
        own = self._thread == threading.get_ident()
        return own and not self.busy and self._process.poll() is None

    def begin(self, scan: Scan, seed: int, limit: int | None) -> None:
        """Have it take up a scan; returns once it has."""
        self._ask("a process that reads sources", (scan, seed, limit))

    def read(self, shard: str, part: int) -> PartRows:
        """One part of a shard of that scan.

        Raises:
            SourceError: What it met.
            WorkerError: It was killed.
        """
        return self._ask(f"a process that read {shard}", (shard, part))

    def _ask(self, who: str, question: object) -> Any:
        self.busy = True
        try:
            self._ours.send(question)
            answer = self._ours.recv()
        except (EOFError, OSError) as error:
            raise WorkerError(
                f"{who} was killed, most likely because main memory ran out. Lower "
                "sources.scan_processes; the same command goes on with the shards that are left."
            ) from error
        self.busy = False
        if isinstance(answer, Exception):
            raise answer
        return answer

    def end(self) -> None:
        """End it, whatever it does; who waits for its answer is told so."""
        self._process.kill()
        self._process.wait()


class _Kept:
    """Those that wait for the next scan."""

    def __init__(self) -> None:
        self._readers: list[PartReader] = []
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def take(self, count: int) -> list[PartReader]:
        """So many, started where there are fewer."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            usable = [reader for reader in self._readers if reader.usable]
            taken = usable[:count]
            left = [reader for reader in self._readers if reader not in taken]
            self._readers = []
        for reader in left:
            reader.end()
        return [*taken, *(PartReader() for _ in range(count - len(taken)))]

    def give(self, readers: list[PartReader]) -> None:
        """Keep those that wait, for a while; end the others."""
        for reader in readers:
            if not reader.usable:
                reader.end()
        with self._lock:
            self._readers += [reader for reader in readers if reader.usable]
            self._timer = threading.Timer(SECONDS_KEPT, self.end)
            self._timer.daemon = True
            self._timer.start()

    def end(self) -> None:
        """End all."""
        with self._lock:
            readers, self._readers = self._readers, []
        for reader in readers:
            reader.end()


_kept = _Kept()
atexit.register(_kept.end)


@contextmanager
def processes_that_read(count: int) -> Iterator[list[PartReader]]:
    """Inside, the caller has so many to itself; what one of them has not finished is left."""
    readers = _kept.take(count)
    try:
        yield readers
    finally:
        _kept.give(readers)


def serve(connection: Connection) -> None:
    """In such a process: answer until the other end is closed."""
    work: Any = None
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            answer: Any = None
            try:
                question = connection.recv()
                if isinstance(question[0], Scan):
                    work = question
                else:
                    answer = read_part(*work, *question)
            except EOFError:
                raise
            except Exception as error:  # noqa: BLE001  (raised again by who asked)
                error.add_note(traceback.format_exc())
                answer = error
            connection.send(answer)


def main(descriptor: int, parent: int) -> None:
    """One of the processes: it ends with its parent, Ctrl-C is the parent's, and it has one core."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with(parent)
    pa.set_cpu_count(1)
    serve(Connection(descriptor))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
