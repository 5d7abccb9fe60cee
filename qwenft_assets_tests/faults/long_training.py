"""A deployment that would train for hours, and what a test may do to its run."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg

from qwenft_assets.config import PROJECT_ROOT, load_config
from qwenft_assets.sources.sample import sample_source
from qwenft_assets.storage.root import Storage
from qwenft_assets_tests.commands import BIN, Deployment, make_deployment
from qwenft_assets_tests.faults.processes import processes_of

SECONDS = 120
RUN = ("qwenft", "run", "--recipe", "small")
RESET_SIGINT = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)
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


def long_training(folder: Path, base_model: Path, more_config: str = "") -> Deployment:
    """Samples are there; training takes 100,000 steps, and saves every 2 seconds."""
    deployment = make_deployment(folder, base_model)
    text = deployment.config.read_text(encoding="utf-8")
    text = text.replace("epochs: 1", "epochs: 20000\n  checkpoint_minutes: 0.03")
    deployment.config.write_text(f"{text}{more_config}\n", encoding="utf-8")
    config = load_config(str(deployment.config))
    storage = Storage(deployment.storage)
    for source in ("local_reports", "slimorca", "pubmedqa"):
        sample_source(config, source, storage)
    return deployment


def kill_all(deployment: Deployment) -> None:
    """Whatever of it still runs."""
    for pid in processes_of(deployment.folder):
        os.kill(pid, signal.SIGKILL)


def start(deployment: Deployment, *command: str) -> "subprocess.Popen[bytes]":
    """A command in a session of its own; what it says goes to the deployment's log."""
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


def log_of(deployment: Deployment) -> str:
    """What its commands said."""
    return (deployment.folder / "log").read_text(encoding="utf-8")


def until(condition: Callable[[], Any], what: Callable[[], str] | str) -> Any:
    """Wait for a condition; what it gives. `what` says what is wrong when it does not come."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(what() if callable(what) else what)


def checkpoint_steps(deployment: Deployment) -> list[int]:
    """Steps of the checkpoints that are whole."""
    seals = deployment.storage.glob("lora_adapter/small/.*.checkpoints/checkpoint-*/complete.json")
    return sorted(int(seal.parent.name.rpartition("-")[2]) for seal in seals)


def wait_for_a_checkpoint(deployment: Deployment) -> None:
    """Until there is one."""
    until(lambda: checkpoint_steps(deployment), lambda: log_of(deployment))


def last_run() -> tuple[dg.DagsterRun, list[str], Any]:
    """The newest run of DAGSTER_HOME, its log, and the slots of the pool `gpu` that are taken."""
    with dg.DagsterInstance.get() as instance:
        run = instance.get_runs(limit=1)[0]
        lines = [entry.user_message for entry in instance.all_logs(run.run_id)]
        claimed = instance.event_log_storage.get_concurrency_info("gpu").claimed_slots
    return run, lines, claimed


def status_of(run_id: str) -> Any:
    """A run's status; None while it is not there."""
    with dg.DagsterInstance.get() as instance:
        run = instance.get_run_by_id(run_id)
        return run.status if run else None


@contextmanager
def web_ui(deployment: Deployment) -> Iterator[str]:
    """The web server of the deployment; the address of its GraphQL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = start(deployment, "qwenft", "ui", "--port", str(port))
    url = f"http://127.0.0.1:{port}/graphql"
    until(lambda: ask(url, "{ version }"), lambda: log_of(deployment))
    yield url
    server.terminate()
    server.wait(SECONDS)


def ask(url: str, query: str, **variables: Any) -> Any:
    """The answer to a GraphQL query; None while the server does not answer."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)["data"]
    except urllib.error.URLError:
        return None


def launch(ui: str) -> str:
    """Launch a run in the web UI; its id."""
    answer = until(lambda: ask(ui, LAUNCH, params=PARAMS), "the server does not answer")
    assert answer["launchRun"]["__typename"] == "LaunchRunSuccess", answer
    return answer["launchRun"]["run"]["runId"]


def terminate(ui: str, run_id: str) -> None:
    """Press Terminate."""
    answer = until(lambda: ask(ui, TERMINATE, id=run_id), "the server does not answer")
    assert answer["terminateRun"]["__typename"] == "TerminateRunSuccess"
