"""Rows of single shards: read once, kept as files, so that a scan can be interrupted and extended."""

import heapq
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qwenft_assets.rows import InstructionRow, rows_to_table, seeded_order, short_hash, texts_of
from qwenft_assets.sources.scan import Scan, Tally
from qwenft_assets.storage.files import read_parquet, write_parquet

STATE_KEY = b"qwenft"


@dataclass(frozen=True)
class ShardRows:
    """One shard's rows in seeded order, and what was met while reading it."""

    table: pa.Table
    tally: Tally


@dataclass(frozen=True)
class PartRows:
    """One part's rows, at most so many as are wanted of the shard, and what was met."""

    table: pa.Table
    tally: Tally
    parts: int
    """Of the shard, this one among them."""


def read_part(scan: Scan, seed: int, limit: int | None, shard: str, part: int) -> PartRows:
    """One part of a shard, the whole one where the scan has no split; leaves no file.

    Args:
        scan: Of the shard.
        seed: Which rows of more than `limit` are the first.
        limit: None for all rows.
        shard: One of the scan's.
        part: From 0.
    """
    tally = Tally()
    split = scan.split
    rows = split.read(shard, part, tally) if split else scan.read(shard, tally)
    table = rows_to_table(list(_first(rows, seed, limit, tally)))
    return PartRows(table, tally, split.count(shard) if split else 1)


@dataclass(frozen=True)
class ShardStore:
    """The shards of one scan; files of several-shard scans are kept in `folder`."""

    folder: Path
    scan: Scan
    seed: int

    def rows_of(
        self, shard: str, limit: int | None, watch: Callable[[Tally], None] = lambda _: None
    ) -> ShardRows:
        """At most `limit` rows of a shard, the first in seeded order; from its file if it has them.

        A limit bounds what stays in memory: a million rows pass, `limit` stay.

        Args:
            shard: One of the scan's.
            limit: None for all rows.
            watch: Told the counts so far, row by row, while the shard is read.
        """
        if self.holds(shard, limit):
            return self._kept(shard)
        tally = Tally()
        read = _watched(self.scan.read(shard, tally), tally, watch)
        rows = list(_first(read, self.seed, limit, tally))
        return self._keep(shard, limit, rows_to_table(rows), tally)

    def joined(self, shard: str, limit: int | None, parts: Sequence[PartRows]) -> ShardRows:
        """The same from all parts of the shard, in their order: the same rows, file and counts."""
        tally = Tally()
        for part in parts:
            tally.add(part.tally)
        table = pa.concat_tables([part.table for part in parts])
        keys = [seeded_order(self.seed, row_id) for row_id in texts_of(table, "row_id")]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        if limit is not None:
            tally.dropped["beyond_max_rows"] += len(order) - len(order[:limit])
        rows = table.take(pa.array(order[:limit], pa.int64())).combine_chunks()
        return self._keep(shard, limit, rows, tally)

    def holds(self, shard: str, limit: int | None) -> bool:
        """Whether the file of a shard is there, with at least `limit` rows if the shard has them."""
        path = self._file_of(shard)
        if not path.exists():
            return False
        with path.open("rb") as file:  # its end alone is read
            state = _state_of(pq.read_schema(file))
        was_cut = Tally.from_json(state["tally"]).dropped["beyond_max_rows"] > 0
        return not was_cut or (limit is not None and limit <= state["limit"])

    def _keep(self, shard: str, limit: int | None, table: pa.Table, tally: Tally) -> ShardRows:
        tally.share_read = 1.0
        if len(self.scan.shards) > 1:
            state = {"tally": tally.as_json(), "limit": limit}
            kept = table.replace_schema_metadata({STATE_KEY: json.dumps(state)})
            write_parquet(self._file_of(shard), kept)
        return ShardRows(table, tally)

    def _kept(self, shard: str) -> ShardRows:
        table = read_parquet(self._file_of(shard))
        tally = Tally.from_json(_state_of(table.schema)["tally"])
        return ShardRows(table.replace_schema_metadata(None), tally)

    def _file_of(self, shard: str) -> Path:
        return self.folder / f"{short_hash(shard)}.parquet"


def _first(
    rows: Iterator[InstructionRow], seed: int, limit: int | None, tally: Tally
) -> Iterator[InstructionRow]:
    """The first `limit` rows in seeded order; others are counted as left out."""
    keyed = ((seeded_order(seed, row.row_id), row) for row in rows)
    if limit is None:
        yield from (row for _, row in sorted(keyed, key=lambda pair: pair[0]))
        return
    count = 0

    def counted() -> Iterator[tuple[bytes, InstructionRow]]:
        nonlocal count
        for pair in keyed:
            count += 1
            yield pair

    chosen = heapq.nsmallest(limit, counted(), key=lambda pair: pair[0])
    tally.dropped["beyond_max_rows"] += count - len(chosen)
    yield from (row for _, row in chosen)


def _state_of(schema: pa.Schema) -> dict[str, Any]:
    return json.loads((schema.metadata or {})[STATE_KEY])


def _watched(
    rows: Iterator[InstructionRow], tally: Tally, watch: Callable[[Tally], None]
) -> Iterator[InstructionRow]:
    for row in rows:
        watch(tally)
        yield row
