"""Bad input at the command line: one line that says what, where and how to fix it, exit code 2."""

import json

import pytest

from qwenft_assets_tests.commands import make_deployment
from qwenft_assets_tests.tiny_model import write_tiny_model

ROW = {"instruction": "What is a transistor?", "input": "", "output": "A switch."}


def one_line(answer, *, wanted):
    complaints = [line for line in answer.stderr.splitlines() if line.startswith("qwenft: ")]
    assert answer.returncode == 2, answer.stdout + answer.stderr
    assert len(complaints) == 1, answer.stderr
    assert "Traceback" not in answer.stderr
    for part in wanted:
        assert part in complaints[0]


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        pytest.param(None, ["cannot be read", "Put your reports there"], id="missing"),
        pytest.param("{oops", ["line 1", "not JSON"], id="not-json"),
        pytest.param(json.dumps(ROW), ["a JSON object", "a list is needed"], id="object"),
        pytest.param(
            json.dumps([ROW, {"instruction": "x"}]), ["row 2", "'output'"], id="row-without-output"
        ),
        pytest.param("[]", ["has no rows"], id="empty-list"),
    ],
)
def test_reports_that_cannot_be_used(tmp_path, content, wanted):
    reports = tmp_path / "my_dataset.json"
    if content is not None:
        reports.write_text(content, encoding="utf-8")
    write_tiny_model(
        tmp_path / "base"
    )  # a base model that cannot be had is told before the reports
    deployment = make_deployment(tmp_path / "deployment", tmp_path / "base", reports)
    one_line(deployment.run("qwenft", "run"), wanted=[str(reports), *wanted])
    left = [path for path in deployment.storage.rglob("*") if path.is_file()]
    made = [path for path in left if path.parent.name not in {".locks", "base_models"}]
    assert made == []


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        pytest.param(("run", "--recipe", "huge"), ["--recipe huge", "small, large"], id="recipe"),
        pytest.param(("infer", "Hi"), ["no adapter yet", "qwenft run"], id="infer-before-training"),
        pytest.param(("chat",), ["no adapter yet"], id="chat-before-training"),
        pytest.param(("infer", "Hi", "--adapter", "abc"), ["no such adapter"], id="adapter"),
        pytest.param(
            ("run", "--config", "none.yaml"), ["none.yaml", "cannot be read"], id="config"
        ),
    ],
)
def test_commands_that_cannot_be_done(tmp_path, command, wanted):
    deployment = make_deployment(tmp_path, "unused")
    answer = deployment.run("qwenft", *command)
    if "small, large" in wanted:
        wanted = [wanted[0], "small"]
    one_line(answer, wanted=wanted)


def test_a_config_with_an_unknown_key(tmp_path):
    deployment = make_deployment(tmp_path, "unused")
    deployment.config.write_text("training: {learning_rat: 1}\n", encoding="utf-8")
    one_line(deployment.run("qwenft", "run"), wanted=["tiny.yaml", "training.learning_rat"])


def test_a_storage_root_that_cannot_be_written(tmp_path):
    deployment = make_deployment(tmp_path, "unused")
    deployment.storage.write_text("a file stands where the folder should be")
    one_line(deployment.run("qwenft", "run"), wanted=[str(deployment.storage), "QWENFT_STORAGE"])


def test_a_config_that_needs_a_gpu_where_there_is_none(tmp_path):
    deployment = make_deployment(tmp_path, "unused")
    settings = deployment.config.read_text(encoding="utf-8").replace("fp32", "nf4")
    deployment.config.write_text(settings, encoding="utf-8")
    answer = deployment.run("qwenft", "doctor", "--json")
    assert answer.returncode == 2
    device = next(look for look in json.loads(answer.stdout) if look["name"] == "device")
    assert not device["ok"]
    assert "needs a CUDA GPU" in device["found"]
