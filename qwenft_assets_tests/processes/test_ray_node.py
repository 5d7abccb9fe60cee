"""What a Ray node does with a job: on a shared disk nothing, else it stages or says what is missing."""

import json
import shutil
import socket
import subprocess

import pytest

from qwenft_assets.config import Config, EvaluationConfig, LauncherConfig, TrainingConfig
from qwenft_assets.errors import BaseModelError, EvaluationError, MixtureError, StorageError
from qwenft_assets.evaluation.job import EvaluationJob, inputs_of
from qwenft_assets.processes.ray_cluster import PASSED_ON, passed_on
from qwenft_assets.processes.ray_job import mark_of, on_this_node
from qwenft_assets.storage.files import write_json
from qwenft_assets.storage.root import Storage
from qwenft_assets.training.job import plan_training

NODE = f"Ray node {socket.gethostname()}: "
CHAMPION = "c" * 16


@pytest.fixture
def config(tmp_path):
    """Of a base model in a folder; nothing here reads its weights."""
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "model.safetensors"):
        (model / name).write_bytes(b"first")
    return Config(
        name="tiny",
        launcher=LauncherConfig(kind="ray", processes=1),
        training=TrainingConfig(base_model=str(model)),
    )


def deliver_mixture(storage, version):
    folder = storage.mixed_dataset("small")
    with storage.working_on(makes=[folder]):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "rows.parquet").write_bytes(version.encode())
        write_json(folder / "manifest.json", {"version": version})


@pytest.fixture
def planned(config, tmp_path):
    """A job of a remote root, as the machine that runs the step plans it."""
    storage = Storage(tmp_path / "stage", f"memory://{tmp_path.name}")
    deliver_mixture(storage, "planned")
    return plan_training(config, "small", storage, "cpu")


@pytest.fixture
def node(planned, tmp_path):
    """A node's own stage of the same root."""
    storage = Storage(tmp_path / "node", planned.storage_url)
    storage.ensure_writable()
    return storage


def test_only_a_ray_job_of_a_remote_root_names_it(config, planned, tmp_path):
    assert planned.storage_url == f"memory://{tmp_path.name}"
    remote, local = Storage(planned.storage_root, planned.storage_url), Storage(tmp_path / "stage")
    here = config.model_copy(update={"launcher": LauncherConfig()})
    assert plan_training(here, "small", remote, "cpu").storage_url is None
    assert plan_training(config, "small", local, "cpu").storage_url is None


def test_on_the_disk_of_the_step_the_job_is_done_there(planned):
    with mark_of(planned.storage_root) as mark:
        job = on_this_node(planned, mark)
    assert job == planned.model_copy(update={"storage_url": None})
    assert not mark.exists()


def test_the_mark_of_a_driver_that_was_killed_is_removed(planned, monkeypatch):
    process = subprocess.Popen(["true"])
    process.wait()
    with monkeypatch.context() as patch:
        patch.setattr("os.getpid", lambda: process.pid)
        with mark_of(planned.storage_root) as mark:
            patch.undo()
            Storage(planned.storage_root).recover()
            assert not mark.exists()


def test_a_node_that_sees_neither_disk_nor_store_says_so_in_one_line(planned, tmp_path):
    local = planned.model_copy(update={"storage_url": None})
    for job, root in ((local, str(planned.storage_root)), (planned, planned.storage_url)):
        with pytest.raises(StorageError) as told:
            on_this_node(job, tmp_path / "nowhere" / "mark")
        message = str(told.value)
        assert message.startswith(f"{NODE}{root} is the storage root")
        assert "Set storage_root to s3://bucket/path" in message
        assert message.endswith("or mount that folder on every node at the same path.")
        assert "\n" not in message


def test_a_node_fetches_what_it_reads_into_its_own_stage(planned, node):
    job = planned.staged(node)
    assert job == planned.model_copy(update={"storage_root": node.root})
    assert (node.mixed_dataset("small") / "rows.parquet").read_bytes() == b"planned"


def test_a_mixture_that_was_replaced_meanwhile_is_refused(planned, node):
    deliver_mixture(Storage(planned.storage_root, planned.storage_url), "another")
    with pytest.raises(MixtureError, match="is another by now, and this step began with planned"):
        planned.staged(node)


def test_a_base_model_in_a_folder_must_be_on_the_node(planned, node, tmp_path):
    shutil.rmtree(tmp_path / "model")
    with pytest.raises(BaseModelError, match=r"no such folder.*Put them on this one"):
        planned.staged(node)


def test_a_base_model_of_other_weights_is_refused(planned, node, tmp_path):
    (tmp_path / "model" / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(BaseModelError, match="its files are not those of"):
        planned.staged(node)


def evaluation_of(planned, settings):
    return EvaluationJob(
        recipe="small",
        adapter_version=planned.version,
        mixture_version=planned.mixture_version,
        inputs=inputs_of(planned.version, planned.mixture_version, settings),
        champion_version=CHAMPION,
        base=planned.base,
        engine=planned.engine,
        training=planned.settings,
        settings=settings,
        device="cpu",
        storage_root=planned.storage_root,
        storage_url=planned.storage_url,
    )


def test_an_evaluation_fetches_the_champion_and_what_it_was_trained_on(planned, node):
    elsewhere = Storage(planned.storage_root, planned.storage_url)
    made = (
        elsewhere.adapter("small", planned.version) / "adapter_model.safetensors",
        elsewhere.adapter("small", CHAMPION) / "adapter_model.safetensors",
        elsewhere.evaluation("small", CHAMPION) / "trained_questions.parquet",
    )
    with elsewhere.working_on(makes=(file.parent for file in made)):
        for file in made:
            file.parent.mkdir(parents=True)
            file.write_bytes(file.name.encode())
    job = evaluation_of(planned, EvaluationConfig()).staged(node)
    assert job.storage_root == node.root
    for file in made:
        assert (node.root / file.relative_to(elsewhere.root)).read_bytes() == file.name.encode()


def test_prompts_that_differ_on_the_node_are_refused(planned, node, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"id": "mine", "instruction": "Why?"}), encoding="utf-8")
    job = evaluation_of(planned, EvaluationConfig(prompts_path=str(prompts)))
    job.staged(node)
    prompts.unlink()
    with pytest.raises(EvaluationError, match=r"prompts\.jsonl.*is not the same"):
        job.staged(node)


def test_places_on_this_machine_are_not_passed_on_to_machines_of_other_disks():
    environment = {
        "QWENFT_STAGE": "/here",
        "QWENFT_HOME": "/here",
        "QWENFT_STORAGE": "s3://bucket/root",
        "HF_HOME": "/here",
        "HF_HUB_CACHE": "/here",
        "HF_ENDPOINT": "https://example.org",
        "AWS_SECRET_ACCESS_KEY": "mine",
    }
    ours = {name for name in environment if name.startswith(PASSED_ON)}
    assert set(passed_on(environment, own_disks=False)) == ours
    assert set(passed_on(environment, own_disks=True)) == {"QWENFT_STORAGE", "HF_ENDPOINT"}
