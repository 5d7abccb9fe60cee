"""Stage 1: a deterministic sample of each source, as instruction rows with their origin."""

from collections.abc import Iterator

import dagster as dg

from qwenft_assets.assets.reporting import (
    COLUMN_SCHEMA,
    OWNERS,
    count_table,
    dropped_in_words,
    dropped_of,
    first_rows,
    one_line_failures,
)
from qwenft_assets.partitions import SOURCES
from qwenft_assets.progress import progress_bar
from qwenft_assets.resources import ProjectResource, sources_of_partitions
from qwenft_assets.sources.sample import CODE_VERSION, SampleReport, sample_source


@dg.asset(
    partitions_def=SOURCES,
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
    context: dg.AssetExecutionContext, project: ProjectResource
) -> Iterator[dg.AssetMaterialization]:
    """Instruction rows of one source, each with its origin, licence and the rule that let it in."""
    with one_line_failures():
        config = project.config()
        storage = project.storage(config)
        for source in sources_of_partitions(context):
            with progress_bar(f"sampling {source}") as report_progress:
                report = sample_source(config, source, storage, report_progress)
            manifest = report.manifest
            context.log.info(_summary(report))
            folder = storage.source_sample(source)
            yield dg.AssetMaterialization(
                asset_key=context.asset_key,
                partition=source,
                tags={"dagster/data_version": manifest["version"]},
                metadata={
                    "dagster/row_count": manifest["rows"],
                    "dagster/column_schema": COLUMN_SCHEMA,
                    "dagster/uri": str(folder / "rows.parquet"),
                    "unchanged": report.reused,
                    "scanned": manifest["scanned"],
                    "dropped": count_table(dropped_of(manifest), "reason"),
                    "admitted_by": count_table(manifest["admitted_by"], "rule"),
                    "licenses": count_table(manifest["licenses"], "license"),
                    "first_rows": first_rows(folder / "rows.parquet"),
                    "revision": manifest["revision"],
                    "origin": manifest["origin"],
                    "sha256": manifest["sha256"],
                },
            )


def _summary(report: SampleReport) -> str:
    manifest = report.manifest
    state = "unchanged, nothing read" if report.reused else f"dropped {dropped_in_words(manifest)}"
    return f"source_sample {manifest['source']}: {manifest['rows']} rows ({state})"
