"""Stage 3: a LoRA adapter, trained in a process of its own."""

import math
from pathlib import Path
from typing import Any

import dagster as dg

from qwenft_assets.assets.mixture import mixed_dataset
from qwenft_assets.assets.reporting import (
    MAX_INLINE_BYTES,
    OWNERS,
    image,
    one_line_failures,
    rounded,
)
from qwenft_assets.partitions import RECIPES
from qwenft_assets.resources import (
    GpuResource,
    ProjectResource,
    WorkerResource,
    recipe_of_partition,
)
from qwenft_assets.storage.files import sha256_of_file
from qwenft_assets.training.feasibility import in_one_line, require_feasible
from qwenft_assets.training.job import (
    CODE_VERSION,
    plan_training,
    point_to_latest,
    whole_adapter,
)
from qwenft_assets.training.loss_curve import thumbnail

SHOWN_FIGURES = (
    "best_eval_loss",
    "best_step",
    "final_train_loss",
    "steps",
    "train_rows",
    "truncated_rows",
    "train_tokens",
    "tokens_per_second",
    "train_seconds",
    "trainable_parameters",
    "base_model",
    "base_revision",
    "mixture_version",
    "device",
    "engine",
    "attention",
)


@dg.asset(
    partitions_def=RECIPES,
    deps=[mixed_dataset],
    pool="gpu",
    group_name="training",
    kinds={"pytorch", "huggingface"},
    owners=OWNERS,
    code_version=CODE_VERSION,
    check_specs=[
        dg.AssetCheckSpec(
            "loss_is_finite",
            asset="lora_adapter",
            partitions_def=RECIPES,
            blocking=True,
            description="Every logged loss is a finite number.",
        )
    ],
)
def lora_adapter(
    context: dg.AssetExecutionContext,
    project: ProjectResource,
    gpu: GpuResource,
    worker: WorkerResource,
) -> dg.MaterializeResult:
    """A LoRA adapter with its tokenizer and training record, in one folder.

    Trains nothing when an adapter of the same mixture, settings and base revision is there. Runs in a
    process of its own, one at a time in the pool `gpu`; the run's log shows the loss as it falls.
    """
    recipe = recipe_of_partition(context)
    with one_line_failures():
        config = project.config()
        storage = project.storage(config)
        storage.fetch(storage.mixed_dataset(recipe))
        device = gpu.resolve(config.training, context.log.info)
        job = plan_training(config, recipe, storage, device.type)
        folder = storage.adapter(recipe, job.version)
        with (
            storage.working_on(makes=[folder, storage.adapters(recipe)]),
            storage.lock(f"lora_adapter-{recipe}"),
        ):
            record = whole_adapter(storage, recipe, job.version)
            reused = record is not None
            if record is None:
                plan = require_feasible(config, recipe, storage, device)
                context.log.info("lora_adapter %s: %s", recipe, in_one_line(*plan))
                context.log.info(
                    "lora_adapter %s: training %s on %s", recipe, job.version, device.name
                )
                record = worker.run(context, "qwenft_assets.training.worker", job, config.launcher)
            # Also where it was there: what wrote it may have been killed before this.
            point_to_latest(storage, recipe, job.version)
    outcome = f"{record['steps']} steps, eval loss {record['best_eval_loss']:.4f}"
    context.log.info(
        "lora_adapter %s: %s %s",
        recipe,
        job.version,
        "unchanged, trained nothing" if reused else outcome,
    )
    history = record["loss_history"]
    losses = [loss for points in history.values() for _, loss in points]
    return dg.MaterializeResult(
        data_version=dg.DataVersion(job.version),
        metadata={
            "dagster/uri": storage.address(folder),
            "unchanged": reused,
            **_pictures(history, folder),
            **{name: rounded(record[name]) for name in SHOWN_FIGURES},
            **({"peak_vram_gib": record["peak_vram_gib"]} if record["peak_vram_gib"] else {}),
            "sha256": sha256_of_file(folder / "adapter_model.safetensors"),
            "settings": dg.MetadataValue.json(record["settings"]),
            "mixture": dg.MetadataValue.asset(dg.AssetKey("mixed_dataset")),
            "evaluated_in": dg.MetadataValue.asset(dg.AssetKey("evaluation")),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="loss_is_finite",
                passed=bool(losses) and all(math.isfinite(loss) for loss in losses),
                severity=dg.AssetCheckSeverity.ERROR,
                metadata={"logged_losses": len(losses)},
            )
        ],
    )


def _pictures(history: dict[str, Any], folder: Path) -> dict[str, dg.MarkdownMetadataValue]:
    """The loss curve: small where it stands, large behind a link."""
    pictures = {"loss_curve_large": (folder / "loss.png").read_bytes()}
    small = thumbnail(history["train"], history["eval"], MAX_INLINE_BYTES)
    if small is not None:
        pictures = {"loss_curve": small, **pictures}
    return {name: image(picture, "loss") for name, picture in pictures.items()}
