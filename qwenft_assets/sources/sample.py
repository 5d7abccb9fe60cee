"""The stage: one source's deterministic sample, written with its manifest.

Which rows a sample holds depends on the revision, the seed and the rules alone. Rows are ordered by a
seeded hash of their id, so a sample of 1,000 begins with the rows of the sample of 100, and a row
more upstream moves no other.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from qwenft_assets.config import Config, HubSource, SourceName
from qwenft_assets.errors import SourceError
from qwenft_assets.progress import ReportProgress, no_progress
from qwenft_assets.rows import (
    InstructionRow,
    rows_to_table,
    rows_version,
    seeded_order,
    short_hash,
)
from qwenft_assets.sources.local_reports import scan_local_reports
from qwenft_assets.sources.pubmedqa import scan_pubmedqa
from qwenft_assets.sources.scan import Scan, Tally
from qwenft_assets.sources.slimorca import scan_slimorca
from qwenft_assets.sources.stackexchange import (
    scan_stackexchange_ai,
    scan_stackexchange_biomed,
    scan_stackexchange_ic,
)
from qwenft_assets.storage import (
    Storage,
    is_intact,
    read_json,
    sha256_of_file,
    write_json,
    write_parquet,
)

SCANS: dict[SourceName, Callable[[Config], Scan]] = {
    "local_reports": scan_local_reports,
    "slimorca": scan_slimorca,
    "pubmedqa": scan_pubmedqa,
    "stackexchange_ai": scan_stackexchange_ai,
    "stackexchange_ic": scan_stackexchange_ic,
    "stackexchange_biomed": scan_stackexchange_biomed,
}
CODE_VERSION = "1"
"""Raise when the same upstream rows would become other rows."""
PROGRESS_EVERY_ROWS = 1_000


@dataclass(frozen=True)
class SampleReport:
    """What a sample holds, as its manifest says."""

    manifest: dict[str, Any]
    reused: bool
    """Nothing had changed, nothing was read or written."""


def sample_source(
    config: Config,
    source: SourceName,
    storage: Storage,
    report_progress: ReportProgress = no_progress,
) -> SampleReport:
    """Sample one source into `source_sample/<source>/`, unless it is there unchanged.

    Raises:
        SourceError: The source is missing, broken, of another schema, or gives no row.
        StorageError: The sample cannot be written.
    """
    scan = SCANS[source](config)
    settings = getattr(config.sources, source)
    inputs = short_hash(CODE_VERSION, scan.revision, settings.model_dump_json())
    folder = storage.source_sample(source)
    with storage.lock(f"source_sample-{source}"):
        manifest = read_json(folder / "manifest.json")
        if (
            manifest
            and manifest.get("inputs") == inputs
            and is_intact(folder / "rows.parquet", manifest.get("sha256"))
        ):
            return SampleReport(manifest, reused=True)
        tally = Tally()
        rows = choose_rows(_counted(scan, tally, report_progress), settings, tally)
        if not rows:
            dropped = ", ".join(f"{reason} {n}" for reason, n in sorted(tally.dropped.items()))
            raise SourceError(
                f"{source}: no usable row among {tally.scanned} scanned (dropped: "
                f"{dropped or 'none'}). Check sources.{source} in the config."
            )
        write_parquet(folder / "rows.parquet", rows_to_table(rows))
        manifest = {
            "source": source,
            "version": rows_version(rows),
            "inputs": inputs,
            "rows": len(rows),
            "sha256": sha256_of_file(folder / "rows.parquet"),
            "revision": scan.revision,
            "origin": config.sources.origin if isinstance(settings, HubSource) else settings.path,
            "scanned": tally.scanned,
            **{f"dropped_{reason}": n for reason, n in sorted(tally.dropped.items()) if n},
            "licenses": dict(sorted(Counter(row.license for row in rows).items())),
            "admitted_by": dict(Counter(row.admitted_by for row in rows).most_common()),
        }
        write_json(folder / "manifest.json", manifest)
        return SampleReport(manifest, reused=False)


def choose_rows(
    rows: Iterator[InstructionRow], settings: HubSource | object, tally: Tally
) -> list[InstructionRow]:
    """The first `max_rows` rows in seeded order; one row for each row id."""
    seed = settings.seed if isinstance(settings, HubSource) else 0
    quota = settings.max_rows if isinstance(settings, HubSource) else None
    seen: set[str] = set()
    unique: list[tuple[bytes, InstructionRow]] = []
    for row in rows:
        if row.row_id in seen:
            tally.dropped["repeated_id"] += 1
            continue
        seen.add(row.row_id)
        unique.append((seeded_order(seed, row.row_id), row))
    if quota is not None and len(unique) > quota:
        tally.dropped["beyond_max_rows"] += len(unique) - quota
    chosen = heapq.nsmallest(quota or len(unique), unique, key=lambda pair: pair[0])
    return [row for _, row in chosen]


def _counted(scan: Scan, tally: Tally, report_progress: ReportProgress) -> Iterator[InstructionRow]:
    for kept, row in enumerate(scan.read(tally), 1):
        if kept % PROGRESS_EVERY_ROWS == 0:
            report_progress(tally.scanned, 0, f"{kept} kept")
        yield row
