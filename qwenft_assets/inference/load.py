"""Which adapter is meant, and the model that answers with it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qwenft_assets.config import Config, DecodingConfig, RecipeName, TrainingConfig
from qwenft_assets.errors import AdapterError
from qwenft_assets.inference.decoder import (
    Decoder,
    dequantized,
    fast_decoder,
    merged,
    room_for_merging,
)
from qwenft_assets.inference.generate import AnsweringModel, context_tokens
from qwenft_assets.model.base import BaseModelRef, fetch_base_model, find_base_model
from qwenft_assets.model.device import Device
from qwenft_assets.model.engines.peft import load_adapter, load_base, load_tokenizer
from qwenft_assets.records import Champion, TrainingRecord
from qwenft_assets.storage.files import read_record
from qwenft_assets.storage.root import ALL, Storage
from qwenft_assets.text.chatml import render_prompt
from qwenft_assets.training.job import latest_version, training_record

NO_ADAPTER = "none"
"""Written by the release stage, which stands above this one."""
CONTENT_HASHES = ("files-sha256:", "gguf-sha256:")
"""Revisions that name the weights themselves, wherever their folder lies."""
Tell = Callable[[str], None]
"""Takes a line about a step that lasts."""


@dataclass(frozen=True)
class LoadedModel:
    """A base model with its adapter, which can still be switched off."""

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
    storage.fetch(storage.release(recipe), storage.adapters(recipe))
    champion = read_record(storage.release(recipe), Champion)
    if which == "champion" and champion is None:
        raise AdapterError(
            f"{storage.release(recipe)}: nothing was released yet. Run `qwenft run --recipe "
            f"{recipe}`, or ask for --adapter latest."
        )
    if which in {None, "champion"} and champion is not None:
        version = champion.version
    elif which in {None, "latest"}:
        version = latest_version(storage, recipe)
    else:
        version = str(which)
    storage.fetch(storage.adapter(recipe, version))
    if training_record(storage, recipe, version) is None:
        known = adapter_versions(storage, recipe)
        raise AdapterError(
            f"{storage.adapter(recipe, version)}: no such adapter. There is: "
            f"{', '.join(known) or 'none'}. Run `qwenft run --recipe {recipe}`."
        )
    return version


def adapter_versions(storage: Storage, recipe: str) -> list[str]:
    """Every finished adapter."""
    storage.fetch(storage.adapter(recipe, ALL), records_only=True)
    return sorted(
        file.parent.name for file in storage.adapters(recipe).glob(f"*/{TrainingRecord.FILE}")
    )


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
        require_same_base(storage, recipe, version, base)
    base_folder = fetch_base_model(base, storage)
    tokenizer = load_tokenizer(base_folder)
    model = load_base(base_folder, settings.weights, device)
    if version is not None:
        model = load_adapter(model, storage.adapter(recipe, version))
    return LoadedModel(model.eval(), tokenizer, version, base_folder)


def require_same_base(storage: Storage, recipe: str, version: str, base: BaseModelRef) -> None:
    """Refuse an adapter of another base model, before anything heavy is loaded.

    Raises:
        AdapterError: Its record names another base model, revision or hash.
    """
    record = training_record(storage, recipe, version) or {}
    name, revision = record.get("base_model"), record.get("base_revision")
    same_weights = revision == base.revision and base.revision.startswith(CONTENT_HASHES)
    if not same_weights and (name, revision) != (base.name, base.revision):
        raise AdapterError(
            f"adapter {version} was trained on {name} at {revision}, this config "
            f"names {base.name} at {base.revision}. Use the config it was trained with."
        )


def load_answering_model(
    storage: Storage,
    recipe: str,
    version: str | None,
    base: BaseModelRef,
    settings: TrainingConfig,
    decoding: DecodingConfig,
    device: Literal["cuda", "cpu"],
    tell: Tell,
) -> AnsweringModel:
    """A deployment's model ready to answer, as fast as this machine allows.

    On a GPU with room, the adapter is merged into the base's weights and the decode step is
    compiled here, so that the first answer does not wait for it.

    Raises:
        AdapterError: The adapter was trained on another base model or revision.
    """
    if version is not None:
        require_same_base(storage, recipe, version, base)
    adapter = None if version is None else storage.adapter(recipe, version)
    base_folder = fetch_base_model(base, storage)
    return answering_model(
        base_folder, adapter, settings.weights, decoding, device, tell, base_name=base.name
    )


def answering_model(
    base_folder: Path,
    adapter_folder: Path | None,
    weights: str,
    decoding: DecodingConfig,
    device: Literal["cuda", "cpu"],
    tell: Tell,
    base_name: str | None = None,
) -> AnsweringModel:
    """A model ready to answer from two folders, whose belonging together nobody checks.

    Args:
        base_folder: safetensors, config.json and tokenizer.
        adapter_folder: As PEFT saves one, named by its version; None for the base alone.
        weights: In which it was trained: `nf4`, `bf16` or `fp32`.
        decoding: Its window, and whether merging and compiling are wanted.
        device: `cuda` or `cpu`.
        tell: Told about each step that lasts.
        base_name: What to call the base; None: its folder.
    """
    started = time.monotonic()
    tokenizer = load_tokenizer(base_folder)
    name = base_name or str(base_folder)
    tell(f"loading {name}")
    model = load_base(base_folder, weights, device)
    window_tokens = context_tokens(model, decoding)
    fast = decoding.compile and device == "cuda" and room_for_merging(model, window_tokens)
    if fast:
        model = dequantized(model)
    if adapter_folder is not None:
        tell(f"loading adapter {adapter_folder.name}")
        model = load_adapter(model, adapter_folder)
        model = merged(model) if fast else model
    model = model.eval()
    if fast:
        tell("compiling the decode step: about a minute the first time")
        decoder = fast_decoder(model, window_tokens)
        decoder.warm_up(tokenizer(render_prompt("Hello", ""), add_special_tokens=False).input_ids)
    else:
        decoder = Decoder(model, window_tokens)
    return AnsweringModel(
        decoder,
        tokenizer,
        name,
        adapter_folder.name if adapter_folder else None,
        base_folder,
        is_merged=fast,
        load_seconds=round(time.monotonic() - started, 1),
    )


class AnsweringModels:
    """The models of one deployment, by the name of an adapter; each is loaded when first asked for.

    Two stay in memory, the most that a comparison needs.
    """

    KEPT = 2

    def __init__(
        self, config: Config, storage: Storage, recipe: RecipeName, device: Device, tell: Tell
    ) -> None:
        """Load nothing yet.

        Raises:
            BaseModelError: The base model cannot be found.
        """
        self.config = config
        self.storage = storage
        self.recipe = recipe
        self._device = device
        self._tell = tell
        self._loaded: dict[str | None, AnsweringModel] = {}

    def versions(self) -> list[str]:
        """Every adapter there is."""
        return adapter_versions(self.storage, self.recipe)

    def get(self, which: str | None) -> AnsweringModel:
        """The model with the adapter that `which` means.

        Raises:
            AdapterError: There is no such adapter, or it belongs to another base model.
        """
        version = resolve_adapter(self.storage, self.recipe, which)
        model = self._loaded.pop(version, None)
        if model is None:
            while len(self._loaded) >= self.KEPT:
                self._loaded.pop(next(iter(self._loaded)))
            settings = self.config.training
            model = load_answering_model(
                self.storage,
                self.recipe,
                version,
                find_base_model(settings, self.storage),
                settings,
                self.config.decoding,
                self._device.type,
                self._tell,
            )
        self._loaded[version] = model  # the newest stands last
        return model
