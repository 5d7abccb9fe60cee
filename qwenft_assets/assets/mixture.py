"""Stage 2: the weighted, deduplicated, leakage-checked, split mixture of a recipe."""

from pathlib import Path
from typing import Any

import dagster as dg

from qwenft_assets.assets.reporting import (
    COLUMN_SCHEMA,
    OWNERS,
    REBUILD_TAG,
    WHY_TAG,
    count_table,
    dropped_of,
    first_rows,
    format_dropped,
    image,
    newest,
    one_line_failures,
    record_table,
    tag_run,
)
from qwenft_assets.assets.sources import source_sample
from qwenft_assets.config import SOURCE_NAMES, Config
from qwenft_assets.errors import BaseModelError
from qwenft_assets.mixture.attribution import ATTRIBUTION_FILE
from qwenft_assets.mixture.build import CODE_VERSION, MixtureReport, build_mixture
from qwenft_assets.mixture.lengths import (
    PICTURE_FILE,
    LengthReport,
    draw_small_lengths,
    report_lengths,
)
from qwenft_assets.mixture.verification import verify_mixture
from qwenft_assets.model.row_lengths import RowLengths, row_lengths
from qwenft_assets.partitions import RECIPES
from qwenft_assets.progress import progress_bar
from qwenft_assets.resources import ProjectResource, recipe_of_partition
from qwenft_assets.storage.root import ALL, MIXTURE_FILE, Storage

CHECKS = {
    "schema_valid": "Each line holds exactly instruction, input and output, as text.",
    "ratios_kept_or_shortfall_named": "Each ratio within 2 points, or the short source is named.",
    "no_leakage": "No question of eval, nor one like it, stands in train.",
    "no_contamination": "No row overlaps with an evaluation file or with PubMedQA's test set.",
}
SOURCE_COLUMNS = ("asked", "available", "rows", "train", "eval", "repeats")
LENGTH_COLUMNS = ("rows", "tokens", "p50", "p95", "max", "truncated_rows")


