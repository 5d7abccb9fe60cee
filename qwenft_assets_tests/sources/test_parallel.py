"""A scan by several processes, or by Ray's tasks: the bytes of a scan by one."""

import os
import shutil
import signal
import time
from functools import partial

import pytest

from qwenft_assets.config import Config
from qwenft_assets.errors import SourceError, WorkerError
from qwenft_assets.sources.origin import SAMPLES_FOLDER
from qwenft_assets.sources.parallel import shards_in_turn
from qwenft_assets.sources.sample import sample_source
from qwenft_assets.sources.scan import Scan
from qwenft_assets.sources.shards import ShardStore
from qwenft_assets.sources.stackexchange import REPO_ID
from qwenft_assets.storage import Storage
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
        pytest.param("ray", 2, id="ray-tasks", marks=needs_ray),
    ],
)
def test_the_sample_is_the_same_to_the_byte(tmp_path, launcher, processes):
    serial = sampled(tmp_path / "serial", config_of())
    assert len([name for name in serial if name.startswith("shards/")]) > 3
    assert sampled(tmp_path / "parallel", config_of(launcher, processes)) == serial


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


def die_on_the_last(folder, path, tally):
    if path == "c":
        while len(list(folder.glob("*.parquet"))) < 2:  # the others are read, by whichever process
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    yield from ()


def test_a_killed_process_is_told_and_what_was_read_is_kept(tmp_path):
    scan = Scan("0", ("a", "b", "c"), partial(die_on_the_last, tmp_path))
    store = ShardStore(tmp_path, scan, 0)
    with pytest.raises(WorkerError, match=r"a process that read \w was killed"):
        list(shards_in_turn(store, None, config_of(scan_processes=2)))
    assert store.holds("a", None)
    assert store.holds("b", None)
    assert not store.holds("c", None)
