"""Actors of a Ray cluster that read parts of shards for the process that is connected to it.

An actor is one process, whatever it is asked; a task would run wherever a core is free. It stays for the
next scan as long as the connection does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from qwenft_assets.sources.scan import Scan
from qwenft_assets.sources.shards import PartRows, read_part

RETRIES = 3
"""Of a part whose actor was lost, in another one: as often as Ray repeats a task."""


class RayReader:
    """An actor, seen from this process."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.waits = False

    def begin(self, scan: Scan, seed: int, limit: int | None) -> None:
        """Send what all parts need to the cluster, once."""
        import ray

        self._work = ray.put(scan), seed, limit

    def read(self, shard: str, part: int) -> PartRows:
        """One part."""
        import ray

        self.waits = True
        rows: Any = ray.get(self.actor.read.remote(*self._work, shard, part))
        self.waits = False
        return rows


class _PartActor:
    """In the cluster. It keeps nothing between two parts, so that one that is lost begins anew."""

    def read(self, scan: Scan, seed: int, limit: int | None, shard: str, part: int) -> PartRows:
        return read_part(scan, seed, limit, shard, part)


_kept: dict[tuple[str, str], list[Any]] = {}
"""Actors that wait for the next scan, by connection: every cluster of one's own begins with job 1, and
none but a new one has another node."""


@contextmanager
def actors_that_read(count: int, cpus: float) -> Iterator[list[RayReader]]:
    """Inside, readers by so many actors; one that still reads at the end is killed.

    Args:
        count: Of the actors.
        cpus: That Ray sets aside for each.
    """
    import ray

    context = ray.get_runtime_context()
    connection = context.get_node_id(), context.get_job_id()
    for gone in _kept.keys() - {connection}:
        del _kept[gone]
    waiting = _kept.setdefault(connection, [])
    remote: Any = ray.remote(num_cpus=cpus, max_restarts=RETRIES, max_task_retries=RETRIES)
    readers = [
        RayReader(waiting.pop() if waiting else remote(_PartActor).remote()) for _ in range(count)
    ]
    try:
        yield readers
    finally:
        for reader in readers:
            if reader.waits:
                ray.kill(reader.actor)
            else:
                waiting.append(reader.actor)
