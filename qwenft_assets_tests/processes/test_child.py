"""A worker process for real: result, error, bug, and no orphan when its parent dies."""

import os
import signal
import subprocess
import sys
import time

import dagster as dg
import pytest
from pydantic import BaseModel

from qwenft_assets.config import PROJECT_ROOT, LauncherConfig
from qwenft_assets.errors import TrainingError, WorkerError
from qwenft_assets.processes.child import EXIT_INTERRUPTED, PARENT_VARIABLE
from qwenft_assets.resources import WorkerResource

WORKER = """
import os, sys, time
from pydantic import BaseModel
from qwenft_assets.processes.child import run_job
from qwenft_assets.errors import TrainingError, WorkerError

class Job(BaseModel):
    what: str

def work(job, log):
    log(f"pid {os.getpid()}")
    if job.what == "mistake":
        raise TrainingError("rows.parquet: line 3 is bad. Mend it.")
    if job.what == "bug":
        raise KeyError("a bug")
    if job.what == "killed":
        os.kill(os.getpid(), 9)
    rank = os.environ.get("RANK")
    if job.what == "mistake of the second" and rank == "1":
        raise TrainingError("rank 1: memory ran out. Buy some.")
    if job.what == "second killed" and rank == "1":
        os.kill(os.getpid(), 9)
    if rank and job.what != "hello":
        time.sleep(600)
    if job.what == "sleep":
        print(os.getpid(), flush=True)
        time.sleep(600)
    return {"answer": job.what, "number": 1.5}

if __name__ == "__main__":
    run_job(Job, work)
"""
PARENT = """
import dagster as dg
from qwenft_assets_tests.processes.test_child import run_worker
run_worker("sleep")
"""


class Job(BaseModel):
    what: str


@pytest.fixture
def on_path(tmp_path, monkeypatch):
    (tmp_path / "odd_worker.py").write_text(WORKER, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def run_worker(what, launcher="local"):
    """What the worker answers; its error is raised here."""
    launchers = LauncherConfig.model_validate({"kind": launcher, "processes": 2})
    answers = []

    @dg.asset
    def stage(context: dg.AssetExecutionContext, worker: WorkerResource) -> dg.MaterializeResult:
        answers.append(worker.run(context, "odd_worker", Job(what=what), launchers))
        return dg.MaterializeResult()

    dg.materialize([stage], resources={"worker": WorkerResource()})
    return answers[0]


def test_the_result_comes_back(on_path):
    assert run_worker("hello") == {"answer": "hello", "number": 1.5}


def test_a_mistake_of_the_user_is_raised_as_it_was(on_path):
    with pytest.raises(TrainingError) as caught:
        run_worker("mistake")
    assert str(caught.value) == "rows.parquet: line 3 is bad. Mend it."


def test_a_bug_fails_the_step_and_keeps_its_traceback(on_path, capfd):
    with pytest.raises(RuntimeError, match="odd_worker failed with code 1"):
        run_worker("bug")
    assert "KeyError: 'a bug'" in capfd.readouterr().err


def test_a_worker_that_the_system_kills_is_explained(on_path):
    with pytest.raises(
        WorkerError, match=r"was killed \(exit 137\), most likely because main memory"
    ):
        run_worker("killed")


def test_of_two_processes_the_first_answers(on_path):
    assert run_worker("hello", "accelerate") == {"answer": "hello", "number": 1.5}


def test_a_mistake_that_the_second_process_meets_ends_both_and_is_raised(on_path):
    with pytest.raises(TrainingError, match=r"rank 1: memory ran out\. Buy some\."):
        run_worker("mistake of the second", "accelerate")


def test_one_killed_process_ends_the_other_and_is_explained(on_path):
    with pytest.raises(WorkerError, match=r"was killed \(exit 137\)"):
        run_worker("second killed", "accelerate")


def test_a_killed_parent_takes_its_worker_along(on_path):
    environment = {**os.environ}
    environment["PYTHONPATH"] = os.pathsep.join([environment["PYTHONPATH"], str(PROJECT_ROOT)])
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], env=environment, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while is_running(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_running(worker)


@pytest.mark.parametrize(
    ("parent", "code"),
    [
        pytest.param(os.getpid, 0, id="parent-alive"),
        # Process 1 may be the parent, in a container: only another one than expected counts.
        pytest.param(os.getppid, EXIT_INTERRUPTED, id="parent-died-before-the-child-began"),
    ],
)
def test_a_worker_whose_parent_is_gone_already_ends_at_once(parent, code):
    from_parent, held_by_parent = os.pipe()
    answer = subprocess.run(
        [
            sys.executable,
            "-c",
            "from qwenft_assets.processes import child as c; c._obey_stop_requests()",
        ],
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT), PARENT_VARIABLE: str(parent())},
        stdin=from_parent,
        check=False,
    )
    os.close(from_parent)
    os.close(held_by_parent)
    assert answer.returncode == code


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:  # noqa: PTH123
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
