"""What one machine delivers to a remote root, another one fetches: never half of it, whoever dies."""

import multiprocessing
import os
import re

import pytest

from qwenft_assets.errors import StorageError
from qwenft_assets.storage import artifacts
from qwenft_assets.storage.artifacts import RemoteArtifacts
from qwenft_assets.storage.files import sha256_of_file, write_json
from qwenft_assets.storage.integrity import check_artifacts
from qwenft_assets.storage.object_store import ObjectStore
from qwenft_assets.storage.root import ALL, Storage
from qwenft_assets_tests.loopback_s3 import BUCKET

PROCESSES = multiprocessing.get_context("spawn")
LARGE_BYTES = 2 * 16 * 2**20 + 1
FAILING = 0.1


@pytest.fixture(params=["s3", "memory"])
def root(request, tmp_path):
    """The URL of an empty remote root; on S3, a tenth of the requests fails."""
    if request.param == "memory":
        return f"memory://{tmp_path.name}"
    request.getfixturevalue("s3").failing = FAILING
    return f"s3://{BUCKET}/{tmp_path.name}"


def machine(folder, url):
    """A machine of its own: another stage of the same root."""
    return Storage(folder, url)


def make_sample(storage, rows, source="slimorca"):
    """A sample as the stage leaves it: rows, then the manifest with their hash."""
    folder = storage.source_sample(source)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.parquet").write_bytes(rows)
    write_json(folder / "manifest.json", {"sha256": sha256_of_file(folder / "rows.parquet")})


def deliver_sample(storage, rows, source="slimorca"):
    with storage.working_on(makes=[storage.source_sample(source)]):
        make_sample(storage, rows, source)


def rows_of(storage, source="slimorca"):
    return (storage.source_sample(source) / "rows.parquet").read_bytes()


def test_another_machine_has_the_same_bytes_and_times(root, tmp_path):
    here, there = machine(tmp_path / "here", root), machine(tmp_path / "there", root)
    deliver_sample(here, b"first" * 1000)
    deliver_sample(here, b"second" * 1000)
    there.fetch(there.root / ALL)
    assert rows_of(there) == b"second" * 1000
    for name in ("rows.parquet", "manifest.json"):
        ours, theirs = (s.source_sample("slimorca") / name for s in (here, there))
        assert theirs.read_bytes() == ours.read_bytes()
        assert theirs.stat().st_mtime == pytest.approx(ours.stat().st_mtime, abs=1e-3)
    assert [checked.problem for checked in check_artifacts(there)] == [None]


def test_what_a_step_starts_from_is_what_was_delivered_last(root, tmp_path):
    here, there = machine(tmp_path / "here", root), machine(tmp_path / "there", root)
    deliver_sample(here, b"old")
    with there.working_on(makes=[there.source_sample("slimorca")]):
        assert rows_of(there) == b"old"
        make_sample(there, b"new")
    with here.working_on(makes=[here.source_sample("slimorca")]):
        assert rows_of(here) == b"new"


def test_a_large_file_goes_in_parts(s3, tmp_path):
    url = f"s3://{BUCKET}/large"
    here, there = machine(tmp_path / "here", url), machine(tmp_path / "there", url)
    rows = os.urandom(2**20) * 32 + b"+"
    assert len(rows) == LARGE_BYTES
    s3.failing = FAILING
    deliver_sample(here, rows)
    assert len(s3.sent("PUT .*rows.parquet")) >= 3
    there.fetch(there.root / ALL)
    assert rows_of(there) == rows


def test_unchanged_sends_nothing_and_fetches_nothing(s3, tmp_path):
    url = f"s3://{BUCKET}/same"
    here, there = machine(tmp_path / "here", url), machine(tmp_path / "there", url)
    deliver_sample(here, b"rows")
    there.fetch(there.source_sample("slimorca"))
    s3.met.clear()
    deliver_sample(here, b"rows")
    there.fetch(there.source_sample("slimorca"))
    assert not s3.sent("PUT|POST|DELETE|files-")
    assert len(s3.sent("GET .*current.json")) == 3


def test_only_the_file_that_differs_is_fetched(s3, tmp_path):
    url = f"s3://{BUCKET}/differs"
    here, there = machine(tmp_path / "here", url), machine(tmp_path / "there", url)
    deliver_sample(here, b"rows")
    there.fetch(there.source_sample("slimorca"))
    with here.working_on(makes=[here.source_sample("slimorca")]):
        write_json(here.source_sample("slimorca") / "more.json", {"more": True})
    s3.met.clear()
    there.fetch(there.source_sample("slimorca"))
    assert s3.sent("GET .*more.json")
    assert not s3.sent("GET .*rows.parquet")


def test_records_come_without_what_they_describe(root, tmp_path):
    here, there = machine(tmp_path / "here", root), machine(tmp_path / "there", root)
    deliver_sample(here, b"rows")
    there.fetch(there.root / ALL, records_only=True)
    folder = there.source_sample("slimorca")
    assert [file.name for file in folder.iterdir()] == ["manifest.json"]
    there.fetch(folder)
    assert rows_of(there) == b"rows"


def test_what_stays_local_is_not_sent(s3, tmp_path):
    here = machine(tmp_path / "here", f"s3://{BUCKET}/local")
    folder = here.source_sample("slimorca")
    with here.working_on(makes=[folder]):
        make_sample(here, b"rows")
        (folder / "shards").mkdir()
        (folder / "shards" / "kept.parquet").write_bytes(b"shard")
        (folder / ".hidden").write_bytes(b"half")
    names = {line.rpartition("/")[2] for line in s3.sent("PUT")}
    assert names == {"rows.parquet", "manifest.json", "current.json"}
    assert (folder / "shards" / "kept.parquet").is_file()


