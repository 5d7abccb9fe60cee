"""Rows of single shards: read once, kept as files, so that a scan can be interrupted and extended."""

import heapq
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qwenft_assets.rows import (
    InstructionRow,
    rows_to_table,
    seeded_order,
    short_hash,
    table_to_rows,
)
from qwenft_assets.sources.scan import Scan, Tally
from qwenft_assets.storage import read_parquet, write_parquet

STATE_KEY = b"qwenft"


@dataclass(frozen=True)
class ShardRows:
    """One shard's rows in seeded order, and what was met while reading it."""

    rows: list[InstructionRow]
    tally: Tally


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
        rows = list(self._first(_watched(self.scan.read(shard, tally), tally, watch), limit, tally))
        tally.share_read = 1.0
        if len(self.scan.shards) > 1:
            state = {"tally": tally.as_json(), "limit": limit}
            table = rows_to_table(rows).replace_schema_metadata({STATE_KEY: json.dumps(state)})
            write_parquet(self._file_of(shard), table)
        return ShardRows(rows, tally)

    def holds(self, shard: str, limit: int | None) -> bool:
        """Whether the file of a shard is there, with at least `limit` rows if the shard has them."""
        path = self._file_of(shard)
        if not path.exists():
            return False
        with path.open("rb") as file:  # its end alone is read
            state = _state_of(pq.read_schema(file))
        was_cut = Tally.from_json(state["tally"]).dropped["beyond_max_rows"] > 0
        return not was_cut or (limit is not None and limit <= state["limit"])

    def _kept(self, shard: str) -> ShardRows:
        table = read_parquet(self._file_of(shard))
        return ShardRows(table_to_rows(table), Tally.from_json(_state_of(table.schema)["tally"]))

    def _file_of(self, shard: str) -> Path:
        return self.folder / f"{short_hash(shard)}.parquet"

    def _first(
        self, rows: Iterator[InstructionRow], limit: int | None, tally: Tally
    ) -> Iterator[InstructionRow]:
        keyed = ((seeded_order(self.seed, row.row_id), row) for row in rows)
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