@dg.asset(
    partitions_def=RECIPES,
    deps=[dg.AssetDep(source_sample, partition_mapping=dg.AllPartitionMapping())],
    group_name="mixture",
    kinds={"python", "parquet"},
    owners=OWNERS,
    code_version=CODE_VERSION,
    check_specs=[
        dg.AssetCheckSpec(
            name,
            asset="mixed_dataset",
            partitions_def=RECIPES,
            blocking=True,
            description=description,
        )
        for name, description in CHECKS.items()
    ],
)
def mixed_dataset(
    context: dg.AssetExecutionContext, project: ProjectResource
) -> dg.MaterializeResult:
    """The recipe's mixture: shuffled, split by question, as JSONL and with provenance.

    Quotas by source, copies and near-copies out, no question on both sides of the 90/10 split. `diff`
    says which rows came and went since the build before, and why. The checks read the files again.
    """
    recipe = recipe_of_partition(context)
    tag_run(context, _story_of_samples(context, recipe))
    with one_line_failures(), progress_bar(f"mixing {recipe}") as report_progress:
        config = project.config()
        storage = project.storage(config)
        folder = storage.mixed_dataset(recipe)
        counter, why_not = _token_counter(config, storage)
        lengths = None
        with storage.working_on(reads=[storage.source_sample(ALL)], makes=[folder]):
            report = build_mixture(config, recipe, storage, counter, report_progress)
            findings = verify_mixture(config, storage, recipe, report_progress)
            if counter is not None:
                lengths = report_lengths(
                    storage, recipe, counter, config.training.max_length_tokens, report_progress
                )
    manifest = report.manifest
    _log(context, recipe, report)
    if lengths is None:
        context.log.warning("mixed_dataset %s: lengths unknown: %s", recipe, why_not)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(manifest["version"]),
        metadata={
            "dagster/row_count": manifest["rows"],
            "dagster/column_schema": COLUMN_SCHEMA,
            "dagster/uri": storage.address(folder, MIXTURE_FILE),
            "unchanged": report.reused,
            "train_rows": manifest["train_rows"],
            "eval_rows": manifest["eval_rows"],
            "ratios": _ratios(config, manifest, lengths),
            "rows_by_source": _rows_by_source(manifest),
            **(_lengths(lengths, folder) if lengths else {"lengths_unknown": why_not}),
            "dropped": count_table(dropped_of(manifest), "reason"),
            "dropped_by_source": _dropped_by_source(manifest),
            "licenses": count_table(manifest["licenses"], "license"),
            "attribution": dg.MetadataValue.path(str(folder / ATTRIBUTION_FILE)),
            "diff": _diff(report.diff),
            "first_rows": first_rows(folder / "rows.parquet"),
            "sha256": manifest["files"][MIXTURE_FILE],
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


def _story_of_samples(context: dg.AssetExecutionContext, recipe: str) -> dict[str, str]:
    """The tags of the runs that sampled since the mixture before: what began this rebuild, and why."""
    last = newest(context.instance, context.asset_key, recipe)
    story = dict[str, list[str]]()
    for source in SOURCE_NAMES:
        record = newest(context.instance, dg.AssetKey("source_sample"), source)
        if record is not None and (last is None or record.storage_id > last.storage_id):
            run = context.instance.get_run_by_id(record.run_id)
            tags = run.tags if run else {}
            for name in {REBUILD_TAG, WHY_TAG}.intersection(tags):
                story.setdefault(name, []).append(tags[name])
    return {name: "; ".join(dict.fromkeys(words)) for name, words in story.items()}


def _token_counter(config: Config, storage: Storage) -> tuple[RowLengths | None, str]:
    """The counter, or why there is none: a mixture that drops no row for its length needs none."""
    try:
        return row_lengths(config.training, storage), ""
    except BaseModelError as error:
        if config.mixture.over_long != "truncate":
            raise
        return None, str(error)


def _log(context: dg.AssetExecutionContext, recipe: str, report: MixtureReport) -> None:
    manifest = report.manifest
    context.log.info(
        "mixed_dataset %s: %d rows, %d train and %d eval (%s)",
        recipe,
        manifest["rows"],
        manifest["train_rows"],
        manifest["eval_rows"],
        "unchanged" if report.reused else f"dropped {format_dropped(manifest)}",
    )
    for source, missing in manifest["shortfall"].items():
        context.log.warning(
            "mixed_dataset %s: %s is %d rows short of its ratio (shortfall: %s)",
            recipe,
            source,
            missing,
            manifest["shortfall_policy"],
        )


def _ratios(
    config: Config, manifest: dict[str, Any], lengths: LengthReport | None
) -> dg.TableMetadataValue:
    """Asked against got, in rows and in tokens."""
    records: list[dict[str, str | int | float]] = []
    for key, asked in manifest["ratios_asked"].items():
        record = {
            "part": key,
            "asked": asked,
            "got_by_rows": manifest["ratios_got"][key],
            "short_rows": manifest["shortfall"].get(key, 0),
        }
        if lengths is not None:
            sources = config.mixture.groups.get(key, (key,))
            shares = [
                lengths.by_source[s]["share_of_tokens"] for s in sources if s in lengths.by_source
            ]
            record["got_by_tokens"] = round(sum(shares), 4)
        records.append(record)
    columns = [("part", "string"), ("asked", "float"), ("got_by_rows", "float")]
    columns += [("got_by_tokens", "float")] if lengths is not None else []
    return record_table(records, [*columns, ("short_rows", "int")])


def _rows_by_source(manifest: dict[str, Any]) -> dg.TableMetadataValue:
    records = [
        {"source": name, **{column: quota[column] for column in SOURCE_COLUMNS}}
        for name, quota in manifest["sources"].items()
    ]
    return record_table(records, [("source", "string"), *((n, "int") for n in SOURCE_COLUMNS)])


def _dropped_by_source(manifest: dict[str, Any]) -> dg.TableMetadataValue:
    reasons = list(dropped_of(manifest))
    records = [
        {"source": name, **{reason: counts[f"dropped_{reason}"] for reason in reasons}}
        for name, counts in manifest["sources"].items()
    ]
    return record_table(records, [("source", "string"), *((reason, "int") for reason in reasons)])


def _lengths(lengths: LengthReport, folder: Path) -> dict[str, Any]:
    records = [
        {"source": source, **{column: figures[column] for column in LENGTH_COLUMNS}}
        for source, figures in lengths.by_source.items()
    ]
    together = lengths.by_source["all"]
    small = draw_small_lengths(lengths.histogram)
    return {
        "tokens": together["tokens"],
        "truncated_share": together["truncated_share"],
        "lengths": record_table(
            records, [("source", "string"), *((name, "int") for name in LENGTH_COLUMNS)]
        ),
        "length_histogram": image(small, "rows by tokens"),
        "length_histogram_large": image((folder / PICTURE_FILE).read_bytes(), "lengths"),
    }


def _diff(diff: dict[str, Any]) -> dg.TableMetadataValue | str:
    if diff["previous_version"] is None:
        return "first build"
    columns = [("source", "string"), ("change", "string"), ("cause", "string"), ("rows", "int")]
    records = [{name: change[name] for name, _ in columns} for change in diff["changes"]]
    return record_table(records, columns)
