"""Stage 5: the champion pointer, moved only by the gate, or by hand with a reason."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from qwenft_assets.assets.evaluation import evaluation
from qwenft_assets.assets.mixture import mixed_dataset
from qwenft_assets.assets.reporting import (
    MAX_INLINE_BYTES,
    OWNERS,
    image,
    one_line_failures,
    record_table,
    tag_run,
)
from qwenft_assets.config import RecipeName
from qwenft_assets.errors import GateRefusedError
from qwenft_assets.evaluation.job import plan_evaluation, read_evaluation
from qwenft_assets.hashing import short_hash
from qwenft_assets.partitions import RECIPES
from qwenft_assets.rebuilds.recipes import mixture_changes, what_changed, what_it_bought
from qwenft_assets.records import Champion, HistoryLine
from qwenft_assets.release.history import last_decision, read_history
from qwenft_assets.release.perplexity_plot import draw_perplexities, perplexity_thumbnail
from qwenft_assets.release.pruning import prune_versions
from qwenft_assets.release.registry import release_adapter
from qwenft_assets.resources import GpuResource, ProjectResource, recipe_of_partition
from qwenft_assets.storage.root import Storage
from qwenft_assets.training.job import plan_training

CODE_VERSION = "2"
GATE = "release_gate"


@dg.asset(
    partitions_def=RECIPES,
    # The mixture too: champions are compared only on the same held-out rows.
    deps=[evaluation, mixed_dataset],
    group_name="release",
    kinds={"json"},
    owners=OWNERS,
    code_version=CODE_VERSION,
    check_specs=[
        dg.AssetCheckSpec(
            GATE,
            asset="release",
            partitions_def=RECIPES,
            blocking=True,
            description="Every rule of the release gate holds; its metadata says which do not, and "
            "by how much. After a refusal the champion stays and the run is red.",
        )
    ],
)
def release(
    context: dg.AssetExecutionContext, project: ProjectResource, gpu: GpuResource
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
    """The champion: the newest adapter that passed the gate, and the champions before it.

    `infer`, `chat` and `serve` answer with it. An adapter that fails a rule of the gate ends the run
    red and leaves the champion in place; the check release_gate says which rule, and by how much.
    """
    recipe = recipe_of_partition(context)
    with one_line_failures():
        config = project.config()
        storage = project.storage(config)
        storage.fetch_overview()
        training = plan_training(config, recipe, storage, gpu.resolve(config.training).type)
        storage.fetch(storage.evaluation(recipe, training.version))
        with storage.working_on(makes=[storage.release(recipe)]):
            before = last_decision(storage, recipe)
            report = release_adapter(config, plan_evaluation(config, training, storage), storage)
            pruned = prune_versions(config, recipe, storage)
            outcome_of_rebuild = _changed_and_bought(
                storage, recipe, report.version, before.mixture_version if before else None
            )
            champion = (
                champion_metadata(storage, recipe, report.champion) if report.champion else {}
            )
        where = storage.address(storage.release(recipe), Champion.FILE)
    if pruned:
        context.log.info("release %s: removed old versions %s", recipe, ", ".join(pruned))
    outcome = "released" if report.released else "refused"
    again = " (decided before)" if report.reused else ""
    reasons = "; ".join(report.reasons)
    context.log.info("release %s: %s %s%s: %s", recipe, report.version, outcome, again, reasons)
    for what, words in outcome_of_rebuild.items():
        context.log.info("release %s: %s: %s", recipe, what.replace("_", " "), words)
    tag_run(context, {f"qwenft/{what}": words for what, words in outcome_of_rebuild.items()})
    check = dg.AssetCheckResult(
        check_name=GATE,
        passed=report.released,
        severity=dg.AssetCheckSeverity.ERROR,
        description=reasons,
        metadata={
            "candidate": report.version,
            **outcome_of_rebuild,
            "rules": record_table(
                [vars(rule) for rule in report.rules],
                [("name", "string"), ("passed", "boolean"), ("detail", "string")],
            ),
        },
    )
    if report.released:
        yield dg.MaterializeResult(
            data_version=champion_data_version(report.version),
            metadata={
                "dagster/uri": where,
                "champion": report.version,
                **outcome_of_rebuild,
                **champion,
                "unchanged": report.reused,
                **({"removed_versions": pruned} if pruned else {}),
                "evaluated_in": dg.MetadataValue.asset(dg.AssetKey("evaluation")),
                "trained_in": dg.MetadataValue.asset(dg.AssetKey("lora_adapter")),
            },
            check_results=[check],
        )
        return
    # The check stays on the instance; the failure says in one line why the run is red.
    yield check
    with one_line_failures():
        raise GateRefusedError(f"{report.version} is not released: {reasons}")


def _changed_and_bought(
    storage: Storage, recipe: RecipeName, version: str, mixture_before: str | None
) -> dict[str, str]:
    """What changed in the data since the last decision, and what that bought, in one line each."""
    return {
        "what_changed": what_changed(mixture_changes(storage, recipe, mixture_before)),
        "what_it_bought": what_it_bought(read_evaluation(storage, recipe, version) or {}),
    }


def champion_metadata(
    storage: Storage, recipe: RecipeName, champion: Champion | HistoryLine
) -> dict[str, Any]:
    """Who is champion, since when, by whom and why; and the perplexities of all versions."""
    history = read_history(storage, recipe)
    picture = storage.release(recipe) / "perplexities.png"
    draw_perplexities(history, picture)
    small = perplexity_thumbnail(history)
    return {
        "champion": champion.version,
        "perplexity": round(champion.perplexity, 4),
        "at": champion.at,
        "who": champion.who,
        "why": "; ".join(champion.reasons),
        "perplexity_history": image(small, "perplexity by version")
        if len(small) <= MAX_INLINE_BYTES
        else dg.MetadataValue.path(picture),
        "perplexity_history_large": image(picture.read_bytes(), "perplexity by version"),
    }


def champion_data_version(version: str) -> dg.DataVersion:
    """The release's data version: who is champion, however it came about."""
    return dg.DataVersion(short_hash(version))


def report_move(
    instance: dg.DagsterInstance, storage: Storage, recipe: RecipeName, line: HistoryLine
) -> None:
    """Tell the instance of a move made by hand: a materialization of `release`, as of the gate's."""
    version = champion_data_version(line.version)
    instance.report_runless_asset_event(
        dg.AssetMaterialization(
            asset_key="release",
            partition=recipe,
            description=f"{line.action} by {line.who}: {line.why}",
            metadata={
                "dagster/uri": storage.address(storage.release(recipe), Champion.FILE),
                **champion_metadata(storage, recipe, line),
                "action": line.action,
                "previous": line.previous or "none",
                "unchanged": False,
            },
            tags={"dagster/data_version": version.value},
        )
    )
