"""Which adapter is meant, and the model that answers with it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qwenft_assets.config import TrainingConfig
from qwenft_assets.errors import AdapterError
from qwenft_assets.storage import Storage, read_json
from qwenft_assets.training.base_model import BaseModelRef, fetch_base_model
from qwenft_assets.training.engines.peft import load_adapter, load_base, load_tokenizer
from qwenft_assets.training.job import latest_version, training_record

NO_ADAPTER = "none"


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to answer."""

    model: Any
    tokenizer: Any
    adapter_version: str | None
    """None for the base alone."""
    base_path: Path


def resolve_adapter(storage: Storage, recipe: str, which: str | None) -> str | None:
    """The adapter version that `which` means.

    Args:
        storage: Where adapters lie.
        recipe: Of the adapter.
        which: A version, `champion`, `latest` or `none` (the base alone). None: the champion, or
            the latest while nothing was released.

    Raises:
        AdapterError: There is no such adapter.
    """
    if which == NO_ADAPTER:
        return None
    champion = read_json(storage.release(recipe) / "champion.json")
    if which == "champion" and champion is None:
        raise AdapterError(
            f"{storage.release(recipe)}: nothing was released yet. Run `qwenft run --recipe "
            f"{recipe}`, or ask for --adapter latest."
        )
    if which in {None, "champion"} and champion is not None:
        version = str(champion["version"])
    elif which in {None, "latest"}:
        version = latest_version(storage, recipe)
    else:
        version = str(which)
    if training_record(storage, recipe, version) is None:
        known = sorted(p.parent.name for p in storage.adapters(recipe).glob("*/training.json"))
        raise AdapterError(
            f"{storage.adapter(recipe, version)}: no such adapter. There is: "
            f"{', '.join(known) or 'none'}. Run `qwenft run --recipe {recipe}`."
        )
    return version


def load_model(
    storage: Storage,
    recipe: str,
    version: str | None,
    base: BaseModelRef,
    settings: TrainingConfig,
    device: Literal["cuda", "cpu"],
) -> LoadedModel:
    """The base model with an adapter on it, in the weights it was trained on.

    Raises:
        AdapterError: The adapter was trained on another base model or revision.
    """
    if version is not None:
        record = training_record(storage, recipe, version) or {}
        trained_on = (record.get("base_model"), record.get("base_revision"))
        if trained_on != (base.name, base.revision):
            raise AdapterError(
                f"adapter {version} was trained on {trained_on[0]} at {trained_on[1]}, this config "
                f"names {base.name} at {base.revision}. Use the config it was trained with."
            )
    base_folder = fetch_base_model(base, storage)
    tokenizer = load_tokenizer(base_folder)
    model = load_base(base_folder, settings.weights, device)
    if version is not None:
        model = load_adapter(model, storage.adapter(recipe, version))
    return LoadedModel(model.eval(), tokenizer, version, base_folder)
