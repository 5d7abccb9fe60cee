"""Locks between real processes: one holder, who is named, and none after a kill."""

import json
import os
import signal
import subprocess
import sys
import time

from qwenft_assets.config import PROJECT_ROOT
from qwenft_assets.storage.locking import hold, holder

HOLDS = """
import sys, time
from pathlib import Path
from qwenft_assets.storage.locking import hold
with hold(Path(sys.argv[1]), "x"):
    print("held", flush=True)
    time.sleep(120)
"""


def start_holder(lock_file):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(lock_file)],
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_who_waits_is_told_who_holds_the_lock_and_gets_it_after_a_kill(tmp_path):
    lock_file = tmp_path / "x.lock"
    told: list[str] = []
    with start_holder(lock_file) as process:

        def kill_the_holder(line):
            told.append(line)
            process.send_signal(signal.SIGKILL)

        with hold(lock_file, "the mixture", kill_the_holder):
            assert holder(lock_file).startswith(f"process {os.getpid()} on ")
    (line,) = told
    assert line.startswith(f"waiting for the mixture, held by process {process.pid} on ")
    assert f" for 0 min (-c {lock_file})" in line


def test_a_holder_that_was_killed_is_not_named(tmp_path):
    lock_file = tmp_path / "x.lock"
    with start_holder(lock_file) as process:
        process.kill()
    assert holder(lock_file) == "another process"
    with hold(lock_file, "x"):
        pass
    assert holder(lock_file) == "another process"


def test_a_clock_set_back_makes_no_negative_age(tmp_path):
    lock_file = tmp_path / "x.lock"
    with hold(lock_file, "x"):
        file = tmp_path / "x.holder"
        about = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps({**about, "since": time.time() + 3600}), encoding="utf-8")
        assert " for 0 min " in holder(lock_file)
