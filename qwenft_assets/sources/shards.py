"""Rows of single shards: read once, kept as files, so that a scan can be interrupted and extended."""

import heapq
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

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
        path = self.folder / f"{short_hash(shard)}.parquet"
        kept = self._kept(path, limit)
        if kept is not None:
            return kept
        tally = Tally()
        rows = list(self._first(_watched(self.scan.read(shard, tally), tally, watch), limit, tally))
        tally.share_read = 1.0
        if len(self.scan.shards) > 1:
            state = {"tally": tally.as_json(), "limit": limit}
            table = rows_to_table(rows).replace_schema_metadata({STATE_KEY: json.dumps(state)})
            write_parquet(path, table)
        return ShardRows(rows, tally)

    def _kept(self, path: Path, limit: int | None) -> ShardRows | None:
        if not path.exists():
            return None
        table = read_parquet(path)
        state = json.loads((table.schema.metadata or {})[STATE_KEY])
        tally = Tally.from_json(state["tally"])
        held = state["limit"]
        was_cut = tally.dropped["beyond_max_rows"] > 0
        if was_cut and (limit is None or limit > held):
            return None
        return ShardRows(table_to_rows(table), tally)

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


def _watched(
    rows: Iterator[InstructionRow], tally: Tally, watch: Callable[[Tally], None]
) -> Iterator[InstructionRow]:
    for row in rows:
        watch(tally)
        yield row
