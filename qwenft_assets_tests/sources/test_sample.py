"""The same bytes from the same settings, nothing done twice, nothing half done."""

import json
import shutil
from typing import Any

import pyarrow.parquet as pq
import pytest

from qwenft_assets.config import PROJECT_ROOT, Config, SourceName
from qwenft_assets.errors import SourceError
from qwenft_assets.rows import ROW_SCHEMA, rows_version, table_to_rows
from qwenft_assets.sources.registry import bundled_sources, scan_source
from qwenft_assets.sources.sample import sample_source
from qwenft_assets.storage.files import read_json, sha256_of_file
from qwenft_assets.storage.root import Storage


def with_source(config: Config, source: SourceName, **settings: Any) -> Config:
    """The config with some settings of one source replaced."""
    changed = getattr(config.sources, source).model_copy(update=settings)
    return config.model_copy(
        update={"sources": config.sources.model_copy(update={source: changed})}
    )


def row_ids(storage: Storage, source: SourceName) -> list[str]:
    table = pq.read_table(storage.source_sample(source) / "rows.parquet")
    return [row.row_id for row in table_to_rows(table)]


@pytest.mark.parametrize("source", bundled_sources())
def test_sample_holds_rows_and_a_manifest_that_counts_them(demo_config, storage, source):
    report = sample_source(demo_config, source, storage)
    folder = storage.source_sample(source)
    table = pq.read_table(folder / "rows.parquet")
    rows = table_to_rows(table)
    manifest = report.manifest
    assert not report.reused
    assert read_json(folder / "manifest.json") == manifest
    assert table.schema.equals(ROW_SCHEMA)
    assert manifest["source"] == source
    assert manifest["rows"] == len(rows) > 0
    assert manifest["version"] == rows_version(rows)
    assert manifest["sha256"] == sha256_of_file(folder / "rows.parquet")
    dropped = sum(n for key, n in manifest.items() if key.startswith("dropped_"))
    assert manifest["scanned"] == len(rows) + dropped
    assert sum(manifest["licenses"].values()) == len(rows)
    assert sum(manifest["admitted_by"].values()) == len(rows)
    assert {row.revision for row in rows} == {manifest["revision"]}
    assert {row.source for row in rows} == {source}
    assert len({row.row_id for row in rows}) == len(rows)


@pytest.mark.parametrize("max_rows", [None, 5])
def test_rows_that_another_domain_admits_too_are_counted_none_of_them_included(
    demo_config, storage, max_rows
):
    source = "stackexchange_ic"
    config = with_source(demo_config, source, max_rows=max_rows)
    manifest = sample_source(config, source, storage).manifest
    rows = pq.read_table(storage.source_sample(source) / "rows.parquet")
    assert manifest["also_in"] == scan_source(config, source).also_in(rows)
    assert manifest["also_in"].keys() == {"stackexchange_ai", "stackexchange_biomed"}
    assert 0 in manifest["also_in"].values()


@pytest.mark.parametrize("source", bundled_sources())
def test_two_storages_get_the_same_bytes(demo_config, tmp_path, source):
    folders = []
    for name in ("a", "b"):
        storage = Storage(tmp_path / name)
        sample_source(demo_config, source, storage)
        folders.append(storage.source_sample(source))
    for file in ("rows.parquet", "manifest.json"):
        assert sha256_of_file(folders[0] / file) == sha256_of_file(folders[1] / file)


def test_second_call_rewrites_nothing(demo_config, storage):
    first = sample_source(demo_config, "slimorca", storage)
    folder = storage.source_sample("slimorca")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    second = sample_source(demo_config, "slimorca", storage)
    assert (first.reused, second.reused) == (False, True)
    assert second.manifest == first.manifest
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert set(before) == {"rows.parquet", "manifest.json"}


def test_smaller_sample_is_the_beginning_of_a_larger_one(demo_config, storage):
    ids: dict[int, list[str]] = {}
    for max_rows in (10, 30):
        report = sample_source(
            with_source(demo_config, "slimorca", max_rows=max_rows), "slimorca", storage
        )
        ids[max_rows] = row_ids(storage, "slimorca")
        assert report.manifest["dropped_beyond_max_rows"] == report.manifest["scanned"] - max_rows
    assert len(ids[30]) == 30
    assert ids[10] == ids[30][:10]


def test_another_seed_gives_another_order_of_the_same_rows(demo_config, storage):
    sample_source(demo_config, "slimorca", storage)
    first = row_ids(storage, "slimorca")
    sample_source(with_source(demo_config, "slimorca", seed=43), "slimorca", storage)
    second = row_ids(storage, "slimorca")
    assert first != second
    assert sorted(first) == sorted(second)


