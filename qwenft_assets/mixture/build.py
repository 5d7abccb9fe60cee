"""The stage: samples in, the mixture with its split, provenance and manifest out."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from qwenft_assets.config import Config, MixtureConfig, Recipe, RecipeName
from qwenft_assets.errors import MixtureError
from qwenft_assets.hashing import short_hash
from qwenft_assets.mixture.attribution import ATTRIBUTION_FILE, attribution
from qwenft_assets.mixture.decontamination import evaluation_path
from qwenft_assets.mixture.diff import (
    BEYOND_QUOTA,
    CANDIDATE_SCHEMA,
    CANDIDATES_FILE,
    Build,
    difference,
    no_difference,
    previous_build,
)
from qwenft_assets.mixture.frozen_eval import frozen_version, read_frozen_eval
from qwenft_assets.mixture.manifest import figures
from qwenft_assets.mixture.quotas import Quota
from qwenft_assets.mixture.samples import read_samples, sample_manifests, sources_of
from qwenft_assets.mixture.selection import Selection, TokenCounter, select_rows
from qwenft_assets.mixture.split import EVAL, TRAIN, question_clusters, split_rows
from qwenft_assets.progress import ReportProgress, no_progress
from qwenft_assets.records import MixtureDiff, MixtureManifest
from qwenft_assets.rows import MIXED_SCHEMA, InstructionRow, rows_to_table, table_to_rows
from qwenft_assets.storage.files import (
    atomic_folder,
    is_intact,
    read_json,
    read_parquet,
    sha256_of_file,
    write_json,
    write_parquet,
)
from qwenft_assets.storage.root import MIXTURE_FILE, Storage

CODE_VERSION = "2"
"""Raise when the same samples and settings would give another mixture."""
ROWS_FILE = "rows.parquet"


class MixedRow(NamedTuple):
    """A row of the mixture: where it stands, and which copy it is (0: the row itself)."""

    row: InstructionRow
    split: str
    copy: int


@dataclass(frozen=True)
class MixtureReport:
    """What a mixture holds, as its manifest says, and what is new in it."""

    manifest: dict[str, Any]
    diff: dict[str, Any]
    reused: bool


def build_mixture(
    config: Config,
    recipe_name: RecipeName,
    storage: Storage,
    token_counter: TokenCounter | None = None,
    report_progress: ReportProgress = no_progress,
) -> MixtureReport:
    """Build `mixed_dataset/<recipe>/`, unless it is there for the same samples and settings.

    Args:
        config: Recipe and rules.
        recipe_name: Which recipe.
        storage: Where samples are and the mixture goes.
        token_counter: Counts tokens of the base model; needed unless `over_long: truncate`.
        report_progress: Called along the way.

    Raises:
        MixtureError: A sample is missing, damaged or stale, or has too few rows with `shortfall:
            fail`; an evaluation file cannot be read; a row is too long with `over_long: fail`.
        StorageError: The mixture cannot be written.
    """
    recipe = recipe_of(config, recipe_name)
    samples = sample_manifests(config, sources_of(config, recipe), storage)
    if config.mixture.over_long == "truncate":
        token_counter = None
    elif token_counter is None:
        raise MixtureError(
            f"mixture.over_long: {config.mixture.over_long} needs the tokenizer of "
            f"{config.training.base_model}, which cannot be had. Set it to truncate, or mend that."
        )
    inputs = mixture_inputs(config, recipe, samples, token_counter)
    folder = storage.mixed_dataset(recipe_name)
    with storage.lock(f"mixed_dataset-{recipe_name}"):
        manifest = read_json(folder / MixtureManifest.FILE)
        if manifest and manifest.get("inputs") == inputs and _is_whole(folder, manifest):
            return MixtureReport(manifest, no_difference(manifest["version"]), reused=True)
        candidates = read_samples(storage, list(samples))
        selection = select_rows(candidates, recipe, config, samples, token_counter, report_progress)
        mixed = mix(selection.pools, selection.quotas, config.mixture, report_progress)
        report_progress(0, 0, "writing")
        build = Build(mixture_version(mixed), samples, _outcomes(candidates, selection, mixed))
        diff = difference(previous_build(storage, recipe_name), build)
        with atomic_folder(folder) as part:
            _write_rows(part, mixed)
            write_parquet(part / CANDIDATES_FILE, build.candidates)
            with (part / ATTRIBUTION_FILE).open("w", encoding="utf-8", newline="\n") as lines:
                lines.writelines(attribution([row for row, _, copy in mixed if not copy]))
            manifest = {
                "recipe": recipe_name,
                "version": build.version,
                "inputs": inputs,
                **figures(
                    mixed, recipe, config.mixture, selection.quotas, selection.removed, samples
                ),
                "files": {file.name: sha256_of_file(file) for file in sorted(part.iterdir())},
            }
            # Not among `files`: it depends on the build before, and nothing else here does.
            write_json(part / MixtureDiff.FILE, diff)
            write_json(part / MixtureManifest.FILE, manifest)
        return MixtureReport(manifest, diff, reused=False)


def mixture_inputs(
    config: Config,
    recipe: Recipe,
    samples: Mapping[str, Mapping[str, Any]],
    token_counter: TokenCounter | None,
) -> str:
    """Hash of all that decides what a mixture is; its manifest keeps it as `inputs`."""
    return short_hash(
        CODE_VERSION,
        recipe.model_dump_json(),
        config.mixture.model_dump_json(exclude={"recipes"}),
        *(f"{source}:{sample['version']}" for source, sample in samples.items()),
        *(_hash_of_evaluation_file(path) for path in config.mixture.decontaminate),
        *filter(None, [frozen_version(read_frozen_eval(config.evaluation))]),
        *(
            (token_counter.identity, str(config.training.max_length_tokens))
            if token_counter
            else ()
        ),
    )


def recipe_of(config: Config, name: str) -> Recipe:
    """The recipe called `name`.

    Raises:
        MixtureError: The config has none of that name.
    """
    recipes: dict[str, Recipe] = {**config.mixture.recipes}
    if name not in recipes:
        raise MixtureError(
            f"recipe {name!r}: not in the config {config.name}. Use one of: {', '.join(recipes)}."
        )
    return recipes[name]


def mix(
    pools: Mapping[str, Sequence[InstructionRow]],
    quotas: Mapping[str, Quota],
    config: MixtureConfig,
    report_progress: ReportProgress = no_progress,
) -> list[MixedRow]:
    """Choose, split, repeat and shuffle; depends on the rows, the quotas and the seed alone.

    Only train rows are repeated: a copy of an eval row would count it twice.

    Raises:
        MixtureError: There are fewer than two rows, or all ask the same: nothing can be held out.
    """
    chosen = [row for source, quota in quotas.items() for row in pools[source][: quota.unique]]
    if len(chosen) < 2:  # noqa: PLR2004  (one to train on, one to hold out)
        raise MixtureError("the sources have fewer than 2 rows together. Add rows to one of them.")
    if config.split_by == "row":
        group_of = {row.row_id: row.row_id for row in chosen}
    else:
        group_of = question_clusters(chosen, config.similar_questions, report_progress)
    sides = split_rows(chosen, group_of, config.eval_fraction, config.seed)
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
    path = storage.mixed_dataset(recipe) / ROWS_FILE
    if not path.exists():
        raise MixtureError(f"{path}: no mixture yet. Run `qwenft run --recipe {recipe}`.")
    table = read_parquet(path)
    sides: list[Any] = table.column("split").to_pylist()
    copies: list[Any] = table.column("copy").to_pylist()
    return [MixedRow(*item) for item in zip(table_to_rows(table), sides, copies, strict=True)]


def _hash_of_evaluation_file(path: str) -> str:
    file = evaluation_path(path)
    # A missing file is told by whoever reads it.
    return sha256_of_file(file) if file.is_file() else ""


def _is_whole(folder: Path, manifest: dict[str, Any]) -> bool:
    files: dict[str, str] = manifest.get("files", {})
    return bool(files) and all(is_intact(folder / name, sha) for name, sha in files.items())


def _outcomes(
    candidates: Sequence[InstructionRow], selection: Selection, mixed: Sequence[MixedRow]
) -> pa.Table:
    """What became of every candidate, in order of priority."""
    removed = {removal.row.row_id: removal for removal in selection.removed}
    side_of = {row.row_id: side for row, side, _ in mixed}
    outcomes, partners, similarities = list[str](), list[str | None](), list[float | None]()
    for row in candidates:
        removal = removed.get(row.row_id)
        outcomes.append(removal.reason if removal else side_of.get(row.row_id, BEYOND_QUOTA))
        partners.append(removal.partner if removal else None)
        similarities.append(round(removal.similarity, 4) if removal else None)
    columns: dict[str, Any] = {
        "row_id": [row.row_id for row in candidates],
        "source": [row.source for row in candidates],
        "content_hash": [row.content_hash for row in candidates],
        "outcome": outcomes,
        "partner": partners,
        "similarity": similarities,
    }
    return pa.table(columns, schema=CANDIDATE_SCHEMA)


def _write_rows(folder: Path, mixed: Sequence[MixedRow]) -> None:
    encode = json.JSONEncoder(ensure_ascii=False).encode
    with (folder / MIXTURE_FILE).open("w", encoding="utf-8", newline="\n") as lines:
        for row, _, _ in mixed:
            fields = {"instruction": row.instruction, "input": row.input, "output": row.output}
            lines.write(encode(fields) + "\n")
    table = rows_to_table([row for row, _, _ in mixed])
    sides = pa.array([side for _, side, _ in mixed], pa.string())
    copies = pa.array([copy for _, _, copy in mixed], pa.int32())
    columns = [*table.columns, sides, copies]
    write_parquet(folder / ROWS_FILE, pa.table(columns, schema=MIXED_SCHEMA))
