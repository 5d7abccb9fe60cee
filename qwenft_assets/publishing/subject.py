"""What is published about: one adapter version with its records, its data and its public base."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qwenft_assets.config import Config, RecipeName
from qwenft_assets.errors import PublishingError
from qwenft_assets.evaluation.job import read_evaluation
from qwenft_assets.inference.load import NO_ADAPTER, resolve_adapter
from qwenft_assets.records import MixtureManifest
from qwenft_assets.release.registry import read_champion
from qwenft_assets.rows import InstructionRow, is_private, table_to_rows
from qwenft_assets.storage.files import read_json
from qwenft_assets.storage.root import Storage
from qwenft_assets.training.job import training_record

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class SourceShare:
    """The rows of one source under one licence in the mixture."""

    source: str
    license: str
    train_rows: int
    eval_rows: int
    revision: str

    @property
    def private(self) -> bool:
        """Whether these rows must not leave."""
        return is_private(self.license)


@dataclass(frozen=True)
class Subject:
    """An adapter version, and all that cards and manifest say about it."""

    config: Config
    storage: Storage
    recipe: RecipeName
    version: str
    released: bool
    """It is the champion."""
    record: dict[str, Any]
    """training.json."""
    evaluation: dict[str, Any]
    base_model: str
    base_revision: str

    @property
    def name(self) -> str:
        """What copies are called: unique for each recipe and version."""
        return f"{self.recipe}-{self.version}"

    @property
    def adapter_folder(self) -> Path:
        """Where the adapter lies."""
        return self.storage.adapter(self.recipe, self.version)

    @property
    def mixture_version(self) -> str:
        """The mixture that the adapter was trained on."""
        return str(self.record["mixture_version"])

    @property
    def base_commit(self) -> str | None:
        """The base model's commit on the Hub, where it came from there."""
        return self.base_revision if COMMIT.fullmatch(self.base_revision) else None

    @cached_property
    def mixture_folder(self) -> Path | None:
        """The mixture, while the one in the storage is still the one trained on."""
        folder = self.storage.mixed_dataset(self.recipe)
        manifest = read_json(folder / MixtureManifest.FILE) or {}
        return folder if manifest.get("version") == self.mixture_version else None

    @cached_property
    def shares(self) -> tuple[SourceShare, ...]:
        """Rows by source and licence; empty when the mixture was rebuilt since."""
        if self.mixture_folder is None:
            return ()
        columns = ["source", "license", "revision", "split"]
        table = pq.read_table(self.mixture_folder / "rows.parquet", columns=columns)
        counted = Counter(zip(*(table.column(name).to_pylist() for name in columns), strict=True))
        keys = sorted({key[:3] for key in counted})
        return tuple(
            SourceShare(source, license_, counted[*key, "train"], counted[*key, "eval"], revision)
            for source, license_, revision in keys
            for key in [(source, license_, revision)]
        )


def find_subject(
    config: Config, recipe: RecipeName, which: str | None, storage: Storage
) -> Subject:
    """The adapter version to publish.

    Args:
        config: Of the deployment.
        recipe: Of the adapter.
        which: A version; None: the champion.
        storage: Where it lies.

    Raises:
        AdapterError: There is no such version.
        PublishingError: Nothing was released, it was not evaluated, or its base model has no public
            name.
    """
    storage.fetch(storage.release(recipe))
    champion = read_champion(storage, recipe)
    if champion is None and which is None:
        raise PublishingError(
            f"{storage.release(recipe)}: nothing was released yet. Run `qwenft run --recipe "
            f"{recipe}`, or name a version by --version (`latest`: the newest)."
        )
    version = resolve_adapter(storage, recipe, which or "champion")
    if version is None:
        raise PublishingError(
            f"--version {NO_ADAPTER}: the base alone is not ours to publish. "
            "Name an adapter's version, which `qwenft releases list` shows."
        )
    storage.fetch(storage.evaluation(recipe, version))
    evaluation = read_evaluation(storage, recipe, version)
    if evaluation is None:
        raise PublishingError(
            f"{storage.evaluation(recipe, version)}: version {version} was not evaluated. Run "
            f"`qwenft run --recipe {recipe}` with its settings first."
        )
    record = training_record(storage, recipe, version) or {}
    settings = config.publishing
    base_model = settings.base_model or str(record["base_model"])
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", base_model):
        raise PublishingError(
            f"adapter {version} was trained on {base_model}, a folder of this machine. Set "
            "publishing.base_model to the model's public name, owner/name on the Hub."
        )
    return Subject(
        config=config,
        storage=storage,
        recipe=recipe,
        version=version,
        released=champion is not None and champion.version == version,
        record=record,
        evaluation=evaluation,
        base_model=base_model,
        base_revision=settings.base_revision or str(record["base_revision"]),
    )


def private_rows(storage: Storage) -> Iterator[InstructionRow]:
    """Every private row that the storage holds: in samples, and in mixtures of either recipe."""
    samples = sorted(storage.root.glob("source_sample/*/rows.parquet"))
    mixtures = sorted(storage.root.glob("mixed_dataset/*/rows.parquet"))
    for parquet in (*samples, *mixtures):
        for batch in pq.ParquetFile(parquet).iter_batches():
            rows = table_to_rows(pa.Table.from_batches([batch]))
            yield from (row for row in rows if is_private(row.license))
