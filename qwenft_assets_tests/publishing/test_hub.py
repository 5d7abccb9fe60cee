"""The Hub's own client against a loopback Hub, faults in the middle included."""

import json
import signal
import subprocess
import time

import pytest

from qwenft_assets.publishing.manifest import verify_copy
from qwenft_assets_tests.commands import BIN
from qwenft_assets_tests.loopback_hub_writes import LoopbackHub
from qwenft_assets_tests.loopback_server import Fault, serving
from qwenft_assets_tests.publishing.conftest import VERSION

REPO = "me/tiny-lora"
SEND = ("publish", "--target", "hub", "--no-dry-run", "--json")


@pytest.fixture
def hub():
    with serving(LoopbackHub()) as running:
        yield running


@pytest.fixture
def environment(hub, tmp_path):
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_TOKEN": "hf_loopback",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def send(released, environment):
    answer = released.run(*SEND, **environment)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def verify_repo(hub, folder, repo=REPO):
    for path, content in hub.repos[repo].items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return verify_copy(folder)


def test_a_dry_run_asks_nobody_and_says_what_would_go_where(released, hub, environment):
    answer = released.run("publish", "--target", "hub", "--json", **environment)
    plan = json.loads(answer.stdout)
    assert hub.requests == []
    assert (plan["dry_run"], plan["version"]) == (True, VERSION)
    assert plan["where"] == "model me/tiny-lora on the Hub (private if it is created)"
    ways = {file["path"]: file["as"] for file in plan["files"]}
    assert (ways["adapter_model.safetensors"], ways["README.md"]) == ("lfs", "commit")
    assert plan["bytes"] == sum(file["bytes"] for file in plan["files"]) > 10_000
    shown = released.run("publish", "--target", "hub", **environment).stdout
    assert "adapter_model.safetensors" in shown
    assert "dry run: nothing was sent" in shown
    assert hub.requests == []


def test_one_commit_holds_everything_and_a_second_run_changes_nothing(
    released, hub, environment, tmp_path
):
    first = send(released, environment)
    assert len(hub.commits[REPO]) == 2
    assert (first["unchanged"], hub.commits[REPO][-1] in first["published"]) == (False, True)
    assert verify_repo(hub, tmp_path / "copy").manifest.version == VERSION
    create = hub.sent("POST /api/repos/create")[0].json
    assert create["visibility"] == "private"
    uploads = len(hub.sent("PUT /lfs/"))
    assert send(released, environment)["unchanged"] is True
    assert len(hub.commits[REPO]) == 2
    assert len(hub.sent("PUT /lfs/")) == uploads


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault("POST .*/commit/main", 500), id="commit-fails"),
        pytest.param(Fault("POST .*/commit/main", "lost"), id="answer-to-the-commit-is-lost"),
        pytest.param(Fault("PUT /lfs/", "cut"), id="upload-is-cut"),
    ],
)
def test_a_passing_fault_is_got_over(released, hub, environment, tmp_path, fault):
    hub.faults.append(fault)
    send(released, environment)
    assert fault.times == 0
    assert len(hub.commits[REPO]) == 2
    verify_repo(hub, tmp_path / "copy")


def test_after_a_refusal_nothing_is_half_there_and_the_next_run_sends_only_the_rest(
    released, hub, environment, tmp_path
):
    hub.faults.append(Fault("POST .*/commit/main", 500, times=99))
    answer = released.run(*SEND, **environment)
    assert answer.returncode == 2
    assert "failed after 5 attempts" in answer.stderr
    assert "hf_loopback" not in answer.stderr + answer.stdout
    assert list(hub.repos[REPO]) == [".gitattributes"]
    uploads = len(hub.sent("PUT /lfs/"))
    hub.faults.clear()
    send(released, environment)
    assert len(hub.sent("PUT /lfs/")) == uploads
    verify_repo(hub, tmp_path / "copy")


def test_a_killed_run_is_completed_by_the_next(released, hub, environment, tmp_path):
    hub.faults.append(Fault("POST .*/commit/main", "stall"))
    child = subprocess.Popen(
        [str(BIN / "qwenft"), *SEND],
        env={**released.deployment.environment(), **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while hub.faults[0].times and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert list(hub.repos[REPO]) == [".gitattributes"]
    send(released, environment)
    assert len(hub.commits[REPO]) == 2
    verify_repo(hub, tmp_path / "copy")


def test_files_of_an_earlier_version_go_and_a_foreign_repository_is_left_alone(
    released, hub, environment
):
    send(released, environment)
    hub.repos[REPO]["old.json"] = b"{}"
    send(released, environment)
    assert "old.json" not in hub.repos[REPO]
    hub.repos[REPO] = {"pytorch_model.bin": b"theirs"}
    answer = released.run(*SEND, **environment)
    assert answer.returncode == 2
    assert "holds something else than a published copy" in answer.stderr
    assert list(hub.repos[REPO]) == ["pytorch_model.bin"]


def test_a_dataset_goes_to_a_dataset_repository(released, hub, environment, tmp_path):
    answer = released.run(*SEND, "--content", "dataset", **environment)
    assert answer.returncode == 0, answer.stderr
    verify_repo(hub, tmp_path / "copy", "me/tiny-mixture")
    assert hub.sent("POST /api/datasets/me/tiny-mixture/commit/main")
