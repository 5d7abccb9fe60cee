"""Shards of one scan read by several processes, or with actors of a Ray cluster.

A shard is read in parts, which go to whoever is free, in the order of the shards; the caller reads parts
as well, since it would else wait. It joins the parts of a shard, and leaves the shard's rows in the file
where a scan that was cut off would find them. So the result is that of a scan by one process, to the
byte, a killed scan goes on as ever, and one file is no slower than many.
"""

import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

from qwenft_assets.config import Config
from qwenft_assets.processes.ray_cluster import connected
from qwenft_assets.sources.part_readers import processes_that_read
from qwenft_assets.sources.ray_readers import actors_that_read
from qwenft_assets.sources.scan import Scan, Tally, no_others
from qwenft_assets.sources.shards import PartRows, ShardRows, ShardStore, read_part


class Reader(Protocol):
    """Reads parts elsewhere; one thread of this process waits for it."""

    def begin(self, scan: Scan, seed: int, limit: int | None) -> None:
        """Make it ready to read parts of a scan; returns once it is."""
        ...

    def read(self, shard: str, part: int) -> PartRows:
        """One part."""
        ...


def shards_in_turn(
    store: ShardStore,
    limit: int | None,
    config: Config,
    watch: Callable[[Tally], None] = lambda _: None,
) -> Generator[ShardRows, None, None]:
    """The rows of each shard of a scan, in the order of the shards.

    With `scan_processes` above 1, others read ahead of the caller by at most one shard more than there
    are of them; what they have begun is left when the caller stops.

    Args:
        store: Of the scan.
        limit: Rows wanted of each shard.
        config: sources.scan_processes, and the launcher.
        watch: Told the counts so far within a shard, where one process reads it.

    Raises:
        SourceError: What one of them met.
        WorkerError: One of them was killed.
    """
    shards = store.scan.shards
    missing = [shard for shard in shards if not store.holds(shard, limit)]
    others = config.sources.scan_processes - 1
    if store.scan.split is None:
        others = min(others, len(missing) - 1)
    if others < 1 or not missing:
        for shard in shards:
            yield store.rows_of(shard, limit, watch)
        return
    scan = replace(store.scan, also_in=no_others)
    start = _ray_actors if config.launcher.kind == "ray" else _processes
    with start(config, others) as readers:
        # Of a shard that nobody has opened one part is known: each finds one in a shard of its own.
        work = _Work(missing, ahead=len(readers) + 1)
        with work.also_done_by(readers, scan, store.seed, limit):
            for shard in shards:
                if shard not in work.shards:
                    yield store.rows_of(shard, limit, watch)
                    continue
                while (parts := work.parts_of(shard)) is None:
                    if task := work.take(wait_for=shard):
                        work.put(task, read_part(scan, store.seed, limit, *task))
                yield store.joined(shard, limit, parts)


@dataclass
class _Shard:
    """How far a shard is."""

    taken: int = 0
    of: int | None = None
    """How many parts it has: known once the first is read, which fetches the file."""
    read: dict[int, PartRows] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return len(self.read) == self.of


Task = tuple[str, int]
"""A shard and the number of one of its parts."""


class _Work:
    """The parts of all shards: who asks is given the next, and brings its rows."""

    def __init__(self, shards: list[str], ahead: int) -> None:
        self.shards = {shard: _Shard() for shard in shards}
        self._order, self._turn, self._ahead = shards, 0, ahead
        self._changed = threading.Condition()
        self._over = False
        self._error: BaseException | None = None

    def parts_of(self, shard: str) -> list[PartRows] | None:
        """All parts of a shard in their order, which are forgotten here; None: not all are read."""
        with self._changed:
            of = self.shards[shard]
            if not of.complete:
                return None
            self._turn += 1
            self._changed.notify_all()
            parts, of.read = [of.read[number] for number in sorted(of.read)], {}
            return parts

    def take(self, wait_for: str | None = None) -> Task | None:
        """The next part that nobody has taken; waits for one.

        Args:
            wait_for: Give up, with None, once this shard is complete.

        Raises:
            CancelledError: There will be none for a reader.
            BaseException: What another one met.
        """
        with self._changed:
            while True:
                if wait_for is None and (self._over or self._error):
                    raise CancelledError
                if self._error:
                    raise self._error
                if wait_for is not None and self.shards[wait_for].complete:
                    return None
                for shard in self._order[self._turn : self._turn + 1 + self._ahead]:
                    of = self.shards[shard]
                    if of.taken < (of.of or 1):
                        of.taken += 1
                        return shard, of.taken - 1
                self._changed.wait()

    def put(self, task: Task, rows: PartRows) -> None:
        """The rows of a part that was taken."""
        shard, part = task
        with self._changed:
            self.shards[shard].of = rows.parts
            self.shards[shard].read[part] = rows
            self._changed.notify_all()

    @contextmanager
    def also_done_by(
        self, readers: list[Reader], scan: Scan, seed: int, limit: int | None
    ) -> Iterator[None]:
        """Inside, each reader takes parts, too; afterwards no more."""

        def run(reader: Reader) -> None:
            try:
                reader.begin(scan, seed, limit)
                while task := self.take():
                    self.put(task, reader.read(*task))
            except CancelledError:
                return
            except BaseException as error:  # noqa: BLE001  (raised again in the caller's thread)
                with self._changed:
                    self._error = self._error or error
                    self._changed.notify_all()

        for reader in readers:
            threading.Thread(target=run, args=(reader,), daemon=True).start()
        try:
            yield
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()


@contextmanager
def _processes(config: Config, others: int) -> Iterator[list[Reader]]:  # noqa: ARG001  (as of Ray's)
    with processes_that_read(others) as readers:
        yield list(readers)


@contextmanager
def _ray_actors(config: Config, others: int) -> Iterator[list[Reader]]:
    own = config.launcher.model_copy(update={"processes": others})
    with connected(own), actors_that_read(others, own.ray_cpus_per_process) as readers:
        yield list(readers)
