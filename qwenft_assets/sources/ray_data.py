"""The shards of a scan read by a Ray cluster, one Ray Data task a shard, in the order of the shards.

A task returns the shard's rows and counts; this process writes them where a scan of one machine would,
so samples, manifests and the files of a killed scan are the same bytes.
"""

import json
import logging
import warnings
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from qwenft_assets.config import LauncherConfig
from qwenft_assets.errors import SourceError, WorkerError
from qwenft_assets.processes.ray_cluster import connected
from qwenft_assets.rows import texts_of
from qwenft_assets.sources.scan import ReadShard, ShardCache, ShardRows, Tally, read_shard


def read_over_ray(
    cache: ShardCache, limit: int | None, launcher: LauncherConfig
) -> Generator[ShardRows, None, None]:
    """The rows of each shard of a scan, as `ShardCache.rows_of` gives them.

    With a limit, tasks read at most one shard for each core of the cluster ahead of the caller.

    Raises:
        SourceError: A shard cannot be read.
        WorkerError: The cluster cannot be reached, or a task was lost more often than Ray repeats it.
    """
    shards = cache.scan.shards
    missing = [shard for shard in shards if not cache.holds(shard, limit)]
    if len(missing) < 2:  # noqa: PLR2004  (starting a cluster would take longer)
        yield from (cache.rows_of(shard, limit) for shard in shards)
        return
    with connected(launcher):
        read = _read(partial(_read_batch, cache.scan.read, cache.seed, limit), missing, limit)
        for shard in shards:
            if shard in missing:
                yield cache.keep(shard, limit, next(read))
            else:
                yield cache.rows_of(shard, limit)


def _read(
    task: "partial[pa.Table]", shards: Sequence[str], limit: int | None
) -> Iterator[ShardRows]:
    import ray
    import ray.data
    from ray.exceptions import RayError

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # It copies its own settings, and warns of the deprecated ones among them.
    warnings.filterwarnings("ignore", module=r"ray\.data\.context")
    options = ray.data.DataContext.get_current()
    options.enable_progress_bars = options.print_on_execution_start = False
    options.execution_options.preserve_order = True
    at_once = len(shards) if limit is None else int(ray.cluster_resources()["CPU"])
    for start in range(0, len(shards), at_once):
        names = [{"shard": shard} for shard in shards[start : start + at_once]]
        items = ray.data.from_items(names, override_num_blocks=len(names))
        results = items.map_batches(task, batch_size=1, batch_format="pyarrow")
        try:
            for result in results.iter_rows():
                yield _unpacked(result)
        except RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise WorkerError(
                f"Ray Data could not read the sources: {reason}. Run the same command again: the "
                "files read so far are kept."
            ) from error


def _read_batch(read: ReadShard, seed: int, limit: int | None, names: pa.Table) -> pa.Table:
    """In the cluster: rows and counts of one shard, or what is wrong with it, as one row."""
    shard = texts_of(names, "shard")[0]
    result: dict[str, bytes | str] = {"rows": b"", "tally": "", "error": ""}
    try:
        found = read_shard(read, shard, seed, limit)
    except SourceError as error:
        result["error"] = str(error)
    else:
        with (sink := pa.BufferOutputStream()), pa.ipc.new_stream(sink, found.table.schema) as out:
            out.write_table(found.table)
        result |= {"rows": sink.getvalue().to_pybytes(), "tally": json.dumps(found.tally.as_json())}
    types = {"rows": pa.large_binary(), "tally": pa.string(), "error": pa.string()}
    return pa.table({name: pa.array([result[name]], kind) for name, kind in types.items()})


def _unpacked(result: dict[str, Any]) -> ShardRows:
    if result["error"]:
        raise SourceError(result["error"])
    table = pa.ipc.open_stream(result["rows"]).read_all()
    return ShardRows(table, Tally.from_json(json.loads(result["tally"])))
