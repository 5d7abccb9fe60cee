"""The stage: samples in, the mixture with its split and manifest out."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from qwenft_assets.config import Config, MixtureConfig, Recipe, RecipeName
from qwenft_assets.errors import MixtureError
from qwenft_assets.mixture.deduplication import drop_duplicates, question_key
from qwenft_assets.mixture.frozen_eval import frozen_version, read_frozen_eval
from qwenft_assets.mixture.quotas import Quota, allocate, asked_rows
from qwenft_assets.mixture.split import EVAL, TRAIN, split_by_question
from qwenft_assets.rows import (
    MIXED_SCHEMA,
    InstructionRow,
    rows_to_table,
    seeded_order,
    short_hash,
    table_to_rows,
)
from qwenft_assets.storage import (
    MIXTURE_FILE,
    Storage,
    atomic_path,
    is_intact,
    read_json,
    read_parquet,
    sha256_of_file,
    write_json,
    write_parquet,
)

CODE_VERSION = "1"
"""Raise when the same samples and settings would give another mixture."""
RATIO_TOLERANCE = 0.02
EXTENSION_MARGIN = 1.1
"""Rows to sample for each row asked: some will be duplicates."""


class MixedRow(NamedTuple):
    """A row of the mixture: where it stands, and which copy it is (0: the row itself)."""

    row: InstructionRow
    split: str
    copy: int


@dataclass(frozen=True)
class MixtureReport:
    """What a mixture holds, as its manifest says."""

    manifest: dict[str, Any]
    reused: bool


def build_mixture(config: Config, recipe_name: RecipeName, storage: Storage) -> MixtureReport:
    """Build `mixed_dataset/<recipe>/`, unless it is there for the same samples and settings.

    Raises:
        MixtureError: A source was not sampled, or has too few rows with `shortfall: fail`.
        StorageError: The mixture cannot be written.
    """
    recipe = recipe_of(config, recipe_name)
    sources = [name for key in recipe.ratios for name in config.mixture.groups.get(key, (key,))]
    samples = {source: _sample_manifest(storage, source, recipe_name) for source in sources}
    frozen = read_frozen_eval(config.evaluation)
    inputs = short_hash(
        CODE_VERSION,
        recipe.model_dump_json(),
        config.mixture.model_dump_json(exclude={"recipes"}),
        *(samples[source]["version"] for source in sources),
        *filter(None, [frozen_version(frozen)]),
    )
    folder = storage.mixed_dataset(recipe_name)
    with storage.lock(f"mixed_dataset-{recipe_name}"):
        manifest = read_json(folder / "manifest.json")
        if (
            manifest
            and manifest.get("inputs") == inputs
            and is_intact(folder / MIXTURE_FILE, manifest.get("sha256"))
            and is_intact(folder / "rows.parquet", manifest.get("rows_sha256"))
        ):
            return MixtureReport(manifest, reused=True)
        pools, duplicates = _distinct_rows(storage, sources, config.mixture.seed)
        pools, in_frozen_eval = _without_questions(pools, frozen)
        available = {source: len(pools[source]) for source in sources}
        _require_extended(recipe, config, available, samples)
        quotas = allocate(recipe, config.mixture, available)
        mixed = mix(pools, quotas, config.mixture)
        _write_rows(storage, recipe_name, mixed)
        manifest = {
            "recipe": recipe_name,
            "version": mixture_version(mixed),
            "inputs": inputs,
            **_counts(mixed, recipe, config.mixture, quotas),
            "sources": {
                source: {
                    **asdict(quotas[source]),
                    "rows": _rows_of(mixed, source),
                    "train": _rows_of(mixed, source, TRAIN),
                    "eval": _rows_of(mixed, source, EVAL),
                    "dropped_duplicate": duplicates[source],
                    "version": samples[source]["version"],
                    "revision": samples[source]["revision"],
                }
                for source in sources
            },
            "dropped_duplicate": duplicates.total(),
            "dropped_frozen_eval": in_frozen_eval,
            "licenses": dict(sorted(Counter(row.license for row, _, _ in mixed).items())),
            "sha256": sha256_of_file(folder / MIXTURE_FILE),
            "rows_sha256": sha256_of_file(folder / "rows.parquet"),
        }
        write_json(folder / "manifest.json", manifest)
        return MixtureReport(manifest, reused=False)


def recipe_of(config: Config, name: str) -> Recipe:
    """The recipe called `name`.

    Raises:
        MixtureError: The config has none of that name.
    """
    recipes: dict[str, Recipe] = {**config.mixture.recipes}
    if name not in recipes:
        raise MixtureError(
            f"recipe {name!r}: not in the config {config.name}. It has: {', '.join(recipes)}."
        )
    return recipes[name]


def mix(
    pools: Mapping[str, Sequence[InstructionRow]],
    quotas: Mapping[str, Quota],
    config: MixtureConfig,
) -> list[MixedRow]:
    """Choose, split, repeat and shuffle; depends on the rows, the quotas and the seed alone.

    Only train rows are repeated: a copy of an eval row would count it twice.

    Raises:
        MixtureError: There are fewer than two rows, or all ask the same: nothing can be held out.
    """
    chosen = [row for source, quota in quotas.items() for row in pools[source][: quota.unique]]
    if len(chosen) < 2:  # noqa: PLR2004  (one to train on, one to hold out)
        raise MixtureError("the sources have fewer than 2 rows together. Add rows to one of them.")
    sides = split_by_question(chosen, config.eval_fraction, config.seed)
    if EVAL not in sides.values():
        raise MixtureError("all rows ask the same question. Add rows that ask another one.")
    mixed = [MixedRow(row, sides[row.row_id], 0) for row in chosen]
    for source, quota in quotas.items():
        train = [row for row, side, _ in mixed if side == TRAIN and row.source == source]
        mixed += [
            MixedRow(train[n % len(train)], TRAIN, n // len(train) + 1)
            for n in range(quota.repeats if train else 0)
        ]
    mixed.sort(key=lambda item: (item.row.row_id, item.copy))
    random.Random(config.seed).shuffle(mixed)
    return mixed


def mixture_version(mixed: Sequence[MixedRow]) -> str:
    """Content hash of rows, order and split."""
    return short_hash(
        *(f"{row.row_id}:{row.content_hash}:{side}:{copy}" for row, side, copy in mixed)
    )


def read_mixture(storage: Storage, recipe: RecipeName) -> list[MixedRow]:
    """The rows of a built mixture, in their order.

    Raises:
        MixtureError: It was not built.
    """
    path = storage.mixed_dataset(recipe) / "rows.parquet"
    if not path.exists():
        raise MixtureError(f"{path}: no mixture yet. Run `qwenft run --recipe {recipe}`.")
    table = read_parquet(path)
    sides: list[Any] = table.column("split").to_pylist()
    copies: list[Any] = table.column("copy").to_pylist()
    return [MixedRow(*item) for item in zip(table_to_rows(table), sides, copies, strict=True)]


def _sample_manifest(storage: Storage, source: str, recipe: str) -> dict[str, Any]:
    folder = storage.source_sample(source)
    manifest = read_json(folder / "manifest.json")
    if manifest is None or not is_intact(folder / "rows.parquet", manifest.get("sha256")):
        raise MixtureError(
            f"{folder}: {source} is not sampled, recipe {recipe} needs it. Run `qwenft run --recipe "
            f"{recipe}`, or `dagster asset materialize -m qwenft_assets.definitions --select "
            f"source_sample --partition {source}`."
        )
    return manifest


def _require_extended(
    recipe: Recipe,
    config: Config,
    available: Mapping[str, int],
    samples: Mapping[str, dict[str, Any]],
) -> None:
    """Refuse a shortfall that only stands because the sample was cut short of what upstream has."""
    asked = asked_rows(recipe, config.mixture)
    for source, rows in asked.items():
        if available[source] < rows and not samples[source].get("exhausted", True):
            wanted = round(rows * EXTENSION_MARGIN)
            raise MixtureError(
                f"{source}: {rows} rows asked, its sample holds {available[source]} and upstream has "
                f"more. Extend it with `qwenft sample {source} --rows {wanted}`, or raise "
                f"sources.{source}.max_rows."
            )


def _distinct_rows(
    storage: Storage, sources: Sequence[str], seed: int
) -> tuple[dict[str, list[InstructionRow]], Counter[str]]:
    """Rows by source in seeded order, without duplicates; a copy stays with the earlier source."""
    tables = (read_parquet(storage.source_sample(name) / "rows.parquet") for name in sources)
    rows = [
        row
        for table in tables
        for row in sorted(table_to_rows(table), key=lambda row: seeded_order(seed, row.row_id))
    ]
    kept, dropped = drop_duplicates(rows)
    pools: dict[str, list[InstructionRow]] = {source: [] for source in sources}
    for row in kept:
        pools[row.source].append(row)
    return pools, dropped


def _without_questions(
    pools: Mapping[str, list[InstructionRow]], frozen: Sequence[InstructionRow]
) -> tuple[dict[str, list[InstructionRow]], int]:
    """The pools without rows that ask what the frozen evaluation set asks, and how many those were."""
    asked = {question_key(row) for row in frozen}
    kept = {
        source: [row for row in pool if question_key(row) not in asked] if asked else pool
        for source, pool in pools.items()
    }
    return kept, sum(map(len, pools.values())) - sum(map(len, kept.values()))


def _write_rows(storage: Storage, recipe: RecipeName, mixed: Sequence[MixedRow]) -> None:
    folder = storage.mixed_dataset(recipe)
    with atomic_path(folder / MIXTURE_FILE) as part, part.open("w", encoding="utf-8") as lines:
        for row, _, _ in mixed:
            fields = {"instruction": row.instruction, "input": row.input, "output": row.output}
            lines.write(json.dumps(fields, ensure_ascii=False) + "\n")
    table = rows_to_table([row for row, _, _ in mixed])
    sides = pa.array([side for _, side, _ in mixed], pa.string())
    copies = pa.array([copy for _, _, copy in mixed], pa.int32())
    columns = [*table.columns, sides, copies]
    write_parquet(folder / "rows.parquet", pa.table(columns, schema=MIXED_SCHEMA))


def _counts(
    mixed: Sequence[MixedRow], recipe: Recipe, config: MixtureConfig, quotas: Mapping[str, Quota]
) -> dict[str, Any]:
    got = {
        key: round(
            sum(_rows_of(mixed, name) for name in config.groups.get(key, (key,))) / len(mixed), 4
        )
        for key in recipe.ratios
    }
    missing: dict[str, int] = {}
    for key in recipe.ratios:
        members = [quotas[name] for name in config.groups.get(key, (key,))]
        short = sum(quota.asked - quota.available for quota in members)
        if short > 0:
            missing[key] = short
    return {
        "rows_asked": recipe.rows,
        "rows": len(mixed),
        "train_rows": sum(side == TRAIN for _, side, _ in mixed),
        "eval_rows": sum(side == EVAL for _, side, _ in mixed),
        "ratios_asked": dict(recipe.ratios),
        "ratios_got": got,
        "ratios_kept": all(
            abs(got[key] - ratio) <= RATIO_TOLERANCE for key, ratio in recipe.ratios.items()
        ),
        "shortfall": missing,
        "shortfall_policy": config.shortfall,
    }


def _rows_of(mixed: Sequence[MixedRow], source: str, split: str | None = None) -> int:
    return sum(row.source == source and split in {None, side} for row, side, _ in mixed)
