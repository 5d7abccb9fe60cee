"""What a rebuild of a recipe has to do, what it changed, and what that bought, in one line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwenft_assets.config import Config, RecipeName
from qwenft_assets.errors import QwenftError
from qwenft_assets.evaluation.job import is_current, plan_evaluation, read_evaluation
from qwenft_assets.mixture.build import mixture_inputs, recipe_of
from qwenft_assets.mixture.samples import sample_manifests, sources_of
from qwenft_assets.model.row_lengths import row_lengths
from qwenft_assets.records import MixtureDiff, MixtureManifest
from qwenft_assets.release.history import withdrawal_of
from qwenft_assets.release.registry import is_decided, read_champion, read_history
from qwenft_assets.storage.files import read_json
from qwenft_assets.storage.root import Storage
from qwenft_assets.training.job import plan_training, training_record


@dataclass(frozen=True)
class Standing:
    """The stages that are up to date, in flow order, and what is due next."""

    current: dict[str, str]
    """Stage to the artifact it has, such as `mixed_dataset` to a version."""
    due: str | None
    """Why a rebuild has work to do; None if it has none."""

    def __str__(self) -> str:
        return ", ".join(f"{stage} {what}" for stage, what in self.current.items())


def standing(config: Config, recipe: RecipeName, storage: Storage) -> Standing:
    """Check each stage in turn, up to the first that a rebuild would repeat.

    Reads manifests and records only; loads no model. A stage that cannot be checked counts as due: the
    rebuild will say what is wrong.
    """
    current = dict[str, str]()
    try:
        return Standing(current, _first_due(config, recipe, storage, current))
    except QwenftError as error:
        return Standing(current, str(error))


def _first_due(
    config: Config, recipe: RecipeName, storage: Storage, current: dict[str, str]
) -> str | None:
    """Why the first stage is due that does not follow from the one before; adds the others to `current`."""
    settings = recipe_of(config, recipe)
    samples = sample_manifests(config, sources_of(config, settings), storage)
    truncates = config.mixture.over_long == "truncate"
    counter = None if truncates else row_lengths(config.training, storage)
    mixture = read_json(storage.mixed_dataset(recipe) / MixtureManifest.FILE)
    if mixture is None:
        return "no mixture yet"
    if mixture["inputs"] != mixture_inputs(config, settings, samples, counter):
        return f"mixture {mixture['version']} is of other samples or settings"
    current["mixed_dataset"] = mixture["version"]
    training = plan_training(
        config, recipe, storage, "cpu"
    )  # the version is the same on any device
    if training_record(storage, recipe, training.version) is None:
        return f"adapter {training.version} is not trained yet"
    current["lora_adapter"] = training.version
    job = plan_evaluation(config, training, storage)
    result = read_evaluation(storage, recipe, training.version)
    withdrawn = withdrawal_of(training.version, read_history(storage, recipe))
    if withdrawn is None and (result is None or not is_current(result, job)):
        return f"adapter {training.version} is not evaluated against the champion yet"
    current["evaluation"] = f"perplexity {result['perplexity']:.2f}" if result else "withdrawn"
    if withdrawn is None and not is_decided(config, job, storage):
        return f"the gate has not decided on adapter {training.version} yet"
    champion = read_champion(storage, recipe)
    current["release"] = f"champion {champion.version}" if champion else "no champion"
    return None


def mixture_changes(
    storage: Storage, recipe: str, since: str | None = None
) -> list[dict[str, Any]] | None:
    """The rows by which the mixture differs from the build before; None for the first build.

    Args:
        storage: Where the mixture is.
        recipe: Its recipe.
        since: A mixture's version; if that is the present one, nothing has changed.
    """
    diff = read_json(storage.mixed_dataset(recipe) / MixtureDiff.FILE)
    if diff is not None and diff["version"] == since:
        return []
    return None if diff is None or diff["previous_version"] is None else diff["changes"]


def what_changed(changes: Sequence[Mapping[str, Any]] | None) -> str:
    """Such as `slimorca: 40 added (upstream), 3 removed (quota)`."""
    if changes is None:
        return "first build"
    by_source = dict[str, list[str]]()
    for change in changes:
        words = f"{change['rows']} {change['change']} ({change['cause']})"
        by_source.setdefault(change["source"], []).append(words)
    parts = [f"{name}: {', '.join(words)}" for name, words in by_source.items()]
    return "; ".join(parts) or "no row of the mixture"


def what_it_bought(evaluation: Mapping[str, Any]) -> str:
    """Perplexity beside the champion's on the same rows, or beside the base's if there is none."""
    other, name, delta = "base", "the base", "delta_loss"
    if "champion_perplexity" in evaluation:
        other, name, delta = "champion", "the champion before it", "champion_delta_loss"
    low, high = evaluation[f"{delta}_ci95"]
    return (
        f"perplexity {evaluation['perplexity']:.2f}, {name} {evaluation[f'{other}_perplexity']:.2f} "
        f"(loss {evaluation[delta]:+.4f} nats per token, 95 % interval {low:+.4f} to {high:+.4f})"
    )
