"""Training in two processes: one that is killed, SIGTERM, and the UI's Terminate end them all.

As in test_interrupt.py: a deployment that would train for hours, and the next run goes on.
"""

import os
import signal
import time

import dagster as dg
import psutil
import pytest

from qwenft_assets_tests.faults.long_training import (
    RUN,
    SECONDS,
    checkpoint_steps,
    kill_all,
    last_run,
    launch,
    log_of,
    long_training,
    start,
    status_of,
    terminate,
    until,
    wait_for_a_checkpoint,
    web_ui,
)
from qwenft_assets_tests.faults.processes import processes_of
from qwenft_assets_tests.ray_installed import needs_ray

MINUTE = 60
LAUNCHERS = [
    pytest.param("accelerate", "-m qwenft_assets.training.worker", id="accelerate"),
    pytest.param("ray", "RayTrainWorker", id="ray", marks=needs_ray),
]


STARTED = []


def begin(deployment):
    STARTED.append(start(deployment, *RUN))
    return STARTED[-1]


@pytest.fixture
def deployment(tmp_path, base_model, monkeypatch, launcher):
    more = f"launcher: {{kind: {launcher}, processes: 2}}"
    deployment = long_training(tmp_path, base_model, more)
    monkeypatch.setenv("DAGSTER_HOME", deployment.environment()["DAGSTER_HOME"])
    yield deployment
    kill_all(deployment)
    for process in STARTED:
        process.wait(SECONDS)
    STARTED.clear()


def below(pid):
    """Every process below one, by the system's list: Ray's overwrite their environment."""
    return psutil.Process(pid).children(recursive=True)


def ranks_below(pid, named):
    found = []
    for process in below(pid):
        try:
            if named in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return sorted(found, key=lambda process: process.pid)


def all_gone(processes):
    _, left = psutil.wait_procs(processes, timeout=MINUTE)
    return [process for process in left if process.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.faults
@pytest.mark.parametrize(("launcher", "named"), LAUNCHERS)
def test_a_killed_process_ends_the_run_and_the_next_goes_on(deployment, launcher, named):
    command = begin(deployment)
    wait_for_a_checkpoint(deployment)
    everything = below(command.pid)
    ranks = ranks_below(command.pid, named)
    assert len(ranks) == 2, [" ".join(process.cmdline()) for process in everything]
    os.kill(ranks[1].pid, signal.SIGKILL)
    assert command.wait(MINUTE) == 2, log_of(deployment)
    assert all_gone(everything)
    run, lines, claimed = last_run()
    assert run.status == dg.DagsterRunStatus.FAILURE
    assert claimed == []
    assert any("2 processes share each step of 8 sequences" in line for line in lines)
    step = checkpoint_steps(deployment)[-1]

    again = begin(deployment)
    until(lambda: f"going on from checkpoint-{step}" in last_run()[1], lambda: log_of(deployment))
    until(lambda: checkpoint_steps(deployment)[-1] > step, lambda: log_of(deployment))
    everything = below(again.pid)
    again.send_signal(signal.SIGTERM)
    assert again.wait(MINUTE) == 130
    assert all_gone(everything)
    run, lines, _ = last_run()
    assert run.status == dg.DagsterRunStatus.CANCELED
    (stopped,) = [line for line in lines if line.startswith("stopped after step")]
    assert checkpoint_steps(deployment)[-1] == int(stopped.split()[3].rstrip(";"))


@pytest.mark.faults
@pytest.mark.parametrize(("launcher", "named"), LAUNCHERS)
def test_terminate_in_the_ui_ends_all_processes_with_a_checkpoint(deployment, launcher, named):
    with web_ui(deployment) as ui:
        run_id = launch(ui)
        wait_for_a_checkpoint(deployment)
        (parent,) = [
            pid for pid, words in processes_of(deployment.folder).items() if ".launching." in words
        ]
        everything = [psutil.Process(parent), *below(parent)]
        assert len(ranks_below(parent, named)) == 2
        terminate(ui, run_id)
        until(lambda: status_of(run_id) == dg.DagsterRunStatus.CANCELED, lambda: log_of(deployment))
        assert all_gone(everything)
        (stopped,) = [line for line in last_run()[1] if line.startswith("stopped after step")]
        assert checkpoint_steps(deployment)[-1] == int(stopped.split()[3].rstrip(";"))


@pytest.mark.faults
@pytest.mark.parametrize(("launcher", "named"), LAUNCHERS)
def test_a_killed_step_leaves_no_process(deployment, launcher, named):
    command = begin(deployment)
    wait_for_a_checkpoint(deployment)
    everything = below(command.pid)
    assert len(ranks_below(command.pid, named)) == 2
    command.kill()
    command.wait(SECONDS)
    killed = time.monotonic()
    assert all_gone(everything)
    assert time.monotonic() - killed < MINUTE
