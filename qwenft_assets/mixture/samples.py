"""The samples that a recipe mixes: whole, not stale, and their rows in order of priority."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qwenft_assets.config import Config, Recipe
from qwenft_assets.errors import MixtureError
from qwenft_assets.mixture.quotas import asked_rows
from qwenft_assets.records import SampleManifest
from qwenft_assets.rows import InstructionRow, table_to_rows
from qwenft_assets.sources.sample import why_stale
from qwenft_assets.storage.files import is_intact, read_json, read_parquet
from qwenft_assets.storage.root import Storage

EXTENSION_MARGIN = 1.1
"""Rows to sample for each row asked: some will be duplicates."""


def sources_of(config: Config, recipe: Recipe) -> list[str]:
    """The sources of a recipe, in its order, which is their priority."""
    return [name for key in recipe.ratios for name in config.mixture.groups.get(key, (key,))]


def sample_manifests(
    config: Config, sources: Sequence[str], storage: Storage
) -> dict[str, dict[str, Any]]:
    """The manifest of each source's sample.

    Raises:
        MixtureError: A sample is missing, damaged, empty, or older than the config's settings.
    """
    return {source: _manifest(config, source, storage) for source in sources}


def read_samples(storage: Storage, sources: Sequence[str]) -> list[InstructionRow]:
    """All rows, by priority: source by source, in each by row id."""
    rows: list[InstructionRow] = []
    for source in sources:
        table = read_parquet(storage.source_sample(source) / "rows.parquet")
        rows += sorted(table_to_rows(table), key=lambda row: row.row_id)
    return rows


def require_extended(
    recipe: Recipe,
    config: Config,
    available: Mapping[str, int],
    samples: Mapping[str, Mapping[str, Any]],
) -> None:
    """Refuse a shortfall that only stands because a sample was cut short of what upstream has.

    Raises:
        MixtureError: A source is short and could be extended.
    """
    for source, rows in asked_rows(recipe, config.mixture).items():
        if available[source] < rows and not samples[source].get("exhausted", True):
            wanted = round(rows * EXTENSION_MARGIN)
            raise MixtureError(
                f"{source}: {rows} rows asked, its sample holds {available[source]} and upstream has "
                f"more. Extend it with `qwenft sample {source} --rows {wanted}`, or raise "
                f"sources.{source}.max_rows."
            )


def _manifest(config: Config, source: str, storage: Storage) -> dict[str, Any]:
    folder = storage.source_sample(source)
    manifest = read_json(folder / SampleManifest.FILE)
    if manifest is None or not is_intact(folder / "rows.parquet", manifest.get("sha256")):
        raise MixtureError(
            f"{folder}: {source} is not sampled, or its sample is damaged. Run `qwenft sample "
            f"{source}`, or `dagster asset materialize -m qwenft_assets.definitions --select "
            f"source_sample --partition {source}`."
        )
    if not manifest["rows"]:
        raise MixtureError(
            f"{folder}: the sample of {source} is empty. Check sources.{source} in the config, then "
            f"run `qwenft sample {source}`."
        )
    reason = why_stale(config, source, manifest)
    if reason:
        raise MixtureError(
            f"{folder}: the sample of {source} is stale: {reason}. Run `qwenft sample {source}`."
        )
    return manifest
