"""Stage 1: a deterministic sample of each source, as instruction rows with their origin."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
from pydantic import Field

from qwenft_assets.assets.reporting import (
    COLUMN_SCHEMA,
    OWNERS,
    WHY_TAG,
    count_table,
    dropped_of,
    first_rows,
    format_dropped,
    in_context,
    one_line_failures,
    record_table,
    tag_run,
)
from qwenft_assets.assets.upstream import observation, upstream_deps
from qwenft_assets.partitions import SOURCES
from qwenft_assets.progress import also_logged, progress_bar
from qwenft_assets.rebuilds.upstream import what_moved
from qwenft_assets.records import SampleManifest
from qwenft_assets.resources import ProjectResource, sources_of_partitions
from qwenft_assets.sources.sample import CODE_VERSION, SampleReport, sample_source
from qwenft_assets.storage.files import read_json

SHOWN_HITS = 10


class SampleOpConfig(dg.Config):
    """What one run may ask for beyond the config file."""

    max_rows: int | None = Field(
        default=None,
        description="Rows wanted of each source sampled in this run, above the config's max_rows. "
        "A sample never shrinks while revision, seed and rules stay.",
    )


@dg.asset(
    partitions_def=SOURCES,
    deps=upstream_deps(),
    # One run for all sources, each with metadata and a data version of its own: hence no single
    # output, but one materialization a partition.
    backfill_policy=dg.BackfillPolicy.single_run(),
    output_required=False,
    group_name="sources",
    kinds={"huggingface", "parquet"},
    owners=OWNERS,
    code_version=CODE_VERSION,
)
def source_sample(
    context: dg.AssetExecutionContext, config: SampleOpConfig, project: ProjectResource
) -> Iterator[dg.AssetObservation | dg.AssetMaterialization]:
    """Instruction rows of one source, each with its origin, licence and the rule that let it in.

    A sample depends on the upstream revision, the seed and the rules alone; unchanged, nothing is read
    again. Rows that are left out are counted by reason. One run may serve a range of sources.
    """
    with one_line_failures():
        settings = project.config()
        storage = project.storage(settings)
        why: list[str] = []
        for source in sources_of_partitions(context):
            title = f"sampling {source}"
            folder = storage.source_sample(source)
            with storage.working_on(makes=[folder]), progress_bar(title) as on_terminal:
                before = read_json(folder / SampleManifest.FILE)
                report_progress = also_logged(on_terminal, context.log.info, title)
                report = sample_source(settings, source, storage, report_progress, config.max_rows)
            manifest = report.manifest
            context.log.info(_summary(report))
            if not report.reused:
                why.append(f"{source}: {what_moved(before, manifest)}")
                tag_run(context, {WHY_TAG: "; ".join(why)})
            if manifest["findings"]:
                found = ", ".join(manifest["findings"])
                context.log.warning("source_sample %s: personal data: %s", source, found)
            yield observation(source, manifest["revision"])
            yield dg.AssetMaterialization(
                asset_key=context.asset_key,
                partition=source,
                tags={"dagster/data_version": manifest["version"]},
                metadata={
                    "dagster/row_count": manifest["rows"],
                    "dagster/column_schema": COLUMN_SCHEMA,
                    "dagster/uri": storage.address(folder, "rows.parquet"),
                    "unchanged": report.reused,
                    "first_rows": first_rows(folder / "rows.parquet"),
                    "scanned": manifest["scanned"],
                    "exhausted": manifest["exhausted"],
                    **_tables(manifest),
                    "sampled_hits": _sampled_hits(folder),
                    "read_mib": manifest["read_mib"],
                    **_speed(report),
                    "origin": manifest["origin"],
                    "revision": manifest["revision"],
                    "sha256": manifest["sha256"],
                },
            )


def _summary(report: SampleReport) -> str:
    manifest = report.manifest
    state = "unchanged, nothing read" if report.reused else f"dropped {format_dropped(manifest)}"
    return f"source_sample {manifest['source']}: {manifest['rows']} rows ({state})"


def _tables(manifest: dict[str, Any]) -> dict[str, dg.TableMetadataValue]:
    """Counts by reason, rule and the like; those that count nothing are left out."""
    counts = {
        "dropped": (dropped_of(manifest), "reason"),
        "admitted_by": (manifest["admitted_by"], "rule"),
        "keyword_hits": (manifest["keyword_hits"], "keyword"),
        "also_in": (manifest["also_in"], "source"),
        "findings": (manifest["findings"], "kind"),
        "licenses": (manifest["licenses"], "license"),
    }
    return {name: count_table(*table) for name, table in counts.items() if table[0]}


def _speed(report: SampleReport) -> dict[str, float]:
    """Figures of this run, which the manifest leaves out: they differ from run to run."""
    if report.reused:
        return {}
    rows_per_second = round(report.manifest["scanned"] / max(report.seconds, 1e-3))
    return {"seconds": round(report.seconds, 2), "rows_per_second": rows_per_second}


def _sampled_hits(folder: Path) -> dg.TableMetadataValue:
    """Where the first rows hold the keyword that let them in; empty for sources without keywords."""
    batch = next(pq.ParquetFile(folder / "rows.parquet").iter_batches(SHOWN_HITS))
    rows = [row for row in batch.to_pylist() if row["admitted_by"] != "all"]
    hits = [
        {"keyword": row["admitted_by"], "in": in_context(row["instruction"], row["admitted_by"])}
        for row in rows
    ]
    return record_table(hits, [("keyword", "string"), ("in", "string")])
