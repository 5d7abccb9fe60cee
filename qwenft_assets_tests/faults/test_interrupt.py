"""Ctrl-C, SIGTERM, `kill -9` and the UI's Terminate: no process is left, and the next run goes on.

A deployment that would train for hours; every process is real, and found in the system's list.
"""

import os
import signal
import time

import dagster as dg
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
from qwenft_assets_tests.faults.processes import (
    parent_of,
    processes_of,
    wait_until_gone,
    workers_of,
)


@pytest.fixture
def deployment(tmp_path, base_model, monkeypatch):
    deployment = long_training(tmp_path, base_model)
    monkeypatch.setenv("DAGSTER_HOME", deployment.environment()["DAGSTER_HOME"])
    yield deployment
    kill_all(deployment)


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, id="ctrl-c", marks=pytest.mark.faults),
        pytest.param(signal.SIGTERM, id="sigterm"),
    ],
)
def test_a_signal_saves_a_checkpoint_cancels_the_run_and_leaves_no_process(deployment, number):
    command = start(deployment, *RUN)
    wait_for_a_checkpoint(deployment)
    before = checkpoint_steps(deployment)[-1]
    (worker,) = workers_of(deployment.folder)
    command.send_signal(number)
    assert command.wait(SECONDS) == 130
    assert wait_until_gone(deployment.folder) == {}
    assert not os.path.exists(f"/proc/{worker}")  # noqa: PTH110
    run, lines, claimed = last_run()
    assert run.status == dg.DagsterRunStatus.CANCELED
    assert claimed == []
    (stopped,) = [line for line in lines if line.startswith("stopped after step")]
    step = int(stopped.split()[3].rstrip(";"))
    assert step > before
    assert checkpoint_steps(deployment)[-1] == step
    assert "qwenft: interrupted. The same command goes on" in log_of(deployment)
    assert "Traceback" not in log_of(deployment)


@pytest.mark.faults
def test_a_killed_run_leaves_no_process_and_the_next_goes_on_from_its_checkpoint(deployment):
    command = start(deployment, *RUN)
    wait_for_a_checkpoint(deployment)
    assert len(workers_of(deployment.folder)) == 1
    command.kill()
    command.wait(SECONDS)
    assert wait_until_gone(deployment.folder) == {}
    killed, _, claimed = last_run()
    assert killed.status == dg.DagsterRunStatus.STARTED
    assert len(claimed) == 1, "this test needs a slot that the killed run still holds"
    step = checkpoint_steps(deployment)[-1]
    again = start(deployment, *RUN)
    until(
        lambda: f"going on from checkpoint-{step}" in last_run()[1],
        lambda: log_of(deployment),
    )
    again.send_signal(signal.SIGTERM)
    assert again.wait(SECONDS) == 130
    assert wait_until_gone(deployment.folder) == {}
    assert f"run {killed.run_id[:8]} was killed: marked as failed" in log_of(deployment)


@pytest.mark.faults
def test_a_second_run_says_who_holds_the_gpu(deployment):
    first = start(deployment, *RUN)
    wait_for_a_checkpoint(deployment)
    holder, _, _ = last_run()
    second = start(deployment, *RUN)
    line = f"waiting for the GPU, held by lora_adapter small of run {holder.run_id[:8]} for "
    until(lambda: line in log_of(deployment), lambda: log_of(deployment))
    assert len(workers_of(deployment.folder)) == 1
    second.send_signal(signal.SIGTERM)
    assert second.wait(SECONDS) == 130
    assert last_run()[0].status == dg.DagsterRunStatus.CANCELED
    first.send_signal(signal.SIGTERM)
    assert first.wait(SECONDS) == 130
    assert wait_until_gone(deployment.folder) == {}


@pytest.mark.faults
def test_terminate_in_the_ui_cancels_the_run_and_a_killed_run_leaves_no_worker(deployment):
    with web_ui(deployment) as ui:
        _terminate_then_kill(deployment, ui)


def _terminate_then_kill(deployment, ui):
    run_id = launch(ui)
    wait_for_a_checkpoint(deployment)
    (worker,) = workers_of(deployment.folder)
    terminate(ui, run_id)
    until(lambda: status_of(run_id) == dg.DagsterRunStatus.CANCELED, lambda: log_of(deployment))
    until(lambda: worker not in processes_of(deployment.folder), "the worker is left")
    step = checkpoint_steps(deployment)[-1]
    run_id = launch(ui)
    until(lambda: f"going on from checkpoint-{step}" in last_run()[1], lambda: log_of(deployment))
    (worker,) = workers_of(deployment.folder)
    os.kill(parent_of(worker), signal.SIGKILL)
    killed = time.monotonic()
    until(lambda: worker not in processes_of(deployment.folder), "the worker is left")
    assert time.monotonic() - killed < 30
    until(lambda: status_of(run_id) == dg.DagsterRunStatus.FAILURE, lambda: log_of(deployment))
