"""A Ray cluster that shares no disk with Dagster's machine: all goes through a real S3 server.

Dagster's stage is taken away while the nodes work, so that nothing on it can be what they read.
"""

import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from qwenft_assets.evaluation.job import read_evaluation
from qwenft_assets.storage.object_store import ObjectStore
from qwenft_assets.storage.root import ALL, Storage
from qwenft_assets.training.job import latest_version, whole_adapter
from qwenft_assets_tests.commands import Deployment, make_deployment
from qwenft_assets_tests.faults.long_training import kill_all, log_of, start, until
from qwenft_assets_tests.loopback_s3 import BUCKET, serving_s3
from qwenft_assets_tests.processes.outcomes import (
    outcome_of,
    require_same_evaluation,
    require_same_training,
)
from qwenft_assets_tests.processes.ray_nodes import ray_nodes, workers
from qwenft_assets_tests.processes.test_same_loss import COMMAND
from qwenft_assets_tests.ray_installed import needs_ray

# In no run of CI: three raylets are too much for two cores that other tests use as well.
pytestmark = [pytest.mark.faults, *needs_ray]
SECONDS = 120


@pytest.fixture(scope="module")
def s3():
    S3FileSystem.clear_instance_cache()
    with serving_s3() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        yield server
    S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory, s3):
    folder = tmp_path_factory.mktemp("nodes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S", str(SECONDS))  # under load
        with ray_nodes(folder, ["first", "second"], s3.environment()) as found:
            yield found


@pytest.fixture
def dagster_machine(mixed, base_model, nodes, s3, tmp_path):
    """A deployment whose mixture is in the store, and whose stage is empty."""
    deployment = DagsterMachine(tmp_path, f"s3://{BUCKET}/{tmp_path.name}", nodes.address)
    make_deployment(tmp_path, base_model)
    storage = Storage(mixed.storage, deployment.url)
    with storage.working_on(makes=[storage.mixed_dataset("small")]):
        pass
    return deployment


@dataclass(frozen=True)
class DagsterMachine(Deployment):
    """The deployment on the machine that runs the steps; `storage` is its stage."""

    url: str
    address: str

    def environment(self):
        return {
            **super().environment(),
            "QWENFT_STORAGE": self.url,
            "QWENFT_STAGE": str(self.storage),
        }

    def write_config(self, mixed, processes):
        text = mixed.config.read_text(encoding="utf-8")
        launcher = f"{{kind: ray, processes: {processes}, ray_address: '{self.address}'}}"
        self.config.write_text(f"{text}launcher: {launcher}\n", encoding="utf-8")

    def train(self, mixed, assets, processes, more_environment=None):
        self.write_config(mixed, processes)
        with taken_away(self.storage):
            return self.run(*COMMAND, "--select", assets, more_environment=more_environment)

    def stages_taken(self):
        return len(list(self.folder.glob(f"{self.storage.name}.*")))


@contextmanager
def taken_away(stage: Path) -> Iterator[None]:
    """Inside, the stage is gone from its place as soon as the driver of a Ray job has begun."""
    over = threading.Event()

    def take() -> None:
        while not over.wait(0.02):
            if next(stage.glob(".ray.*"), None):
                stage.rename(stage.with_name(f"{stage.name}.{time.time_ns()}"))

    taker = threading.Thread(target=take, daemon=True)
    taker.start()
    try:
        yield
    finally:
        over.set()
        taker.join()


def checkpoints_in(s3, deployment):
    """Steps of the checkpoints whose pointer has reached the store."""
    name = re.escape(deployment.url.rpartition("/")[2])
    found = s3.sent(rf"PUT .*/{name}/lora_adapter/small/\..*/checkpoint-\d+/current\.json")
    return [int(line.rpartition("/checkpoint-")[2].partition("/")[0]) for line in found]


def stored(deployment, folder):
    """Another machine yet, with all that the store has of an adapter and its evaluation."""
    storage = Storage(folder, deployment.url)
    storage.fetch(folder / ALL)
    return storage


def hidden_keys(deployment):
    keys = ObjectStore(deployment.url).keys()
    return [key for key in keys if "/." in key]


