"""The stage: samples in, contract files out; the same bytes again, or nothing done at all."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from qwenft_assets.config import Config, RecipeName, SimilarQuestionsConfig
from qwenft_assets.errors import MixtureError
from qwenft_assets.mixture.build import build_mixture, mix, read_mixture, recipe_of
from qwenft_assets.mixture.deduplication import REASONS
from qwenft_assets.mixture.quotas import Quota
from qwenft_assets.mixture.split import find_leaks
from qwenft_assets.rows import MIXED_SCHEMA
from qwenft_assets.sources.registry import bundled_sources
from qwenft_assets.sources.sample import sample_source
from qwenft_assets.storage.files import read_json, sha256_of_file
from qwenft_assets.storage.root import MIXTURE_FILE, Storage
from qwenft_assets_tests.mixture.sampled_rows import (
    put_sample,
    put_samples,
    row,
    rows_of,
    small_config,
)


@pytest.fixture
def sampled(demo_config: Config, storage: Storage) -> Storage:
    """A storage with the bundled samples of all sources."""
    for source in bundled_sources():
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
        "ATTRIBUTION.md",
        "candidates.parquet",
        "diff.json",
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
    for reason in REASONS:
        dropped = sum(source[f"dropped_{reason}"] for source in sources)
        assert dropped == manifest[f"dropped_{reason}"]
    assert sum(manifest["ratios_got"].values()) == pytest.approx(1, abs=1e-3)
    leaks = find_leaks([(row, side) for row, side, _ in mixed], SimilarQuestionsConfig())
    assert leaks == []
    assert manifest["eval_rows"] / len(mixed) == pytest.approx(0.10, abs=0.02)


def test_rows_are_shuffled_over_sources_and_sides(storage):
    put_samples(small_config(), storage)
    build_mixture(small_config(), "small", storage)
    mixed = read_mixture(storage, "small")
    first_half = mixed[: len(mixed) // 2]
    assert {row.source for row, _, _ in first_half} == {"local_reports", "slimorca", "pubmedqa"}
    assert {side for _, side, _ in first_half} == {"train", "eval"}


def test_ratios_are_kept_and_short_sources_reported(storage):
    put_samples(small_config(), storage, local_reports=10)
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
        put_samples(small_config(), storage)
        build_mixture(small_config(), "small", storage)
        folders.append(storage.mixed_dataset("small"))
    for file in (MIXTURE_FILE, "rows.parquet", "manifest.json"):
        assert sha256_of_file(folders[0] / file) == sha256_of_file(folders[1] / file)


def test_another_seed_gives_another_mixture(storage):
    put_samples(small_config(), storage)
    first = build_mixture(small_config(seed=42), "small", storage).manifest
    second = build_mixture(small_config(seed=43), "small", storage).manifest
    assert first["version"] != second["version"]
    assert first["files"][MIXTURE_FILE] != second["files"][MIXTURE_FILE]
    assert build_mixture(small_config(seed=42), "small", storage).manifest == first


def test_nothing_changed_means_nothing_is_written(storage):
    put_samples(small_config(), storage)
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
    put_samples(small_config(), storage)
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
    put_samples(small_config(), storage)
    folder = storage.source_sample("pubmedqa")
    if harm == "changed":
        (folder / "rows.parquet").write_bytes(b"x")
    else:
        (folder / ("rows.parquet" if harm == "missing" else "manifest.json")).unlink()
    with pytest.raises(MixtureError) as raised:
        build_mixture(small_config(), "small", storage)
    message = str(raised.value)
    assert message.startswith(f"{folder}: pubmedqa is not sampled, or its sample is damaged.")
    assert "Run `qwenft sample pubmedqa`" in message
    assert "--select source_sample --partition pubmedqa`" in message
    assert not storage.mixed_dataset("small").exists()


def test_repeat_fills_up_with_copies_of_train_rows_only(storage):
    put_samples(small_config(), storage, local_reports=10)
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
    put_samples(small_config(), storage, local_reports=10)
    with pytest.raises(MixtureError, match=r"^local_reports: 25 rows asked, 10 there, 15 missing"):
        build_mixture(small_config(shortfall="fail"), "small", storage)
    assert not storage.mixed_dataset("small").exists()


def test_copy_in_a_later_source_is_dropped_and_recorded_with_its_partner(storage):
    put_samples(small_config(), storage)
    originals = rows_of("local_reports", 3)
    copies = [
        row("slimorca", 900 + n, f"  {original.instruction.upper()}", original.output)
        for n, original in enumerate(originals)
    ]
    put_sample(small_config(), storage, "slimorca", [*rows_of("slimorca", 60), *copies])
    manifest = build_mixture(small_config(rows=120), "small", storage).manifest
    mixed = read_mixture(storage, "small")
    assert manifest["dropped_duplicate"] == 3
    assert manifest["sources"]["slimorca"]["dropped_duplicate"] == 3
    assert manifest["sources"]["local_reports"]["dropped_duplicate"] == 0
    assert {copy.row_id for copy in copies}.isdisjoint(row.row_id for row, _, _ in mixed)
    assert manifest["sources"]["local_reports"]["rows"] == 30
    candidates = pq.read_table(storage.mixed_dataset("small") / "candidates.parquet").to_pylist()
    removed = {item["row_id"]: item for item in candidates if item["partner"]}
    assert {copy.row_id: removed[copy.row_id]["partner"] for copy in copies} == {
        copy.row_id: original.row_id for copy, original in zip(copies, originals, strict=True)
    }
    assert len(candidates) == 123


def test_version_stays_when_only_provenance_changes(storage):
    put_samples(small_config(), storage)
    before = build_mixture(small_config(), "small", storage)
    moved = [replace(row, revision="def", author="Ada") for row in rows_of("slimorca", 60)]
    put_sample(small_config(), storage, "slimorca", moved)
    after = build_mixture(small_config(), "small", storage)
    assert not after.reused
    assert after.manifest["version"] == before.manifest["version"]
    files, earlier = after.manifest["files"], before.manifest["files"]
    assert files[MIXTURE_FILE] == earlier[MIXTURE_FILE]
    assert files["rows.parquet"] != earlier["rows.parquet"]


def test_version_changes_with_a_text(storage):
    put_samples(small_config(), storage)
    before = build_mixture(small_config(rows=120), "small", storage).manifest["version"]
    changed = [row("slimorca", 0, output="another answer"), *rows_of("slimorca", 60)[1:]]
    put_sample(small_config(), storage, "slimorca", changed)
    assert build_mixture(small_config(rows=120), "small", storage).manifest["version"] != before


def test_smaller_recipe_takes_rows_of_the_larger(storage):
    put_samples(small_config(), storage)
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
            [row("slimorca", n, "Same?") for n in range(20)],
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


def test_a_source_that_is_held_out_whole_repeats_nothing():
    pools = {"slimorca": rows_of("slimorca", 1), "pubmedqa": rows_of("pubmedqa", 1)}
    quotas = {name: Quota(asked=3, available=1, unique=1, repeats=2) for name in pools}
    mixed = mix(pools, quotas, small_config().mixture)
    held_out = next(row.row.source for row in mixed if row.split == "eval")
    assert [row.copy for row in mixed if row.row.source == held_out] == [0]
    assert sorted(row.copy for row in mixed if row.row.source != held_out) == [0, 1, 2]
