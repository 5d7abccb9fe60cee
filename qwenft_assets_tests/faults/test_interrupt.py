"""Ctrl-C, SIGTERM, `kill -9` and the UI's Terminate: no process is left, and the next run goes on.

A deployment that would train for hours; every process is real, and found in the system's list.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import dagster as dg
import pytest

from qwenft_assets.config import PROJECT_ROOT
from qwenft_assets.config_file import load_config
from qwenft_assets.sources.sample import sample_source
from qwenft_assets.storage import Storage
from qwenft_assets_tests.commands import BIN, make_deployment
from qwenft_assets_tests.faults.processes import (
    parent_of,
    processes_of,
    wait_until_gone,
    workers_of,
)

SECONDS = 120
RUN = ("qwenft", "run", "--recipe", "small")


@pytest.fixture
def deployment(tmp_path, base_model, monkeypatch):
    """Samples and mixture are there; training takes 100,000 steps, and saves every 2 seconds."""
    deployment = make_deployment(tmp_path, base_model)
    text = deployment.config.read_text(encoding="utf-8")
    text = text.replace("epochs: 1", "epochs: 20000\n  checkpoint_minutes: 0.03")
    deployment.config.write_text(text, encoding="utf-8")
    config = load_config(str(deployment.config))
    storage = Storage(deployment.storage)
    for source in ("local_reports", "slimorca", "pubmedqa"):
        sample_source(config, source, storage)
    monkeypatch.setenv("DAGSTER_HOME", deployment.environment()["DAGSTER_HOME"])
    yield deployment
    for pid in processes_of(deployment.folder):
        os.kill(pid, signal.SIGKILL)


def start(deployment, *command):
    with (deployment.folder / "log").open("a") as log:
        # A shell in the background ignores SIGINT, and hands that down.
        return subprocess.Popen(
            [sys.executable, "-c", RESET_SIGINT, str(BIN / command[0]), *command[1:]],
            cwd=PROJECT_ROOT,
            env=deployment.environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


RESET_SIGINT = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


def log_of(deployment):
    return (deployment.folder / "log").read_text(encoding="utf-8")


def until(condition, what):
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(what() if callable(what) else what)


def checkpoint_steps(deployment):
    seals = deployment.storage.glob("lora_adapter/small/.*.checkpoints/checkpoint-*/complete.json")
    return sorted(int(seal.parent.name.rpartition("-")[2]) for seal in seals)


def wait_for_a_checkpoint(deployment):
    until(lambda: checkpoint_steps(deployment), lambda: log_of(deployment))


def last_run():
    with dg.DagsterInstance.get() as instance:
        run = instance.get_runs(limit=1)[0]
        lines = [entry.user_message for entry in instance.all_logs(run.run_id)]
        claimed = instance.event_log_storage.get_concurrency_info("gpu").claimed_slots
    return run, lines, claimed


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


LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
TERMINATE = "mutation($id: String!) { terminateRun(runId: $id) { __typename } }"
PARAMS = {
    "selector": {
        "repositoryLocationName": "qwenft_assets",
        "repositoryName": "__repository__",
        "jobName": "finetune_job",
    },
    "runConfigData": {},
    "executionMetadata": {"tags": [{"key": "dagster/partition", "value": "small"}]},
}


def ask(url, query, **variables):
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)["data"]
    except urllib.error.URLError:
        return None


@pytest.fixture
def ui(deployment):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = start(deployment, "qwenft", "ui", "--port", str(port))
    url = f"http://127.0.0.1:{port}/graphql"
    until(lambda: ask(url, "{ version }"), lambda: log_of(deployment))
    yield url
    server.terminate()
    server.wait(SECONDS)


def launch(ui):
    answer = until(lambda: ask(ui, LAUNCH, params=PARAMS), "the server does not answer")
    assert answer["launchRun"]["__typename"] == "LaunchRunSuccess", answer
    return answer["launchRun"]["run"]["runId"]


def status_of(run_id):
    with dg.DagsterInstance.get() as instance:
        run = instance.get_run_by_id(run_id)
        return run.status if run else None


@pytest.mark.faults
def test_terminate_in_the_ui_cancels_the_run_and_a_killed_run_leaves_no_worker(deployment, ui):
    run_id = launch(ui)
    wait_for_a_checkpoint(deployment)
    (worker,) = workers_of(deployment.folder)
    answer = until(lambda: ask(ui, TERMINATE, id=run_id), "the server does not answer")
    assert answer["terminateRun"]["__typename"] == "TerminateRunSuccess"
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
