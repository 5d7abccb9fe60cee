"""A scan by several processes, or with actors of Ray: the bytes of a scan by one."""

import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwenft_assets.config import Config
from qwenft_assets.errors import SourceError, WorkerError
from qwenft_assets.sources.origin import SAMPLES_FOLDER
from qwenft_assets.sources.parallel import shards_in_turn
from qwenft_assets.sources.part_readers import processes_that_read
from qwenft_assets.sources.registry import scan_source
from qwenft_assets.sources.sample import sample_source
from qwenft_assets.sources.scan import Scan
from qwenft_assets.sources.shards import ShardStore, read_part
from qwenft_assets.sources.stackexchange import REPO_ID
from qwenft_assets.storage.root import Storage
from qwenft_assets_tests.ray_installed import needs_ray

SOURCE = "stackexchange_ai"


def config_of(launcher: str = "local", scan_processes: int = 1, **sources: object) -> Config:
    return Config.model_validate(
        {
            "name": "parallel",
            "launcher": {"kind": launcher},
            "sources": {"scan_processes": scan_processes, **sources},
        }
    )


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def sampled(root, config, max_rows=None):
    storage = Storage(root)
    storage.ensure_writable()
    sample_source(config, SOURCE, storage, max_rows=max_rows)
    return files_of(storage.source_sample(SOURCE))


@pytest.mark.parametrize(
    ("launcher", "processes"),
    [
        pytest.param("local", 2, id="two-processes"),
        pytest.param("ray", 2, id="ray-actors", marks=needs_ray),
    ],
)
def test_the_sample_is_the_same_to_the_byte(tmp_path, launcher, processes):
    serial = sampled(tmp_path / "serial", config_of())
    assert len([name for name in serial if name.startswith("shards/")]) > 3
    for times in ("once", "in a cluster that is new"):
        assert sampled(tmp_path / times, config_of(launcher, processes)) == serial, times


def test_a_sample_that_ends_early_and_is_extended_is_the_same(tmp_path):
    few = {"max_rows": 3}
    for rows in (3, 12):
        serial = sampled(tmp_path / "serial", config_of(stackexchange_ai=few), rows)
        parallel = sampled(
            tmp_path / "parallel", config_of(scan_processes=2, stackexchange_ai=few), rows
        )
        for name in ("rows.parquet", "manifest.json"):
            assert parallel[name] == serial[name], (rows, name)


def test_a_broken_file_is_told_as_ever(tmp_path):
    origin = tmp_path / "origin"
    shutil.copytree(SAMPLES_FOLDER / REPO_ID, origin / REPO_ID)
    broken = next((origin / REPO_ID / "data" / "cs.stackexchange.com").glob("*.parquet"))
    broken.write_bytes(b"half")
    config = config_of(scan_processes=2, origin=str(origin))
    with pytest.raises(SourceError, match=r"cs\.stackexchange\.com.*cannot be read"):
        sampled(tmp_path / "storage", config)


@pytest.mark.parametrize("limit", [None, 40])
def test_a_shard_in_parts_is_the_shard(tmp_path, limit):
    origin = tmp_path / "origin"
    path = origin / REPO_ID / "data" / "cs.stackexchange.com" / "train-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    bundled = SAMPLES_FOLDER / REPO_ID / "data" / "cs.stackexchange.com"
    (sample,) = (pq.read_table(file) for file in bundled.glob("*.parquet"))
    pq.write_table(pa.concat_tables([sample] * 3), path, row_group_size=1)
    scan = scan_source(config_of(origin=str(origin)), SOURCE)
    whole = ShardStore(tmp_path / "whole", scan, 0).rows_of(scan.shards[0], limit)
    assert scan.split is not None
    count = scan.split.count(scan.shards[0])
    assert count > 1
    parts = [read_part(scan, 0, limit, scan.shards[0], part) for part in range(count)]
    joined = ShardStore(tmp_path / "parts", scan, 0).joined(scan.shards[0], limit, parts)
    assert joined.table == whole.table
    assert joined.tally.as_json() == whole.tally.as_json()


def wait_for_the_last(folder, path, tally):
    (folder / f"{path}.begun").touch()
    deadline = time.monotonic() + 30
    while path == "a" and not (folder / "c.begun").exists():
        if time.monotonic() > deadline:
            raise TimeoutError(path)
        time.sleep(0.02)
    yield from ()


def test_a_shard_that_takes_long_holds_up_no_other_that_is_near(tmp_path):
    scan = Scan("0", ("a", "b", "c"), partial(wait_for_the_last, tmp_path))
    shards = shards_in_turn(ShardStore(tmp_path, scan, 0), None, config_of(scan_processes=2))
    assert len(list(shards)) == 3


def die_if_not(first, folder, path, tally):
    if os.getpid() != first:
        while not list(folder.glob("*.parquet")):  # another shard is read
            time.sleep(0.02)
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    while path != "a" and not (folder / "died").exists():
        time.sleep(0.02)
    yield from ()


def test_a_killed_process_is_told_and_what_was_read_is_kept(tmp_path):
    # The caller takes the first shard, as the other process starts; what it dies of is told.
    scan = Scan("0", ("a", "b", "c"), partial(die_if_not, os.getpid(), tmp_path))
    store = ShardStore(tmp_path, scan, 0)
    with pytest.raises(WorkerError, match=r"a process that read [bc] was killed"):
        list(shards_in_turn(store, None, config_of(scan_processes=2)))
    assert store.holds("a", None)


def test_a_process_that_has_read_reads_the_next_source_too(tmp_path):
    with processes_that_read(1) as (first,):
        first.begin(Scan("0", ("a",), nothing), 0, None)
        assert first.read("a", 0).table.num_rows == 0
    with processes_that_read(1) as (second,):
        assert second is first


def nothing(path, tally):
    yield from ()


PROGRAM = """
import os, sys, time
from qwenft_assets.sources.part_readers import processes_that_read
from qwenft_assets.sources.scan import Scan
from qwenft_assets_tests.sources.test_parallel import nothing, read_for_an_hour

with processes_that_read(2) as (idle, busy):
    idle.begin(Scan("0", ("a",), nothing), 0, None)
    busy.begin(Scan("0", ("a",), read_for_an_hour), 0, None)
    print(idle.pid, busy.pid, flush=True)
    busy.read("a", 0)
"""


def read_for_an_hour(path, tally):
    time.sleep(3600)
    yield from ()


def test_they_end_with_the_process_that_started_them_even_by_kill_9():
    parent = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
    with parent:
        pids = [int(pid) for pid in (parent.stdout or sys.stdin).readline().split()]
        assert all(is_running(pid) for pid in pids)
        parent.kill()
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_running(pid) for pid in pids)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
