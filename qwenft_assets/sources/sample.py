"""The stage: one source's deterministic sample, written with its manifest.

Which rows a sample holds depends on the revision, the seed and the rules alone: shards are taken in
a seeded order, and rows of a shard in a seeded order of their ids. So a sample of 1,000 rows begins
with those of the sample of 100, and a larger one goes on where the smaller stopped. Each shard's
rows are kept in a file of their own, so that a scan that was killed goes on with the next shard.
"""

import shutil
import time
from collections import Counter
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from qwenft_assets.config import Config, HubSource, SourceName
from qwenft_assets.errors import SourceError
from qwenft_assets.hashing import short_hash
from qwenft_assets.progress import ReportProgress, no_progress
from qwenft_assets.records import SampleManifest
from qwenft_assets.rows import row_hash, rows_to_table, table_to_rows, texts_of, version_of
from qwenft_assets.sources.local_reports import reports_path
from qwenft_assets.sources.ray_data import read_over_ray
from qwenft_assets.sources.registry import scan_source
from qwenft_assets.sources.scan import (
    MEBIBYTE,
    Counts,
    ScanProgress,
    ShardCache,
    ShardRows,
    Tally,
)
from qwenft_assets.sources.stackexchange import SITES, keyword_rules
from qwenft_assets.storage.files import (
    is_intact,
    read_json,
    sha256_of_file,
    write_json,
    write_parquet,
)
from qwenft_assets.storage.root import Storage

CODE_VERSION = "2"
"""Raise when the same upstream rows would become other rows."""


@dataclass(frozen=True)
class SampleReport:
    """What a sample holds, as its manifest says."""

    manifest: dict[str, Any]
    reused: bool
    """Nothing had changed, nothing was read or written."""
    seconds: float = 0.0


def sample_source(
    config: Config,
    source: SourceName,
    storage: Storage,
    report_progress: ReportProgress = no_progress,
    max_rows: int | None = None,
) -> SampleReport:
    """Sample one source into `source_sample/<source>/`, unless it is there unchanged.

    Args:
        config: Where the source is and what of it is wanted.
        source: Its name.
        storage: Where the sample goes.
        report_progress: Called after each shard.
        max_rows: Rows wanted, above the config's `max_rows`. A sample does not shrink while the
            revision, seed and rules stay: what was once asked for is kept.

    Raises:
        SourceError: The source is missing, broken, of another schema, or gives no row.
        StorageError: The sample cannot be written.
    """
    started = time.monotonic()
    scan = scan_source(config, source)
    settings = getattr(config.sources, source)
    identity = short_hash(
        CODE_VERSION, scan.revision, scan.rules, settings.model_dump_json(exclude={"max_rows"})
    )
    folder = storage.source_sample(source)
    with storage.lock(f"source_sample-{source}"):
        manifest = read_json(folder / SampleManifest.FILE)
        known = manifest if manifest and manifest.get("identity") == identity else None
        quota = _quota(settings, max_rows, known)
        intact = known and is_intact(folder / "rows.parquet", known.get("sha256"))
        if known and intact and (known["quota"] == quota or known["exhausted"]):
            if known.get("settings") != settings_version(config, source):
                # Another origin with the same files: the rows stay, what they are taken for changes.
                known = {**known, **_place(config, source)}
                write_json(folder / SampleManifest.FILE, known)
            return SampleReport(known, reused=True)
        cache = ShardCache(folder / "shards" / identity, scan, getattr(settings, "seed", 0))
        taken = _take(config, cache, quota, report_progress)
        rows, tally = taken.rows, taken.tally
        if not rows.num_rows:
            dropped = ", ".join(f"{reason} {n}" for reason, n in sorted(tally.dropped.items()))
            raise SourceError(
                f"{source}: no usable row among {tally.scanned} scanned (dropped: "
                f"{dropped or 'none'}). Check sources.{source} in the config."
            )
        write_parquet(folder / "rows.parquet", rows)
        manifest = {
            "source": source,
            "version": taken.version,
            "identity": identity,
            "quota": quota,
            "exhausted": taken.exhausted,
            "rows": rows.num_rows,
            "sha256": sha256_of_file(folder / "rows.parquet"),
            "revision": scan.revision,
            **_place(config, source),
            "scanned": tally.scanned,
            "read_mib": round(tally.bytes_read / MEBIBYTE, 2),
            **{f"dropped_{reason}": n for reason, n in sorted(tally.dropped.items()) if n},
            "licenses": dict(sorted(_counts(rows, "license").items())),
            "admitted_by": _most_first(_counts(rows, "admitted_by")),
            "keyword_hits": _most_first(tally.keyword_hits),
            "also_in": dict(sorted(taken.also_in.items())),
            "findings": dict(sorted(tally.findings.items())),
        }
        write_json(folder / SampleManifest.FILE, manifest)
        _forget_other_scans(folder / "shards", identity)
        return SampleReport(manifest, reused=False, seconds=time.monotonic() - started)


