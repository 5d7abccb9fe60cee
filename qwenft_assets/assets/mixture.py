"""Stage 2: the weighted, deduplicated, split mixture of a recipe."""

import dagster as dg

from qwenft_assets.assets.reporting import (
    COLUMN_SCHEMA,
    OWNERS,
    count_table,
    dropped_in_words,
    dropped_of,
    first_rows,
    one_line_failures,
    record_table,
)
from qwenft_assets.assets.sources import source_sample
from qwenft_assets.mixture.build import CODE_VERSION, build_mixture
from qwenft_assets.mixture.verification import verify_mixture
from qwenft_assets.partitions import RECIPES
from qwenft_assets.resources import ProjectResource, recipe_of_partition
from qwenft_assets.storage import MIXTURE_FILE

CHECKS = {
    "schema_valid": "Each line holds exactly instruction, input and output, as text.",
    "ratios_kept_or_shortfall_named": "Each ratio within 2 points, or the short source is named.",
    "no_row_in_both_splits": "No question stands in train and in eval.",
}
SOURCE_COLUMNS = ("asked", "available", "rows", "train", "eval", "repeats", "dropped_duplicate")


@dg.asset(
    partitions_def=RECIPES,
    deps=[dg.AssetDep(source_sample, partition_mapping=dg.AllPartitionMapping())],
    group_name="mixture",
    kinds={"python", "parquet"},
    owners=OWNERS,
    code_version=CODE_VERSION,
    check_specs=[
        dg.AssetCheckSpec(name, asset="mixed_dataset", blocking=True, description=description)
        for name, description in CHECKS.items()
    ],
)
def mixed_dataset(
    context: dg.AssetExecutionContext, project: ProjectResource
) -> dg.MaterializeResult:
    """The recipe's mixture: shuffled, 90/10 split by question, as JSONL and with provenance."""
    recipe = recipe_of_partition(context)
    with one_line_failures():
        config = project.config()
        storage = project.storage(config)
        report = build_mixture(config, recipe, storage)
        findings = verify_mixture(storage, recipe)
    manifest, folder = report.manifest, storage.mixed_dataset(recipe)
    state = "unchanged" if report.reused else f"dropped {dropped_in_words(manifest)}"
    context.log.info(
        "mixed_dataset %s: %d rows, %d train and %d eval (%s)",
        recipe,
        manifest["rows"],
        manifest["train_rows"],
        manifest["eval_rows"],
        state,
    )
    for source, missing in manifest["shortfall"].items():
        context.log.warning(
            "mixed_dataset %s: %s is %d rows short of its ratio (shortfall: %s)",
            recipe,
            source,
            missing,
            manifest["shortfall_policy"],
        )
    records = [{"source": name, **quota} for name, quota in manifest["sources"].items()]
    return dg.MaterializeResult(
        data_version=dg.DataVersion(manifest["version"]),
        metadata={
            "dagster/row_count": manifest["rows"],
            "dagster/column_schema": COLUMN_SCHEMA,
            "dagster/uri": str(folder / MIXTURE_FILE),
            "unchanged": report.reused,
            "train_rows": manifest["train_rows"],
            "eval_rows": manifest["eval_rows"],
            "rows_by_source": record_table(
                [{key: record[key] for key in ("source", *SOURCE_COLUMNS)} for record in records],
                [("source", "string"), *((name, "int") for name in SOURCE_COLUMNS)],
            ),
            "ratios": record_table(
                [
                    {"part": key, "asked": asked, "got": manifest["ratios_got"][key]}
                    for key, asked in manifest["ratios_asked"].items()
                ],
                [("part", "string"), ("asked", "float"), ("got", "float")],
            ),
            "dropped": count_table(dropped_of(manifest), "reason"),
            "licenses": count_table(manifest["licenses"], "license"),
            "first_rows": first_rows(folder / "rows.parquet"),
            "sha256": manifest["sha256"],
        },
        check_results=[
            dg.AssetCheckResult(
                check_name=name,
                passed=finding.passed,
                severity=dg.AssetCheckSeverity.ERROR,
                metadata=finding.details,
            )
            for name, finding in findings.items()
        ],
    )
