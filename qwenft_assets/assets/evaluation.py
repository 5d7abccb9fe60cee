"""Stage 4: what training bought, on rows it never saw."""

import dagster as dg

from qwenft_assets.assets.mixture import mixed_dataset
from qwenft_assets.assets.reporting import OWNERS, one_line_failures, record_table
from qwenft_assets.assets.training import lora_adapter
from qwenft_assets.evaluation.job import CODE_VERSION, plan_evaluation, read_evaluation
from qwenft_assets.partitions import RECIPES
from qwenft_assets.release.gate import better_than_base
from qwenft_assets.resources import (
    GpuResource,
    ProjectResource,
    WorkerResource,
    recipe_of_partition,
)
from qwenft_assets.training.job import plan_training

PER_SOURCE_COLUMNS = (
    ("eval_rows", "int"),
    ("eval_tokens", "int"),
    ("base_perplexity", "float"),
    ("perplexity", "float"),
    ("base_eval_loss", "float"),
    ("eval_loss", "float"),
    ("delta_loss", "float"),
)


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
    """Loss per token and perplexity on the held-out rows, base against adapter, per source."""
    recipe = recipe_of_partition(context)
    with one_line_failures():
        config = project.config()
        storage = project.storage(config)
        training = plan_training(config, recipe, storage, gpu.resolve(config.training).type)
        job = plan_evaluation(config, training, storage)
        with storage.lock(f"evaluation-{recipe}"):
            result = read_evaluation(storage, recipe, job.adapter_version)
            reused = result is not None and result["inputs"] == job.inputs
            if result is None or not reused:
                result = worker.run(context, "qwenft_assets.evaluation.worker", job)
    low, high = result["delta_loss_ci95"]
    context.log.info(
        "evaluation %s: perplexity %.2f → %.2f%s",
        recipe,
        result["base_perplexity"],
        result["perplexity"],
        " (unchanged)" if reused else "",
    )
    folder = storage.evaluation(recipe, job.adapter_version)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(job.inputs),
        metadata={
            "dagster/uri": str(folder / "evaluation.json"),
            "unchanged": reused,
            "eval_loss": result["eval_loss"],
            "perplexity": result["perplexity"],
            "base_eval_loss": result["base_eval_loss"],
            "base_perplexity": result["base_perplexity"],
            "delta_loss": result["delta_loss"],
            "delta_loss_ci95_low": low,
            "delta_loss_ci95_high": high,
            "eval_rows": result["eval_rows"],
            "eval_tokens": result["eval_tokens"],
            "truncated_rows": result["truncated_rows"],
            "per_source": record_table(
                [
                    {"source": source, **{name: own[name] for name, _ in PER_SOURCE_COLUMNS}}
                    for source, own in result["per_source"].items()
                ],
                [("source", "string"), *PER_SOURCE_COLUMNS],
            ),
            "adapter_version": result["adapter_version"],
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
