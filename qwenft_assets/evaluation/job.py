"""What an evaluation is: the job that crosses the process border."""

from pathlib import Path
from typing import Any, Self

from qwenft_assets.config import Config, EvaluationConfig, RecipeName, TrainingConfig
from qwenft_assets.errors import EvaluationError
from qwenft_assets.evaluation.generations import load_prompts
from qwenft_assets.hashing import short_hash
from qwenft_assets.mixture.frozen_eval import frozen_version, read_frozen_eval
from qwenft_assets.model.base import BaseModelRef, base_model_here
from qwenft_assets.processes.run import StageJob
from qwenft_assets.records import Champion, EvaluationResult
from qwenft_assets.storage.files import read_json, read_record
from qwenft_assets.storage.root import Storage
from qwenft_assets.training.job import TrainingJob, require_mixture, training_record

CODE_VERSION = "2"
"""Raise when the same adapter and rows would give other figures."""


class EvaluationJob(StageJob):
    """Everything the evaluation worker needs, as JSON."""

    adapter_version: str
    mixture_version: str
    inputs: str
    """Hash of all that decides the figures, but for the champion."""
    champion_version: str | None
    """The adapter to compare with; None where there is none on this base model."""
    base: BaseModelRef
    engine: str
    training: TrainingConfig
    settings: EvaluationConfig

    def makes(self, storage: Storage) -> tuple[Path, ...]:
        """Folders of the artifacts that it makes."""
        return (storage.evaluation(self.recipe, self.adapter_version),)

    def staged(self, storage: Storage) -> Self:
        """The job on a machine whose stage is `storage`, after downloading what it reads.

        Raises:
            MixtureError: The mixture is another one by now.
            BaseModelError: The base model is not on that machine.
            EvaluationError: The user's prompts or frozen rows are not on that machine.
            StorageError: The store cannot be read.
        """
        storage.fetch(storage.mixed_dataset(self.recipe))
        for version in filter(None, (self.adapter_version, self.champion_version)):
            storage.fetch(*read_of_version(storage, self.recipe, version))
        require_mixture(storage, self.recipe, self.mixture_version)
        if inputs_of(self.adapter_version, self.mixture_version, self.settings) != self.inputs:
            raise EvaluationError(
                f"{self.settings.prompts_path}, evaluation.frozen_eval or qwenft itself is not the same "
                "as on the machine that runs the step. Put the same files there, and install the same "
                "version."
            )
        base = base_model_here(self.base, self.training, storage)
        return self.model_copy(update={"storage_root": storage.root, "base": base})


def plan_evaluation(config: Config, training: TrainingJob, storage: Storage) -> EvaluationJob:
    """The job that evaluates the adapter which `training` makes.

    Raises:
        EvaluationError: That adapter is not there, or a file of prompts or rows is wrong.
    """
    recipe, version, settings = training.recipe, training.version, config.evaluation
    if training_record(storage, recipe, version) is None:
        raise EvaluationError(
            f"{storage.adapter(recipe, version)}: no adapter of the present mixture and settings. "
            f"Run `qwenft run --recipe {recipe}`."
        )
    return EvaluationJob(
        recipe=recipe,
        adapter_version=version,
        mixture_version=training.mixture_version,
        inputs=inputs_of(version, training.mixture_version, settings),
        champion_version=_comparable_champion(storage, recipe, version, training.base),
        base=training.base,
        engine=training.engine,
        training=training.settings,
        settings=settings,
        device=training.device,
        storage_root=storage.root,
        storage_url=training.storage_url,
    )


def inputs_of(adapter_version: str, mixture_version: str, settings: EvaluationConfig) -> str:
    """Hash of all that decides the figures, but for the champion.

    Raises:
        EvaluationError: A file of prompts or rows is wrong.
    """
    return short_hash(
        CODE_VERSION,
        adapter_version,
        mixture_version,
        settings.model_dump_json(),
        frozen_version(read_frozen_eval(settings)),
        *(prompt.model_dump_json() for prompt in load_prompts(settings)),
    )


def read_of_version(storage: Storage, recipe: RecipeName, version: str) -> tuple[Path, Path]:
    """What is read of a version, as the adapter or as the champion that it is compared with."""
    return storage.adapter(recipe, version), storage.evaluation(recipe, version)


def read_evaluation(storage: Storage, recipe: str, version: str) -> dict[str, Any] | None:
    """evaluation.json of an adapter version; None while there is none."""
    return read_json(storage.evaluation(recipe, version) / EvaluationResult.FILE)


def is_current(result: dict[str, Any] | None, job: EvaluationJob) -> bool:
    """Whether `result` is what the job would give.

    Where the adapter is the champion by now, the comparison that made it so still stands.
    """
    return (
        result is not None
        and result.get("inputs") == job.inputs
        and job.champion_version in {None, result.get("champion_version")}
    )


def _comparable_champion(
    storage: Storage, recipe: str, version: str, base: BaseModelRef
) -> str | None:
    """The champion's version, unless it is `version` itself, is gone, or has another base."""
    champion = read_record(storage.release(recipe), Champion)
    if champion is None or champion.version == version:
        return None
    record = training_record(storage, recipe, champion.version)
    if record is None or (record["base_model"], record["base_revision"]) != (
        base.name,
        base.revision,
    ):
        return None
    return champion.version
