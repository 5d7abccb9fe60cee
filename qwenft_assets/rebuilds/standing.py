"""How far a recipe's artifacts follow from the samples at hand and the present config."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from qwenft_assets.config import Config, RecipeName
from qwenft_assets.errors import QwenftError
from qwenft_assets.evaluation.job import is_current, plan_evaluation, read_evaluation
from qwenft_assets.mixture.build import mixture_inputs, recipe_of
from qwenft_assets.mixture.samples import sample_manifests, sources_of
from qwenft_assets.model.row_lengths import row_lengths
from qwenft_assets.records import MixtureManifest
from qwenft_assets.release.history import withdrawal_of
from qwenft_assets.release.registry import is_decided, read_champion, read_history
from qwenft_assets.storage.files import read_json
from qwenft_assets.storage.root import Storage
from qwenft_assets.training.job import plan_training, training_record


@dataclass(frozen=True)
class Standing:
    """The stages that are up to date, in flow order, and what is due next."""

    current: dict[str, str]
    """Stage to what stands there, such as `mixed_dataset` to a version."""
    due: str | None
    """Why a rebuild has work to do; None where it has none."""

    def __str__(self) -> str:
        return ", ".join(f"{stage} {what}" for stage, what in self.current.items())


class _DueError(Exception):
    """A stage that does not follow from the one before."""


def standing(config: Config, recipe: RecipeName, storage: Storage) -> Standing:
    """Look at each stage in turn, up to the first that a rebuild would do again.

    Reads manifests and records only; loads no model. A stage that cannot be told counts as due: the
    rebuild will say what is wrong.
    """
    current = dict[str, str]()
    try:
        current.update(_stages(config, recipe, storage))
    except _DueError as due:
        return Standing(current, str(due))
    except QwenftError as error:
        return Standing(current, str(error))
    return Standing(current, None)


def _stages(config: Config, recipe: RecipeName, storage: Storage) -> Iterator[tuple[str, str]]:
    settings = recipe_of(config, recipe)
    samples = sample_manifests(config, sources_of(config, settings), storage)
    counter = None
    if config.mixture.over_long != "truncate":
        counter = row_lengths(config.training, storage)
    mixture = read_json(storage.mixed_dataset(recipe) / MixtureManifest.FILE)
    if mixture is None:
        raise _DueError("no mixture yet")
    if mixture["inputs"] != mixture_inputs(config, settings, samples, counter):
        raise _DueError(f"mixture {mixture['version']} is of other samples or settings")
    yield "mixed_dataset", mixture["version"]
    # The device does not decide the version.
    training = plan_training(config, recipe, storage, "cpu")
    if training_record(storage, recipe, training.version) is None:
        raise _DueError(f"adapter {training.version} is not trained yet")
    yield "lora_adapter", training.version
    job = plan_evaluation(config, training, storage)
    result = read_evaluation(storage, recipe, training.version)
    withdrawn = withdrawal_of(training.version, read_history(storage, recipe))
    if withdrawn is None and (result is None or not is_current(result, job)):
        raise _DueError(f"adapter {training.version} is not evaluated against the champion yet")
    yield "evaluation", f"perplexity {result['perplexity']:.2f}" if result else "withdrawn"
    champion = read_champion(storage, recipe)
    if withdrawn is None and not is_decided(config, job, storage):
        raise _DueError(f"the gate has not decided on adapter {training.version} yet")
    yield "release", f"champion {champion.version}" if champion else "no champion"
