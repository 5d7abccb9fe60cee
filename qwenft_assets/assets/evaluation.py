"""Stage 4: what training bought, on rows it never saw."""

from pathlib import Path
from typing import Any

import dagster as dg

from qwenft_assets.assets.mixture import mixed_dataset
from qwenft_assets.assets.reporting import (
    MAX_INLINE_BYTES,
    OWNERS,
    image,
    one_line_failures,
    record_table,
)
from qwenft_assets.assets.training import lora_adapter
from qwenft_assets.config import RecipeName
from qwenft_assets.evaluation.job import (
    CODE_VERSION,
    is_current,
    plan_evaluation,
    read_evaluation,
    read_of_version,
)
from qwenft_assets.evaluation.metrics import METRICS
from qwenft_assets.evaluation.report import losses_thumbnail
from qwenft_assets.hashing import short_hash
from qwenft_assets.partitions import RECIPES
from qwenft_assets.records import EvaluationResult
from qwenft_assets.release.gate import better_than_base
from qwenft_assets.release.registry import read_champion
from qwenft_assets.resources import (
    GpuResource,
    ProjectResource,
    WorkerResource,
    recipe_of_partition,
)
from qwenft_assets.storage.root import Storage
from qwenft_assets.training.job import plan_training

FIRST_FIGURES = ("base_perplexity", "perplexity", "delta_loss")
"""Shown first; then the other metrics."""
PICTURES = ("loss_by_source", "loss_by_length", "loss_curve")


@dg.asset(
    partitions_def=RECIPES,
    deps=[lora_adapter, mixed_dataset],
    pool="gpu",
    group_name="evaluation",
    kinds={"pytorch"},
    owners=OWNERS,
    code_version=CODE_VERSION,
    check_specs=[
        dg.AssetCheckSpec(
            "adapter_better_than_base",
            asset="evaluation",
            partitions_def=RECIPES,
            # Not blocking: the run has done its work, and the gate of `release` says no.
            description="The 95 % interval of adapter loss - base loss lies below zero.",
        )
    ],
)
def evaluation(
    context: dg.AssetExecutionContext,
    project: ProjectResource,
    gpu: GpuResource,
    worker: WorkerResource,
) -> dg.MaterializeResult:
    """Loss per token and perplexity on the held-out rows: base, champion and adapter, per source.

    All three read the same rows in one pass. A negative delta is better than the base; its 95 %
    interval is a paired bootstrap over questions. Under Plots, the series by event are the history.
    """
    recipe = recipe_of_partition(context)
    with one_line_failures():
        config = project.config()
        storage = project.storage(config)
        storage.fetch(storage.mixed_dataset(recipe), storage.release(recipe))
        training = plan_training(
            config, recipe, storage, gpu.resolve(config.training, context.log.info).type
        )
        _fetch_adapters(storage, recipe, training.version)
        job = plan_evaluation(config, training, storage)
        folder = storage.evaluation(recipe, job.adapter_version)
        with storage.working_on(makes=[folder]), storage.lock(f"evaluation-{recipe}"):
            result = read_evaluation(storage, recipe, job.adapter_version)
            reused = is_current(result, job)
            if result is None or not reused:
                result = worker.run(
                    context, "qwenft_assets.evaluation.worker", job, config.launcher
                )
    low, high = result["delta_loss_ci95"]
    context.log.info(
        "evaluation %s: perplexity %.2f → %.2f%s",
        recipe,
        result["base_perplexity"],
        result["perplexity"],
        " (unchanged)" if reused else "",
    )
    return dg.MaterializeResult(
        data_version=dg.DataVersion(short_hash(job.inputs, result["champion_version"])),
        metadata={
            "dagster/uri": storage.address(folder, EvaluationResult.FILE),
            "unchanged": reused,
            **_figures(result),
            **_champion(result),
            **_pictures(result, folder),
            "eval_rows": result["eval_rows"],
            "eval_tokens": result["eval_tokens"],
            "truncated_rows": result["truncated_rows"],
            "per_source": _parts_table("source", result["per_source"]),
            "per_length": _parts_table("tokens", result["per_length"]),
            "per_span": _parts_table("counted", result["per_span"]),
            **_canaries(result),
            "leaked_rows": result["leaked_rows"],
            "eval_set": result["eval_set"],
            "eval_set_version": result["eval_set_version"],
            "adapter_version": result["adapter_version"],
            "adapter": dg.MetadataValue.asset(dg.AssetKey("lora_adapter")),
            "decided_in": dg.MetadataValue.asset(dg.AssetKey("release")),
            "mixture_version": result["mixture_version"],
            "report": dg.MetadataValue.path(folder / "report.md"),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="adapter_better_than_base",
                passed=better_than_base(result, config.release),
                severity=dg.AssetCheckSeverity.ERROR,
                metadata={"delta_loss": result["delta_loss"], "ci95_low": low, "ci95_high": high},
            )
        ],
    )


def _fetch_adapters(storage: Storage, recipe: RecipeName, version: str) -> None:
    """The adapter and the champion that it is compared with, and what that one was trained on."""
    champion = read_champion(storage, recipe)
    for needed in {version, champion.version if champion else version}:
        storage.fetch(*read_of_version(storage, recipe, needed))


def _parts_table(label: str, parts: dict[str, Any]) -> dg.TableMetadataValue:
    """The counts and figures of each part as a table."""
    counts = ("eval_rows", "eval_tokens")
    records = [
        {label: name, **_figures(own), **{count: own[count] for count in counts}}
        for name, own in parts.items()
    ]
    names = [*dict.fromkeys(name for record in records for name in record if name != label)]
    kinds = [(name, "int" if name in counts else "float") for name in names]
    return record_table(records, [(label, "string"), *kinds])


def _figures(own: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Every metric with as many digits as a person reads, and the ends of an interval apart.

    evaluation.json has all digits.
    """
    shown: dict[str, float] = {}
    keys = [key for metric in METRICS for key in metric.keys]
    for key in sorted(keys, key=lambda key: key not in FIRST_FIGURES):
        figure = own.get(prefix + key)
        if isinstance(figure, list | tuple):
            low, high = figure
            shown |= {f"{prefix}{key}_low": round(low, 4), f"{prefix}{key}_high": round(high, 4)}
        elif figure is not None:  # an older evaluation lacks a newer metric
            shown[prefix + key] = round(figure, 4)
    return shown


def _champion(result: dict[str, Any]) -> dict[str, Any]:
    figures = _figures(result, "champion_")
    return {"champion_version": result["champion_version"], **figures} if figures else {}


def _canaries(result: dict[str, Any]) -> dict[str, Any]:
    shares = result["canaries"]
    names = list(shares["adapter"])
    if not names:
        return {}
    records = [
        {"canary": name, **{model: of_model[name] for model, of_model in shares.items()}}
        for name in names
    ]
    columns = [("canary", "string"), *((model, "float") for model in shares)]
    return {"canaries": record_table(records, columns)}


def _pictures(result: dict[str, Any], folder: Path) -> dict[str, dg.MarkdownMetadataValue]:
    """Losses by source small where they stand; every picture large behind a link."""
    shown: dict[str, dg.MarkdownMetadataValue] = {}
    small = losses_thumbnail(result)
    if len(small) <= MAX_INLINE_BYTES:
        shown["losses"] = image(small, "loss by source: base grey, adapter red")
    for name in PICTURES:
        file = folder / f"{name}.png"
        if file.exists():
            shown[f"{name}_large"] = image(file.read_bytes(), name)
    return shown