def deliver_and_be_killed(folder, url):
    deliver_sample(Storage(folder, url), b"new" * 1000)


@pytest.mark.parametrize("moment", ["rows.parquet", "current.json"])
def test_killed_in_mid_upload_the_old_one_stays_and_the_next_run_mends_it(s3, tmp_path, moment):
    url = f"s3://{BUCKET}/killed"
    here, there = machine(tmp_path / "here", url), machine(tmp_path / "there", url)
    deliver_sample(here, b"old" * 1000)
    s3.stalled = re.compile(f"PUT .*{moment}")
    process = PROCESSES.Process(target=deliver_and_be_killed, args=(here.root, url))
    process.start()
    assert s3.stalling.wait(60)
    process.kill()
    process.join()
    s3.stalled = None
    there.fetch(there.root / ALL)
    assert rows_of(there) == b"old" * 1000
    assert [checked.problem for checked in check_artifacts(there)] == [None]
    deliver_sample(here, b"new" * 1000)
    there.fetch(there.root / ALL)
    assert rows_of(there) == b"new" * 1000


def test_a_failed_step_delivers_nothing(root, tmp_path):
    here, there = machine(tmp_path / "here", root), machine(tmp_path / "there", root)
    deliver_sample(here, b"good")

    def fail():
        with here.working_on(makes=[here.source_sample("slimorca")]):
            make_sample(here, b"half")
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011  (the test's own)
        fail()
    there.fetch(there.root / ALL)
    assert rows_of(there) == b"good"


def test_two_machines_at_once_the_later_one_is_told(root, tmp_path):
    here, there = machine(tmp_path / "here", root), machine(tmp_path / "there", root)
    deliver_sample(here, b"old")

    def overtaken():
        with there.working_on(makes=[there.source_sample("slimorca")]):
            deliver_sample(here, b"first")
            make_sample(there, b"second")

    with pytest.raises(StorageError, match="another machine has uploaded another version"):
        overtaken()
    there.fetch(there.source_sample("slimorca"))
    assert rows_of(there) == b"first"


def test_a_reader_does_not_touch_what_a_step_of_this_machine_is_making(root, tmp_path):
    here = machine(tmp_path / "here", root)
    deliver_sample(here, b"old")
    with here.working_on(makes=[here.source_sample("slimorca")]):
        make_sample(here, b"new")
        here.fetch(here.root / ALL)
        assert rows_of(here) == b"new"


def test_files_that_no_pointer_names_are_swept_after_a_day(root, tmp_path, monkeypatch):
    here = machine(tmp_path / "here", root)
    for rows in (b"first", b"second"):
        deliver_sample(here, rows)
    assert len(contents(here)) == 2, "someone may be reading the first"
    monkeypatch.setattr(artifacts, "KEPT_SECONDS", -1.0)
    deliver_sample(here, b"third")
    assert len(contents(here)) == 1


def contents(storage):
    stage = RemoteArtifacts(storage.root, ObjectStore(storage.url))
    return {key.split("/")[-2] for key in stage.store.keys("source_sample") if "files-" in key}


def test_removed_is_removed_everywhere(root, tmp_path):
    here, there = machine(tmp_path / "here", root), machine(tmp_path / "there", root)
    deliver_sample(here, b"rows")
    deliver_sample(here, b"other", source="pubmedqa")
    here.remove(here.source_sample("slimorca"))
    there.fetch(there.root / ALL)
    assert [folder.name for folder in (there.root / "source_sample").iterdir()] == ["pubmedqa"]
    assert not here.source_sample("slimorca").exists()


def test_bytes_that_are_damaged_on_the_way_are_fetched_again(s3, tmp_path):
    url = f"s3://{BUCKET}/damaged"
    here, there = machine(tmp_path / "here", url), machine(tmp_path / "there", url)
    deliver_sample(here, b"rows")
    s3.corrupted = re.compile("GET .*rows.parquet")
    there.fetch(there.source_sample("slimorca"))
    assert rows_of(there) == b"rows"
    assert len(s3.sent("GET .*rows.parquet")) == 2


def test_an_object_that_is_not_what_its_pointer_says_leaves_what_was_there(
    root, tmp_path, monkeypatch
):
    monkeypatch.setattr("qwenft_assets.retries.LONGEST_WAIT_SECONDS", 0.01)
    here, there = machine(tmp_path / "here", root), machine(tmp_path / "there", root)
    deliver_sample(here, b"old")
    there.fetch(there.source_sample("slimorca"))
    deliver_sample(here, b"new")
    store = ObjectStore(root)
    for key in store.keys("source_sample"):
        if key.endswith("rows.parquet"):
            store.write(key, b"bad")
    with pytest.raises(
        StorageError, match=r"rows.parquet: failed after 4 attempts: .*not what its"
    ):
        there.fetch(there.source_sample("slimorca"))
    assert rows_of(there) == b"old"


def test_a_pointer_without_its_files_is_told(s3, tmp_path):
    url = f"s3://{BUCKET}/lost"
    here, there = machine(tmp_path / "here", url), machine(tmp_path / "there", url)
    deliver_sample(here, b"rows")
    stage = RemoteArtifacts(here.root, ObjectStore(url))
    for key in stage.store.keys("source_sample"):
        if key.endswith("rows.parquet"):
            stage.store.remove(key)
    with pytest.raises(StorageError, match=r"files that current\.json names are missing"):
        there.fetch(there.source_sample("slimorca"))


def test_below_a_local_root_nothing_is_fetched_or_sent(tmp_path):
    local = Storage(tmp_path / "local")
    with local.working_on(makes=[local.source_sample("slimorca")]):
        make_sample(local, b"rows")
    local.fetch(local.root / ALL)
    assert local.address(local.root, "x") == str(local.root / "x")
    assert rows_of(local) == b"rows"
