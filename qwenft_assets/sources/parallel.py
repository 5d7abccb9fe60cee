"""Shards of one scan read by several processes, or as tasks of a Ray cluster.

Workers leave each shard's rows in the file where a scan that was cut off would find them; who merges
reads these files in the order of the shards. So the result is that of a scan by one process, to the
byte, and a killed scan goes on as ever.
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from qwenft_assets.child_process import end_with
from qwenft_assets.config import Config
from qwenft_assets.errors import WorkerError
from qwenft_assets.launching.ray_cluster import connected
from qwenft_assets.sources.shards import ShardStore

Submit = Callable[[str], "Future[None]"]
"""Has a worker see to it that the rows of a shard are in their file."""


def shards_in_turn(store: ShardStore, limit: int | None, config: Config) -> Iterator[str]:
    """The shards of a scan in their order, each once its rows can be had.

    With one process, or one shard, that is at once: the caller reads. Else workers are ahead of the
    caller by at most `scan_processes` shards, and what they have begun is left when the caller stops.

    Args:
        store: Of the scan.
        limit: Rows wanted of each shard.
        config: sources.scan_processes, and the launcher.

    Raises:
        SourceError: What a worker met.
        WorkerError: A worker was killed.
    """
    processes = min(config.sources.scan_processes, len(store.scan.shards))
    if processes == 1:
        yield from store.scan.shards
        return
    start = _ray_tasks if config.launcher.kind == "ray" else _processes
    with start(store, limit, config, processes) as submit:
        waiting: deque[tuple[str, Future[None] | None]] = deque()
        for shard in store.scan.shards:
            kept = store.holds(shard, limit)
            waiting.append((shard, None if kept else submit(shard)))
            if len(waiting) > processes:
                yield _finished(*waiting.popleft())
        while waiting:
            yield _finished(*waiting.popleft())


def _finished(shard: str, work: "Future[None] | None") -> str:
    try:
        if work is not None:
            work.result()
    except BrokenProcessPool as error:
        raise WorkerError(
            f"a process that read {shard} was killed, most likely because main memory ran out. "
            "Lower sources.scan_processes; the same command goes on with the shards that are left."
        ) from error
    return shard


def _read(store: ShardStore, limit: int | None, shard: str) -> None:
    store.rows_of(shard, limit)


@contextmanager
def _processes(
    store: ShardStore,
    limit: int | None,
    config: Config,  # noqa: ARG001  (as of Ray's tasks)
    processes: int,
) -> Iterator[Submit]:
    others = set(multiprocessing.active_children())
    # Not forked: this process has threads, of Arrow and of Dagster.
    pool = ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), _begin, (os.getpid(),)
    )
    try:
        yield lambda shard: pool.submit(_read, store, limit, shard)
    except BaseException:  # the caller has enough, or was interrupted: what is half read is left
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(parent: int) -> None:
    """In each process: it ends with its parent, Ctrl-C is the parent's, and it has one core."""
    end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pa.set_cpu_count(1)


@contextmanager
def _ray_tasks(
    store: ShardStore, limit: int | None, config: Config, processes: int
) -> Iterator[Submit]:
    own = config.launcher.model_copy(update={"processes": processes})
    with connected(own):
        import ray

        task: Any = ray.remote(num_cpus=own.ray_cpus_per_process)(_read)
        yield lambda shard: task.remote(store, limit, shard).future()
