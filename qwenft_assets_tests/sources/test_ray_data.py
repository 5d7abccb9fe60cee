"""A scan over Ray Data, on a cluster of one machine: the bytes of a scan without it."""

import os
import shutil
import signal
from functools import partial

import pytest

from qwenft_assets.config import Config
from qwenft_assets.errors import SourceError
from qwenft_assets.processes.ray_cluster import connected
from qwenft_assets.sources.origin import SAMPLES_FOLDER
from qwenft_assets.sources.ray_data import read_over_ray
from qwenft_assets.sources.sample import sample_source
from qwenft_assets.sources.scan import Scan, ShardCache
from qwenft_assets.sources.stackexchange import REPO_ID
from qwenft_assets.storage.root import Storage
from qwenft_assets_tests.ray_installed import needs_ray

SOURCE = "stackexchange_ai"
pytestmark = needs_ray


def config_of(launcher: str = "ray", **sources: object) -> Config:
    values = {"name": "scan", "launcher": {"kind": launcher, "processes": 1}, "sources": sources}
    return Config.model_validate(values)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with connected(config_of().launcher):
        yield


def sampled(root, config, max_rows=None):
    storage = Storage(root)
    storage.ensure_writable()
    sample_source(config, SOURCE, storage, max_rows=max_rows)
    folder = storage.source_sample(SOURCE)
    files = (path for path in sorted(folder.rglob("*")) if path.suffix in {".parquet", ".json"})
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_sample_manifest_and_kept_shards_are_the_same_bytes(tmp_path, capfd):
    local = sampled(tmp_path / "local", config_of("local"))
    assert len([name for name in local if name.startswith("shards/")]) > 3
    assert sampled(tmp_path / "ray", config_of()) == local
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""


def test_a_sample_that_ends_early_and_is_extended_is_the_same(tmp_path):
    few = {"max_rows": 3}
    for rows in (3, 12):
        local = sampled(tmp_path / "local", config_of("local", stackexchange_ai=few), rows)
        ray = sampled(tmp_path / "ray", config_of(stackexchange_ai=few), rows)
        for name in ("rows.parquet", "manifest.json"):
            assert ray[name] == local[name], (rows, name)


def test_shards_that_are_kept_are_not_read_again(tmp_path):
    local = sampled(tmp_path, config_of("local"))
    kept = [name for name in local if name.startswith("shards/")]
    source_folder = Storage(tmp_path).source_sample(SOURCE)
    times = {name: (source_folder / name).stat().st_mtime_ns for name in kept}
    (source_folder / "manifest.json").unlink()
    (source_folder / kept[0]).unlink()
    (source_folder / kept[-1]).unlink()
    assert sampled(tmp_path, config_of()) == local
    assert all((source_folder / name).stat().st_mtime_ns == times[name] for name in kept[1:-1])
    assert all(
        (source_folder / name).stat().st_mtime_ns > times[name] for name in kept[:: len(kept) - 1]
    )


def test_a_broken_file_is_the_error_of_a_scan_without_ray(tmp_path):
    origin = tmp_path / "origin"
    shutil.copytree(SAMPLES_FOLDER / REPO_ID, origin / REPO_ID)
    broken = next((origin / REPO_ID / "data" / "cs.stackexchange.com").glob("*.parquet"))
    broken.write_bytes(b"half")
    with pytest.raises(SourceError, match=r"cs\.stackexchange\.com.*cannot be read"):
        sampled(tmp_path / "storage", config_of(origin=str(origin)))


def note_and_die_once(folder, shard, tally):
    with (folder / f"{shard}.reads").open("a") as reads:
        reads.write("read\n")
    if shard == "b" and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    tally.scanned += 1
    yield from ()


def test_a_shard_whose_process_was_killed_is_read_again(tmp_path):
    scan = Scan("0", ("a", "b"), partial(note_and_die_once, tmp_path))
    cache = ShardCache(tmp_path / "shards", scan, 0)
    tallies = [rows.tally for rows in read_over_ray(cache, None, config_of().launcher)]
    assert [tally.scanned for tally in tallies] == [1, 1]
    assert (tmp_path / "died").exists()


def test_a_scan_that_ends_early_leaves_the_later_shards(tmp_path):
    import ray

    cores = int(ray.cluster_resources()["CPU"])
    shards = tuple(f"shard{number}" for number in range(cores + 3))
    (tmp_path / "died").touch()
    cache = ShardCache(
        tmp_path / "shards", Scan("0", shards, partial(note_and_die_once, tmp_path)), 0
    )
    found = read_over_ray(cache, 5, config_of().launcher)
    next(found)
    found.close()
    assert {path.stem for path in tmp_path.glob("*.reads")} <= set(shards[:cores])
