"""What a training run is: the job that crosses the process border, and the version it makes."""

from pathlib import Path
from typing import Any, Self

from qwenft_assets.config import Config, RecipeName, TrainingConfig
from qwenft_assets.errors import AdapterError, MixtureError
from qwenft_assets.hashing import short_hash
from qwenft_assets.model.base import BaseModelRef, base_model_here, find_base_model
from qwenft_assets.processes.run import StageJob
from qwenft_assets.records import Latest, MixtureManifest, TrainingRecord
from qwenft_assets.storage.files import read_json, write_json
from qwenft_assets.storage.integrity import is_whole
from qwenft_assets.storage.root import Storage
from qwenft_assets.text.chatml import SYSTEM_PROMPT, TEMPLATE_VERSION

CODE_VERSION = "2"
"""Raise when the same mixture and settings would give another adapter."""
PLACEMENT_SETTINGS = {
    *("device", "min_vram_gib", "max_vram_gib", "base_model", "base_revision", "engine"),
    *("micro_batch_rows", "micro_batch_tokens", "gradient_checkpointing"),
    *("shard_base_weights", "checkpoint_minutes", "max_hours"),
}
"""Settings that decide where and how to run but not what is learnt, and those that the base's revision and the
engine's name stand for in the version."""
LATER_SETTINGS = {"lora_plus_ratio"}
"""Settings that are newer than the first adapters: null, they leave an adapter's version as it was."""


class TrainingJob(StageJob):
    """Everything the training worker needs, as JSON."""

    version: str
    mixture_version: str
    base: BaseModelRef
    settings: TrainingConfig
    engine: str

    def makes(self, storage: Storage) -> tuple[Path, ...]:
        """Folders of the artifacts that it makes."""
        return storage.adapter(self.recipe, self.version), storage.adapters(self.recipe)

    def staged(self, storage: Storage) -> Self:
        """The job on a machine whose stage is `storage`, after downloading what it reads.

        Raises:
            MixtureError: The mixture is another one by now.
            BaseModelError: The base model is not on that machine.
            StorageError: The store cannot be read.
        """
        storage.fetch(storage.mixed_dataset(self.recipe))
        require_mixture(storage, self.recipe, self.mixture_version)
        base = base_model_here(self.base, self.settings, storage)
        return self.model_copy(update={"storage_root": storage.root, "base": base})


def require_mixture(storage: Storage, recipe: RecipeName, version: str) -> None:
    """See that the mixture at hand is the one that a job was planned for.

    Raises:
        MixtureError: It is another one, or there is none.
    """
    manifest = read_json(storage.mixed_dataset(recipe) / MixtureManifest.FILE) or {}
    if manifest.get("version") != version:
        raise MixtureError(
            f"{storage.where}: the mixture of {recipe} is {manifest.get('version', 'gone')} by now, and "
            f"this step began with {version}. Run the same command again: it begins with that one."
        )


def plan_training(config: Config, recipe: RecipeName, storage: Storage, device: str) -> TrainingJob:
    """The job that trains on the mixture at hand; its version depends on what it would learn.

    Raises:
        MixtureError: There is no mixture of that recipe yet.
        BaseModelError: The base model cannot be found.
    """
    manifest = read_json(storage.mixed_dataset(recipe) / MixtureManifest.FILE)
    if manifest is None:
        raise MixtureError(
            f"{storage.mixed_dataset(recipe)}: no mixture yet. Run `qwenft run --recipe {recipe}`."
        )
    settings = config.training
    base = find_base_model(settings, storage)
    version = short_hash(
        CODE_VERSION,
        manifest["version"],
        base.name,
        base.revision,
        settings.engine_name,
        TEMPLATE_VERSION,
        SYSTEM_PROMPT,
        settings.model_dump_json(exclude=PLACEMENT_SETTINGS | _unset(settings)),
    )
    return TrainingJob(
        recipe=recipe,
        version=version,
        mixture_version=manifest["version"],
        base=base,
        settings=settings,
        device=device,
        engine=settings.engine_name,
        storage_root=storage.root,
        storage_url=storage.url if config.launcher.kind == "ray" else None,
    )


def _unset(settings: TrainingConfig) -> set[str]:
    return {name for name in LATER_SETTINGS if getattr(settings, name) is None}


def training_record(storage: Storage, recipe: str, version: str) -> dict[str, Any] | None:
    """The record of a finished adapter; None while there is none."""
    return read_json(storage.adapter(recipe, version) / TrainingRecord.FILE)


def whole_adapter(storage: Storage, recipe: str, version: str) -> dict[str, Any] | None:
    """The record of a finished adapter whose files are as it says; None while there is none."""
    record = training_record(storage, recipe, version)
    folder = storage.adapter(recipe, version)
    return record if record is not None and is_whole(folder / TrainingRecord.FILE) else None


def point_to_latest(storage: Storage, recipe: str, version: str) -> None:
    """Make a version the latest."""
    pointer = storage.adapters(recipe) / Latest.FILE
    if read_json(pointer) != {"version": version}:
        write_json(pointer, {"version": version})


def latest_version(storage: Storage, recipe: str) -> str:
    """The version trained last.

    Raises:
        AdapterError: Nothing was trained yet.
    """
    pointer = read_json(storage.adapters(recipe) / Latest.FILE)
    if pointer is None:
        raise AdapterError(
            f"{storage.adapters(recipe)}: no adapter yet. Run `qwenft run --recipe {recipe}`, or "
            "`qwenft demo`."
        )
    return str(pointer["version"])
