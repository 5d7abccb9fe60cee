"""Actors that read: kept from one scan to the next, replaced when they are lost, killed if they read on."""

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from qwenft_assets.config import LauncherConfig
from qwenft_assets.processes.ray_cluster import connected
from qwenft_assets.sources.ray_readers import actors_that_read
from qwenft_assets.sources.scan import Scan
from qwenft_assets_tests.ray_installed import needs_ray

pytestmark = needs_ray


@pytest.fixture(scope="module")
def cluster():
    with connected(LauncherConfig(kind="ray", processes=1)):
        yield


def note_process(folder, path, tally):
    (folder / f"{path}-{os.getpid()}").touch()
    yield from ()


def die_once(folder, path, tally):
    if not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    yield from note_process(folder, path, tally)


def read_for_an_hour(folder, path, tally):
    yield from note_process(folder, path, tally)
    time.sleep(3600)


def scan_of(read, folder):
    return Scan("0", ("a",), partial(read, folder))


def processes(folder, path):
    return {int(file.name.split("-")[1]) for file in folder.glob(f"{path}-*")}


def test_an_actor_reads_the_next_scan_too(cluster, tmp_path):
    for path in ("a", "b"):
        with actors_that_read(1, 1) as (reader,):
            reader.begin(scan_of(note_process, tmp_path), 0, None)
            assert reader.read(path, 0).table.num_rows == 0
    assert processes(tmp_path, "a") == processes(tmp_path, "b")
    assert len(processes(tmp_path, "a")) == 1


def test_a_part_whose_actor_was_lost_is_read_again(cluster, tmp_path):
    with actors_that_read(1, 1) as (reader,):
        reader.begin(scan_of(die_once, tmp_path), 0, None)
        assert reader.read("a", 0).parts == 1
    assert (tmp_path / "died").exists()


def test_an_actor_that_still_reads_is_killed(cluster, tmp_path):
    with actors_that_read(1, 1) as (reader,):
        reader.begin(scan_of(read_for_an_hour, tmp_path), 0, None)
        lost = []

        def read():
            try:
                reader.read("a", 0)
            except Exception as error:  # noqa: BLE001
                lost.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        while not (found := processes(tmp_path, "a")):
            time.sleep(0.02)
    thread.join(60)
    assert len(lost) == 1
    (pid,) = found
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()
    with actors_that_read(1, 1) as (another,):
        another.begin(scan_of(note_process, tmp_path), 0, None)
        assert another.read("b", 0).parts == 1
