"""Stage 5: the champion pointer, moved only by the gate."""

import dagster as dg

from qwenft_assets.assets.evaluation import evaluation
from qwenft_assets.assets.mixture import mixed_dataset
from qwenft_assets.assets.reporting import OWNERS, one_line_failures
from qwenft_assets.evaluation.job import plan_evaluation
from qwenft_assets.partitions import RECIPES
from qwenft_assets.release.registry import release_adapter
from qwenft_assets.resources import GpuResource, ProjectResource, recipe_of_partition
from qwenft_assets.rows import short_hash
from qwenft_assets.training.job import plan_training

CODE_VERSION = "1"


@dg.asset(
    partitions_def=RECIPES,
    # The mixture too: champions are compared only on the same held-out rows.
    deps=[evaluation, mixed_dataset],
    group_name="release",
    kinds={"json"},
    owners=OWNERS,
    code_version=CODE_VERSION,
)
def release(
    context: dg.AssetExecutionContext, project: ProjectResource, gpu: GpuResource
) -> dg.MaterializeResult:
    """The champion: the newest adapter that beat the base, and the champion before it."""
    recipe = recipe_of_partition(context)
    with one_line_failures():
        config = project.config()
        storage = project.storage(config)
        training = plan_training(config, recipe, storage, gpu.resolve(config.training).type)
        report = release_adapter(config, plan_evaluation(config, training, storage), storage)
    outcome = "released" if report.released else "refused"
    again = " (decided before)" if report.reused else ""
    reasons = "; ".join(report.reasons)
    context.log.info("release %s: %s %s%s: %s", recipe, report.version, outcome, again, reasons)
    champion = report.champion or {}
    return dg.MaterializeResult(
        data_version=dg.DataVersion(short_hash(champion.get("version"))),
        metadata={
            "dagster/uri": str(storage.release(recipe) / "champion.json"),
            "candidate": report.version,
            "released": report.released,
            "reasons": reasons,
            "champion": champion.get("version", "none"),
            "unchanged": report.reused,
            **({"perplexity": champion["perplexity"]} if champion else {}),
        },
    )
