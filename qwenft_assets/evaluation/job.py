"""What an evaluation is: the job that crosses the process border."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from qwenft_assets.config import Config, EvaluationConfig, RecipeName, TrainingConfig
from qwenft_assets.errors import EvaluationError
from qwenft_assets.rows import short_hash
from qwenft_assets.storage import Storage, read_json
from qwenft_assets.training.base_model import BaseModelRef
from qwenft_assets.training.job import TrainingJob, training_record

CODE_VERSION = "1"
"""Raise when the same adapter and rows would give other figures."""


class EvaluationJob(BaseModel):
    """Everything the evaluation worker needs, as JSON."""

    model_config = ConfigDict(frozen=True)

    recipe: RecipeName
    adapter_version: str
    mixture_version: str
    inputs: str
    """Hash of all that decides the figures."""
    base: BaseModelRef
    engine: str
    training: TrainingConfig
    settings: EvaluationConfig
    device: str
    storage_root: Path


def plan_evaluation(config: Config, training: TrainingJob, storage: Storage) -> EvaluationJob:
    """The job that evaluates the adapter which `training` makes.

    Raises:
        EvaluationError: That adapter is not there.
    """
    recipe, version = training.recipe, training.version
    if training_record(storage, recipe, version) is None:
        raise EvaluationError(
            f"{storage.adapter(recipe, version)}: no adapter of the present mixture and settings. "
            f"Run `qwenft run --recipe {recipe}`."
        )
    inputs = short_hash(
        CODE_VERSION, version, training.mixture_version, config.evaluation.model_dump_json()
    )
    return EvaluationJob(
        recipe=recipe,
        adapter_version=version,
        mixture_version=training.mixture_version,
        inputs=inputs,
        base=training.base,
        engine=training.engine,
        training=training.settings,
        settings=config.evaluation,
        device=training.device,
        storage_root=storage.root,
    )


def read_evaluation(storage: Storage, recipe: str, version: str) -> dict[str, Any] | None:
    """evaluation.json of an adapter version; None while there is none."""
    return read_json(storage.evaluation(recipe, version) / "evaluation.json")