def test_row_more_upstream_moves_no_other(demo_config, storage, tmp_path):
    shutil.copytree(PROJECT_ROOT / "data" / "samples", tmp_path / "origin")
    origin = demo_config.sources.model_copy(update={"origin": str(tmp_path / "origin")})
    config = demo_config.model_copy(update={"sources": origin})
    before = sample_source(config, "slimorca", storage)
    ids = row_ids(storage, "slimorca")
    (file,) = (tmp_path / "origin" / "Open-Orca" / "SlimOrca").glob("*.jsonl")
    turns = [{"from": "human", "value": "New?"}, {"from": "gpt", "value": "Yes."}]
    new = json.dumps({"conversations": turns}) + "\n"
    file.write_text(new + file.read_text(encoding="utf-8"), encoding="utf-8")
    after = sample_source(config, "slimorca", storage)
    assert not after.reused
    assert after.manifest["revision"] != before.manifest["revision"]
    with_new = row_ids(storage, "slimorca")
    (added,) = set(with_new) - set(ids)
    assert [row_id for row_id in with_new if row_id != added] == ids


@pytest.mark.parametrize("file", ["rows.parquet", "manifest.json"])
@pytest.mark.parametrize("harm", ["changed", "deleted"])
def test_sample_that_was_harmed_is_rebuilt(demo_config, storage, file, harm):
    sample_source(demo_config, "pubmedqa", storage)
    path = storage.source_sample("pubmedqa") / file
    whole = path.read_bytes()
    if harm == "deleted":
        path.unlink()
    else:
        path.write_bytes(b"{}" if file == "manifest.json" else whole + b"x")
    assert not sample_source(demo_config, "pubmedqa", storage).reused
    assert path.read_bytes() == whole


def test_changed_setting_makes_a_new_sample(demo_config, storage):
    held_out = sample_source(demo_config, "pubmedqa", storage)
    config = with_source(demo_config, "pubmedqa", holdout_official_test=False)
    kept = sample_source(config, "pubmedqa", storage)
    assert not kept.reused
    assert kept.manifest["rows"] >= held_out.manifest["rows"]


def test_source_without_a_usable_row_is_an_error_and_writes_nothing(demo_config, storage, tmp_path):
    repository = tmp_path / "origin" / "Open-Orca" / "SlimOrca"
    repository.mkdir(parents=True)
    (repository / "a.jsonl").write_text('{"conversations": []}\n{broken\n')
    sources = demo_config.sources.model_copy(update={"origin": str(tmp_path / "origin")})
    config = demo_config.model_copy(update={"sources": sources})
    with pytest.raises(SourceError) as raised:
        sample_source(config, "slimorca", storage)
    assert str(raised.value) == (
        "slimorca: no usable row among 2 scanned (dropped: malformed 1, not_one_exchange 1). "
        "Check sources.slimorca in the config."
    )
    assert not storage.source_sample("slimorca").exists()


def test_source_that_fails_leaves_the_old_sample(demo_config, storage):
    before = sample_source(demo_config, "pubmedqa", storage)
    sources = demo_config.sources.model_copy(update={"origin": str(storage.root)})
    with pytest.raises(SourceError, match="no such folder"):
        sample_source(demo_config.model_copy(update={"sources": sources}), "pubmedqa", storage)
    assert sample_source(demo_config, "pubmedqa", storage).manifest == before.manifest


def test_row_that_comes_twice_is_taken_once_and_counted(demo_config, storage, tmp_path):
    repository = tmp_path / "origin" / "Open-Orca" / "SlimOrca"
    repository.mkdir(parents=True)
    turns = [{"from": "human", "value": "New?"}, {"from": "gpt", "value": "Yes."}]
    (repository / "a.jsonl").write_text((json.dumps({"conversations": turns}) + "\n") * 3)
    sources = demo_config.sources.model_copy(update={"origin": str(tmp_path / "origin")})
    config = demo_config.model_copy(update={"sources": sources})
    manifest = sample_source(config, "slimorca", storage).manifest
    assert (manifest["rows"], manifest["dropped_repeated_id"]) == (1, 2)


def test_progress_is_reported_after_each_shard(demo_config, storage):
    calls: list[tuple[float, int, str]] = []

    def report_progress(done: float, total: int, note: str = "") -> None:
        calls.append((done, total, note))

    sample_source(demo_config, "stackexchange_ai", storage, report_progress)
    assert {total for _, total, _ in calls} == {5}
    assert sorted({done for done, _, _ in calls if done}) == [1, 2, 3, 4, 5]
    assert "54 scanned, 42 matched, 42 kept, 0 MiB, " in calls[-1][2]
    assert calls[0][2].endswith(" s left")