@pytest.mark.parametrize(
    "address",
    [
        pytest.param("address", id="from-within-the-cluster"),
        pytest.param("client_address", id="from-outside"),
    ],
)
def test_two_nodes_train_as_one_process_here(
    mixed, alone, dagster_machine, nodes, s3, tmp_path, address
):
    dagster_machine = replace(dagster_machine, address=getattr(nodes, address))
    answer = dagster_machine.train(mixed, "lora_adapter", processes=2)
    assert answer.returncode == 0, answer.stderr[-4_000:]
    assert "2 processes share each step of 8 sequences" in answer.stderr
    assert dagster_machine.stages_taken() == 1
    for rank in (0, 1):
        assert s3.sent(rf"PUT .*/checkpoint-2/files-\w+/rng_state_{rank}\.pth"), rank
    version = alone.record["version"]
    for storage in (Storage(dagster_machine.storage), stored(dagster_machine, tmp_path / "third")):
        ours = outcome_of(storage, version)
        require_same_training(ours, alone)
        assert ours.record["processes"] == 2
        assert whole_adapter(storage, "small", version) == ours.record
        assert latest_version(storage, "small") == version
    for name in ("first", "second"):
        rows = Storage(nodes.stage(name)).mixed_dataset("small") / "rows.parquet"
        theirs = Storage(mixed.storage).mixed_dataset("small") / "rows.parquet"
        assert rows.read_bytes() == theirs.read_bytes(), "each node fetches for itself"
        assert not list(nodes.stage(name).glob("lora_adapter/small/.*.checkpoints"))
    assert hidden_keys(dagster_machine) == []


@pytest.mark.parametrize("killed", ["worker", "node"])
def test_the_next_run_goes_on_elsewhere_from_what_reached_the_store(
    mixed, alone, dagster_machine, nodes, s3, tmp_path, killed
):
    s3.stalled = re.compile(r"PUT .*checkpoint-4/current\.json")
    s3.stalling.clear()
    with ThreadPoolExecutor() as pool:
        first_run = pool.submit(dagster_machine.train, mixed, "lora_adapter", processes=1)
        assert s3.stalling.wait(SECONDS)
        s3.stalled = None
        node = nodes.name_of_stage_with(
            f"lora_adapter/small/.{alone.record['version']}.checkpoints"
        )
        if killed == "worker":
            (worker,) = workers()
            worker.kill()
            first_run.result()
        nodes.lose(node)
        answer = first_run.result()
    assert answer.returncode != 0
    assert "one of the 1 processes that Ray ran for qwenft_assets.training.worker was lost" in (
        answer.stderr
    )
    assert checkpoints_in(s3, dagster_machine)[0] == 2

    answer = dagster_machine.train(mixed, "lora_adapter,evaluation", processes=1)
    assert answer.returncode == 0, answer.stderr[-4_000:]
    assert "going on from checkpoint-2" in answer.stderr
    assert dagster_machine.stages_taken() == 3
    nodes.add(f"after {node}", s3.environment())
    ours = outcome_of(stored(dagster_machine, tmp_path / "third"), alone.record["version"])
    assert ours.record["resumed_at"] == [2]
    require_same_training(ours, alone)
    require_same_evaluation(ours.evaluation, alone.evaluation)
    here = Storage(dagster_machine.storage)
    assert read_evaluation(here, "small", alone.record["version"]) == ours.evaluation
    assert hidden_keys(dagster_machine) == []


def test_a_local_root_that_the_nodes_do_not_see_is_told_in_one_line(mixed, dagster_machine):
    local = Storage(dagster_machine.storage)
    shutil.copytree(Storage(mixed.storage).mixed_dataset("small"), local.mixed_dataset("small"))
    root = {"QWENFT_STORAGE": str(local.root)}
    answer = dagster_machine.train(mixed, "lora_adapter", processes=1, more_environment=root)
    assert answer.returncode != 0
    assert f": {local.root} is the storage root, and this node does not see it. Set" in (
        answer.stderr
    )
    assert "Traceback" not in answer.stderr


def test_an_interrupt_leaves_a_checkpoint_in_the_store(mixed, dagster_machine, nodes, s3):
    dagster_machine.write_config(mixed, processes=1)
    text = dagster_machine.config.read_text(encoding="utf-8")
    text = text.replace("epochs: 2", "epochs: 20000\n  checkpoint_minutes: 0.03")
    dagster_machine.config.write_text(text, encoding="utf-8")
    with taken_away(dagster_machine.storage):
        command = start(dagster_machine, *COMMAND, "--select", "lora_adapter")
        try:
            until(lambda: checkpoints_in(s3, dagster_machine), lambda: log_of(dagster_machine))
            command.send_signal(signal.SIGINT)
            assert command.wait(SECONDS) != 0
        finally:
            kill_all(dagster_machine)
            command.wait(SECONDS)
    stopped = re.search(r"stopped after step (\d+); the same", log_of(dagster_machine))
    assert stopped, log_of(dagster_machine)
    pointers = [key for key in hidden_keys(dagster_machine) if key.endswith("/current.json")]
    newest = max(int(key.split("/checkpoint-")[1].split("/")[0]) for key in pointers)
    assert newest == int(stopped[1])
    assert workers() == []
