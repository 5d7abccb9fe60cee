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
from qwenft_assets.evaluation.pictures import losses_thumbnail
from qwenft_assets.partitions import RECIPES
from qwenft_assets.release.gate import better_than_base
from qwenft_assets.release.registry import read_champion
from qwenft_assets.resources import (
    GpuResource,
    ProjectResource,
    WorkerResource,
    recipe_of_partition,
)
from qwenft_assets.rows import short_hash
from qwenft_assets.storage.root import Storage
from qwenft_assets.training.job import plan_training

PART_COLUMNS = (
    ("base_perplexity", "float"),
    ("perplexity", "float"),
    ("delta_loss", "float"),
    ("ci95_low", "float"),
    ("ci95_high", "float"),
    ("eval_rows", "int"),
    ("eval_tokens", "int"),
    ("base_eval_loss", "float"),
    ("eval_loss", "float"),
)
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
            "dagster/uri": storage.address(folder, "evaluation.json"),
            "unchanged": reused,
            "perplexity": _rounded(result["perplexity"]),
            "base_perplexity": _rounded(result["base_perplexity"]),
            **_champion(result),
            **_pictures(result, folder),
            "eval_loss": _rounded(result["eval_loss"]),
            "base_eval_loss": _rounded(result["base_eval_loss"]),
            "delta_loss": _rounded(result["delta_loss"]),
            "delta_loss_ci95_low": _rounded(low),
            "delta_loss_ci95_high": _rounded(high),
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
    champion = read_champion(storage, recipe) or {}
    for needed in {version, champion.get("version", version)}:
        storage.fetch(*read_of_version(storage, recipe, needed))


def _parts_table(label: str, parts: dict[str, Any]) -> dg.TableMetadataValue:
    """The figures of each part as a table."""
    records = []
    for name, own in parts.items():
        low, high = own["delta_loss_ci95"]
        values = {**own, "ci95_low": low, "ci95_high": high}
        shown = {column: values[column] for column, _ in PART_COLUMNS}
        records.append(
            {
                label: name,
                **{k: _rounded(v) if isinstance(v, float) else v for k, v in shown.items()},
            }
        )
    return record_table(records, [(label, "string"), *PART_COLUMNS])


def _rounded(figure: float) -> float:
    """As many digits as a person reads; evaluation.json holds them all."""
    return round(figure, 4)


def _champion(result: dict[str, Any]) -> dict[str, Any]:
    if "champion_delta_loss" not in result:
        return {}
    low, high = result["champion_delta_loss_ci95"]
    return {
        "champion_version": result["champion_version"],
        "champion_perplexity": _rounded(result["champion_perplexity"]),
        "champion_delta_loss": _rounded(result["champion_delta_loss"]),
        "champion_delta_loss_ci95_low": _rounded(low),
        "champion_delta_loss_ci95_high": _rounded(high),
    }


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