def settings_version(config: Config, source: SourceName) -> str:
    """Hash of all that decides what a sample is but its size and what upstream holds."""
    settings = getattr(config.sources, source)
    rules = keyword_rules(config, source).model_dump_json() if source in SITES else ""
    origin = config.sources.origin if isinstance(settings, HubSource) else ""
    return short_hash(CODE_VERSION, origin, rules, settings.model_dump_json(exclude={"max_rows"}))


def why_stale(config: Config, source: SourceName, manifest: dict[str, Any]) -> str | None:
    """Why a sample is not what the config asks for, told without reading upstream; None if it is.

    New commits of a repository are no reason: the next sampling takes them.
    """
    settings = getattr(config.sources, source)
    if manifest.get("settings") != settings_version(config, source):
        return "it was sampled with other settings, keywords or origin than the config has now"
    if isinstance(settings, HubSource):
        wanted, quota = settings.max_rows or 0, manifest["quota"]
        if quota is not None and wanted > quota and not manifest["exhausted"]:
            return f"it was cut at {quota} rows, the config's max_rows is {wanted}"
    elif reports_path(config).is_file() and (
        sha256_of_file(reports_path(config)) != manifest["revision"]
    ):
        return f"{settings.path} has changed since"
    return None


def _place(config: Config, source: SourceName) -> dict[str, str]:
    settings = getattr(config.sources, source)
    return {
        "settings": settings_version(config, source),
        "origin": config.sources.origin if isinstance(settings, HubSource) else settings.path,
    }


def _quota(
    settings: HubSource | object, max_rows: int | None, known: dict[str, Any] | None
) -> int | None:
    """Rows wanted: the most that config, caller or an earlier run asked for; None: all."""
    configured = settings.max_rows if isinstance(settings, HubSource) else None
    if configured is None:
        return max_rows
    if known is not None and known["quota"] is None:
        return None
    earlier = known["quota"] if known else 0
    return max(configured, max_rows or 0, earlier)


@dataclass(frozen=True)
class _Taken:
    """The first rows of a scan."""

    rows: pa.Table
    version: str
    also_in: Counts
    tally: Tally
    exhausted: bool
    """Upstream has no more."""


def _take(
    config: Config, cache: ShardCache, quota: int | None, report_progress: ReportProgress
) -> _Taken:
    """At most `quota` rows; a shard's rows are matched with other domains while the next is read."""
    scan, tally, seen = cache.scan, Tally(), set[str]()
    tables, hashes, also_in = [rows_to_table([])], list[str](), list[Future[Counts]]()
    progress = ScanProgress(len(scan.shards), report_progress)
    shards_taken = 0
    with (
        ThreadPoolExecutor(max_workers=1) as pool,  # matching frees the GIL
        closing(_rows_of_shards(config, cache, quota, progress)) as shards,
    ):
        for found in shards:
            shards_taken += 1
            tally.add(found.tally)
            fresh = _fresh(found.table, seen)
            if repeated := found.table.num_rows - fresh.num_rows:
                tally.dropped["repeated_id"] += repeated
            kept = fresh.slice(0, None if quota is None else quota - len(hashes))
            also_in.append(pool.submit(scan.also_in, kept))
            tables.append(kept)
            hashes += map(row_hash, table_to_rows(kept))
            progress.after_shard(tally, len(seen))
            if quota is not None and len(seen) >= quota:
                break
    also_there = Counts()
    for counts in also_in:
        also_there.update(counts.result())  # keeps those of which there is none
    complete = shards_taken == len(scan.shards)
    if len(seen) > len(hashes):
        tally.dropped["beyond_max_rows"] += len(seen) - len(hashes)
        complete = False
    return _Taken(
        # In one piece, so that the bytes written do not depend on where shards ended.
        rows=pa.concat_tables(tables).combine_chunks(),
        version=version_of(hashes),
        also_in=also_there,
        tally=tally,
        exhausted=complete and not tally.dropped["beyond_max_rows"],
    )


def _rows_of_shards(
    config: Config, cache: ShardCache, quota: int | None, progress: ScanProgress
) -> Generator[ShardRows, None, None]:
    if config.launcher.kind == "ray":
        return read_over_ray(cache, quota, config.launcher)
    return (cache.rows_of(shard, quota, progress.within_shard) for shard in cache.scan.shards)


def _fresh(table: pa.Table, seen: set[str]) -> pa.Table:
    """The rows whose id was not seen before; now it is."""
    numbers: list[int] = []
    for number, row_id in enumerate(texts_of(table, "row_id")):
        if row_id not in seen:
            seen.add(row_id)
            numbers.append(number)
    return table if len(numbers) == table.num_rows else table.take(pa.array(numbers, pa.int64()))


def _counts(table: pa.Table, column: str) -> Counter[str]:
    return Counter(texts_of(table, column))


def _most_first(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _forget_other_scans(shards: Any, identity: str) -> None:
    for folder in shards.glob("*"):
        if folder.name != identity:
            shutil.rmtree(folder, ignore_errors=True)
