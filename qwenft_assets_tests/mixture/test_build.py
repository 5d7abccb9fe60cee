"""The stage: samples in, contract files out; the same bytes again, or nothing done at all."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from qwenft_assets.config import SOURCE_NAMES, Config, RecipeName
from qwenft_assets.errors import MixtureError
from qwenft_assets.mixture.build import build_mixture, mix, read_mixture, recipe_of
from qwenft_assets.mixture.quotas import Quota
from qwenft_assets.mixture.split import leaked_questions
from qwenft_assets.rows import MIXED_SCHEMA, InstructionRow, make_row, rows_to_table, rows_version
from qwenft_assets.sources.sample import sample_source
from qwenft_assets.storage import (
    MIXTURE_FILE,
    Storage,
    read_json,
    sha256_of_file,
    write_json,
    write_parquet,
)


def row(source: str, number: int, instruction: str = "", output: str = "") -> InstructionRow:
    return make_row(
        source=source,
        upstream_id=str(number),
        instruction=instruction or f"{source} question {number}",
        output=output or f"{source} answer {number}",
        license="CC0" if source == "local_reports" else "MIT",
        revision="abc",
        admitted_by="all",
    )


def rows_of(source: str, count: int) -> list[InstructionRow]:
    return [row(source, number) for number in range(count)]


def put_sample(storage: Storage, source: str, rows: list[InstructionRow]) -> None:
    """A sample as the stage before leaves it."""
    folder = storage.source_sample(source)
    write_parquet(folder / "rows.parquet", rows_to_table(rows))
    manifest = {
        "version": rows_version(rows),
        "revision": "abc",
        "sha256": sha256_of_file(folder / "rows.parquet"),
    }
    write_json(folder / "manifest.json", manifest)


def put_samples(storage: Storage, local: int = 30, slimorca: int = 60, pubmedqa: int = 30) -> None:
    counts = {"local_reports": local, "slimorca": slimorca, "pubmedqa": pubmedqa}
    for source, count in counts.items():
        put_sample(storage, source, rows_of(source, count))


def small_config(rows: int = 100, **mixture: Any) -> Config:
    ratios = {"local_reports": 0.25, "slimorca": 0.50, "pubmedqa": 0.25}
    recipes = {"small": {"rows": rows, "ratios": ratios}}
    return Config.model_validate({"name": "test", "mixture": {"recipes": recipes} | mixture})


@pytest.fixture
def sampled(demo_config: Config, storage: Storage) -> Storage:
    """A storage with the bundled samples of all sources."""
    for source in SOURCE_NAMES:
        sample_source(demo_config, source, storage)
    return storage


@pytest.mark.parametrize("recipe", ["small", "large"])
def test_contract_files_hold_the_same_rows_in_the_same_order(demo_config, sampled, recipe):
    build_mixture(demo_config, recipe, sampled)
    folder = sampled.mixed_dataset(recipe)
    content = (folder / MIXTURE_FILE).read_bytes()
    lines = [json.loads(line) for line in content.decode("utf-8").removesuffix("\n").split("\n")]
    table = pq.read_table(folder / "rows.parquet")
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json",
        "mixed_finetune_dataset.jsonl",
        "rows.parquet",
    ]
    assert {tuple(line) for line in lines} == {("instruction", "input", "output")}
    assert table.schema.equals(MIXED_SCHEMA)
    assert table.select(["instruction", "input", "output"]).to_pylist() == lines
    assert "\\u" not in content.decode("utf-8")


@pytest.mark.parametrize("recipe", ["small", "large"])
def test_manifest_counts_add_up(demo_config, sampled, recipe):
    report = build_mixture(demo_config, recipe, sampled)
    manifest = report.manifest
    mixed = read_mixture(sampled, recipe)
    sources = manifest["sources"].values()
    assert not report.reused
    assert read_json(sampled.mixed_dataset(recipe) / "manifest.json") == manifest
    assert manifest["rows"] == len(mixed) == manifest["train_rows"] + manifest["eval_rows"]
    assert manifest["eval_rows"] == sum(side == "eval" for _, side, _ in mixed)
    assert manifest["rows_asked"] == sum(source["asked"] for source in sources)
    assert all(source["rows"] == source["train"] + source["eval"] for source in sources)
    assert all(source["rows"] == source["unique"] + source["repeats"] for source in sources)
    for key in ("rows", "train", "eval"):
        total = manifest["rows" if key == "rows" else f"{key}_rows"]
        assert sum(source[key] for source in sources) == total
    assert sum(manifest["licenses"].values()) == len(mixed)
    assert sum(source["dropped_duplicate"] for source in sources) == manifest["dropped_duplicate"]
    assert sum(manifest["ratios_got"].values()) == pytest.approx(1, abs=1e-3)
    assert leaked_questions((row, side) for row, side, _ in mixed) == []
    assert manifest["eval_rows"] / len(mixed) == pytest.approx(0.10, abs=0.02)


def test_rows_are_shuffled_over_sources_and_sides(storage):
    put_samples(storage)
    build_mixture(small_config(), "small", storage)
    mixed = read_mixture(storage, "small")
    first_half = mixed[: len(mixed) // 2]
    assert {row.source for row, _, _ in first_half} == {"local_reports", "slimorca", "pubmedqa"}
    assert {side for _, side, _ in first_half} == {"train", "eval"}


def test_ratios_are_kept_and_short_sources_reported(storage):
    put_samples(storage, local=10)
    manifest = build_mixture(small_config(), "small", storage).manifest
    assert manifest["ratios_got"] == {"local_reports": 0.1, "slimorca": 0.6, "pubmedqa": 0.3}
    assert manifest["ratios_asked"] == {"local_reports": 0.25, "slimorca": 0.5, "pubmedqa": 0.25}
    assert manifest["shortfall"] == {"local_reports": 15}
    assert not manifest["ratios_kept"]
    assert build_mixture(small_config(rows=40), "small", storage).manifest["ratios_kept"]


def test_two_storages_get_the_same_bytes(tmp_path):
    folders: list[Path] = []
    for name in ("a", "b"):
        storage = Storage(tmp_path / name)
        put_samples(storage)
        build_mixture(small_config(), "small", storage)
        folders.append(storage.mixed_dataset("small"))
    for file in (MIXTURE_FILE, "rows.parquet", "manifest.json"):
        assert sha256_of_file(folders[0] / file) == sha256_of_file(folders[1] / file)


def test_another_seed_gives_another_mixture(storage):
    put_samples(storage)
    first = build_mixture(small_config(seed=42), "small", storage).manifest
    second = build_mixture(small_config(seed=43), "small", storage).manifest
    assert first["version"] != second["version"]
    assert first["sha256"] != second["sha256"]
    assert build_mixture(small_config(seed=42), "small", storage).manifest == first


def test_nothing_changed_means_nothing_is_written(storage):
    put_samples(storage)
    first = build_mixture(small_config(), "small", storage)
    folder = storage.mixed_dataset("small")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    second = build_mixture(small_config(), "small", storage)
    assert (first.reused, second.reused) == (False, True)
    assert second.manifest == first.manifest
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize("file", [MIXTURE_FILE, "rows.parquet", "manifest.json"])
@pytest.mark.parametrize("harm", ["changed", "deleted"])
def test_mixture_that_was_harmed_is_rebuilt(storage, file, harm):
    put_samples(storage)
    build_mixture(small_config(), "small", storage)
    path = storage.mixed_dataset("small") / file
    whole = path.read_bytes()
    if harm == "deleted":
        path.unlink()
    else:
        path.write_bytes(b"{}" if file == "manifest.json" else whole + b"x")
    assert not build_mixture(small_config(), "small", storage).reused
    assert path.read_bytes() == whole


@pytest.mark.parametrize("harm", ["missing", "changed", "no-manifest"])
def test_source_without_a_whole_sample_is_named_with_the_command(storage, harm):
    put_samples(storage)
    folder = storage.source_sample("pubmedqa")
    if harm == "changed":
        (folder / "rows.parquet").write_bytes(b"x")
    else:
        (folder / ("rows.parquet" if harm == "missing" else "manifest.json")).unlink()
    with pytest.raises(MixtureError) as raised:
        build_mixture(small_config(), "small", storage)
    message = str(raised.value)
    assert message.startswith(f"{folder}: pubmedqa is not sampled, recipe small needs it.")
    assert "`qwenft run --recipe small`" in message
    assert "--select source_sample --partition pubmedqa`" in message
    assert not storage.mixed_dataset("small").exists()


def test_repeat_fills_up_with_copies_of_train_rows_only(storage):
    put_samples(storage, local=10)
    manifest = build_mixture(small_config(shortfall="repeat"), "small", storage).manifest
    mixed = read_mixture(storage, "small")
    copies = [(row, side, copy) for row, side, copy in mixed if copy]
    assert len(mixed) == manifest["rows"] == 100
    assert manifest["sources"]["local_reports"]["repeats"] == len(copies) == 15
    assert {row.source for row, _, _ in copies} == {"local_reports"}
    assert {side for _, side, _ in copies} == {"train"}
    eval_ids = [row.row_id for row, side, _ in mixed if side == "eval"]
    assert len(set(eval_ids)) == len(eval_ids) == 8
    assert set(eval_ids).isdisjoint(row.row_id for row, _, _ in copies)
    assert len({(row.row_id, copy) for row, _, copy in mixed}) == 100


def test_fail_stops_before_anything_is_written(storage):
    put_samples(storage, local=10)
    with pytest.raises(MixtureError, match=r"^local_reports: 25 rows asked, 10 there, 15 missing"):
        build_mixture(small_config(shortfall="fail"), "small", storage)
    assert not storage.mixed_dataset("small").exists()


def test_copy_in_a_later_source_is_dropped_and_counted(storage):
    put_samples(storage)
    planted = [row("slimorca", 900 + n, f"LOCAL_REPORTS  question {n}") for n in range(3)]
    copies = [replace(p, output=f"local_reports answer {n}") for n, p in enumerate(planted)]
    put_sample(storage, "slimorca", [*rows_of("slimorca", 60), *copies])
    manifest = build_mixture(small_config(rows=120), "small", storage).manifest
    mixed = read_mixture(storage, "small")
    assert manifest["dropped_duplicate"] == 3
    assert manifest["sources"]["slimorca"]["dropped_duplicate"] == 3
    assert manifest["sources"]["local_reports"]["dropped_duplicate"] == 0
    assert {copy.row_id for copy in copies}.isdisjoint(row.row_id for row, _, _ in mixed)
    assert manifest["sources"]["local_reports"]["rows"] == 30


def test_version_stays_when_only_provenance_changes(storage):
    put_samples(storage)
    before = build_mixture(small_config(), "small", storage)
    moved = [replace(row, revision="def", author="Ada") for row in rows_of("slimorca", 60)]
    put_sample(storage, "slimorca", moved)
    after = build_mixture(small_config(), "small", storage)
    assert not after.reused
    assert after.manifest["version"] == before.manifest["version"]
    assert after.manifest["sha256"] == before.manifest["sha256"]
    assert after.manifest["rows_sha256"] != before.manifest["rows_sha256"]


def test_version_changes_with_a_text(storage):
    put_samples(storage)
    before = build_mixture(small_config(rows=120), "small", storage).manifest["version"]
    changed = [row("slimorca", 0, output="another answer"), *rows_of("slimorca", 60)[1:]]
    put_sample(storage, "slimorca", changed)
    assert build_mixture(small_config(rows=120), "small", storage).manifest["version"] != before


def test_smaller_recipe_takes_rows_of_the_larger(storage):
    put_samples(storage)
    taken: dict[int, set[str]] = {}
    for rows in (40, 80):
        build_mixture(small_config(rows=rows), "small", storage)
        taken[rows] = {row.row_id for row, _, _ in read_mixture(storage, "small")}
    assert len(taken[40]) == 40
    assert taken[40] < taken[80]


@pytest.mark.parametrize(
    ("rows", "about"),
    [
        pytest.param(rows_of("slimorca", 1), "fewer than 2 rows", id="one-row"),
        pytest.param(
            [row("slimorca", n, "Same?", f"answer {n}") for n in range(20)],
            "all rows ask the same question",
            id="one-question",
        ),
    ],
)
def test_rows_of_which_none_can_be_held_out_are_refused(rows, about):
    quotas = {"slimorca": Quota(len(rows), len(rows), len(rows), 0)}
    with pytest.raises(MixtureError, match=about):
        mix({"slimorca": rows}, quotas, small_config().mixture)


def test_mixture_that_was_not_built_is_named_with_the_command(storage):
    recipe: RecipeName = "large"
    with pytest.raises(MixtureError, match=r"no mixture yet\. Run `qwenft run --recipe large`"):
        read_mixture(storage, recipe)


def test_unknown_recipe_is_named_with_those_there_are():
    with pytest.raises(
        MixtureError, match=r"^recipe 'large': not in the config test\. .*: small\."
    ):
        recipe_of(small_config(), "large")
