"""The whole path by the stock Dagster CLI, on a tiny random Qwen2 and the bundled samples.

Every process is real: the CLI, the workers it starts, and the `qwenft` commands that read what they
left.
"""

import hashlib
import json
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest

from qwenft_assets_tests.commands import make_deployment
from qwenft_assets_tests.tiny_model import write_tiny_model

SAMPLE = (
    "dagster", "asset", "materialize", "-m", "qwenft_assets.definitions",
    "--select", "source_sample", "--partition-range", "local_reports...stackexchange_biomed",
)  # fmt: skip
CHECK = "ASSET_CHECK_EVALUATION"
REBUILD = (
    "dagster", "asset", "materialize", "-m", "qwenft_assets.definitions",
    "--select", "mixed_dataset+", "--partition", "small",
)  # fmt: skip


@pytest.fixture(scope="module")
def base_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "tiny-qwen2"
    write_tiny_model(folder)
    return folder


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory, base_model):
    """A deployment after the two stock commands."""
    deployment = make_deployment(tmp_path_factory.mktemp("deployment"), base_model)
    for command in (SAMPLE, REBUILD):
        answer = deployment.run(*command)
        assert answer.returncode == 0, answer.stdout + answer.stderr
    return deployment


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def only_version(deployment):
    return read(deployment.storage / "lora_adapter" / "small" / "latest.json")["version"]


def test_every_contract_file_is_there(rebuilt):
    root, version = rebuilt.storage, only_version(rebuilt)
    for source in ("local_reports", "slimorca", "pubmedqa", "stackexchange_ai"):
        assert (root / "source_sample" / source / "rows.parquet").is_file()
        assert read(root / "source_sample" / source / "manifest.json")["rows"] > 0
    for name in ("mixed_finetune_dataset.jsonl", "rows.parquet", "manifest.json"):
        assert (root / "mixed_dataset" / "small" / name).is_file()
    adapter = root / "lora_adapter" / "small" / version
    for name in ("adapter_model.safetensors", "adapter_config.json", "tokenizer.json"):
        assert (adapter / name).is_file()
    assert (adapter / "loss.png").read_bytes().startswith(b"\x89PNG")
    evaluation = root / "evaluation" / "small" / version
    assert read(evaluation / "evaluation.json")["adapter_version"] == version
    assert (evaluation / "report.md").is_file()
    assert len((evaluation / "samples.jsonl").read_text(encoding="utf-8").splitlines()) == 3
    assert read(root / "release" / "small" / "champion.json")["version"] == version
    assert len((root / "release" / "small" / "history.jsonl").read_text().splitlines()) == 1
    assert not list(root.rglob("*.part"))


def test_the_mixture_has_the_original_format(rebuilt):
    folder = rebuilt.storage / "mixed_dataset" / "small"
    lines = (folder / "mixed_finetune_dataset.jsonl").read_text(encoding="utf-8").splitlines()
    assert {tuple(json.loads(line)) for line in lines} == {("instruction", "input", "output")}
    rows = pq.read_table(folder / "rows.parquet").to_pylist()
    assert [row["instruction"] for row in rows] == [json.loads(x)["instruction"] for x in lines]
    assert [row["split"] for row in rows].count("eval") == 4


def test_training_moved_the_loss(rebuilt):
    figures = read(
        rebuilt.storage / "evaluation" / "small" / only_version(rebuilt) / "evaluation.json"
    )
    assert figures["perplexity"] < 0.95 * figures["base_perplexity"]
    assert figures["delta_loss_ci95"][1] < 0


def test_a_rerun_trains_nothing_and_says_so(rebuilt):
    adapter = rebuilt.storage / "lora_adapter" / "small" / only_version(rebuilt)
    before = (adapter / "adapter_model.safetensors").stat().st_mtime_ns
    answer = rebuilt.run(*REBUILD)
    assert answer.returncode == 0, answer.stderr
    assert "unchanged, trained nothing" in answer.stderr
    assert (adapter / "adapter_model.safetensors").stat().st_mtime_ns == before
    assert len(list((rebuilt.storage / "lora_adapter" / "small").iterdir())) == 2


def test_the_instance_holds_data_versions_figures_and_checks(rebuilt, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", rebuilt.environment()["DAGSTER_HOME"])
    with dg.DagsterInstance.get() as instance:
        events: dict[str, Any] = {
            name: instance.fetch_materializations(dg.AssetKey(name), limit=10).records
            for name in ("source_sample", "mixed_dataset", "lora_adapter", "evaluation", "release")
        }
        log = instance.all_logs(events["lora_adapter"][-1].run_id)
    assert len(events["source_sample"]) == 6
    sample = events["source_sample"][0].asset_materialization
    version = sample.tags["dagster/data_version"]
    manifest = read(rebuilt.storage / "source_sample" / sample.partition / "manifest.json")
    assert version == manifest["version"]
    evaluated = events["evaluation"][-1].asset_materialization
    assert isinstance(evaluated.metadata["perplexity"], dg.FloatMetadataValue)
    assert isinstance(evaluated.metadata["per_source"], dg.TableMetadataValue)
    curve = events["lora_adapter"][-1].asset_materialization.metadata["loss_curve"]
    assert curve.value.startswith("![loss](data:image/png;base64,")
    assert len(curve.value) < 1000, "longer Markdown is not shown in place"
    assert any("loss" in entry.user_message and "step 1/" in entry.user_message for entry in log)
    checks: list[Any] = [entry.dagster_event for entry in log if entry.dagster_event]
    passed = [e.asset_check_evaluation_data.passed for e in checks if e.event_type_value == CHECK]
    assert passed == [True] * 6


def test_two_deployments_build_the_same_bytes(rebuilt, tmp_path, base_model):
    other = make_deployment(tmp_path, base_model)
    assert other.run(*SAMPLE).returncode == 0
    mixture_only = (*REBUILD[:-3], "mixed_dataset", *REBUILD[-2:])
    assert other.run(*mixture_only).returncode == 0
    name = "mixed_dataset/small/mixed_finetune_dataset.jsonl"
    digests = {
        hashlib.sha256((d.storage / name).read_bytes()).hexdigest() for d in (rebuilt, other)
    }
    assert len(digests) == 1


def test_run_reports_the_same_figures_as_json(rebuilt):
    answer = rebuilt.run("qwenft", "run", "--recipe", "small", "--json")
    assert answer.returncode == 0, answer.stderr
    summary = json.loads(answer.stdout)
    assert summary["unchanged"] == ["mixed_dataset", "lora_adapter", "evaluation", "release"]
    assert summary["adapter_version"] == summary["champion"] == only_version(rebuilt)
    assert summary["evaluation"]["perplexity"] < summary["evaluation"]["base_perplexity"]


def test_infer_streams_an_answer_and_repeats_it_for_a_seed(rebuilt):
    ask = ("qwenft", "infer", "What does a low-dropout regulator do?", "--seed", "1")
    answers = [rebuilt.run(*ask) for _ in range(2)]
    assert [answer.returncode for answer in answers] == [0, 0], answers[0].stderr
    assert answers[0].stdout == answers[1].stdout
    assert "<|im" not in answers[0].stdout


def test_chat_answers_once_and_leaves(rebuilt):
    answer = rebuilt.run("qwenft", "chat", "--seed", "1", text="Hello\nexit\nnever read\n")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("\n") >= 1
    assert "<|im" not in answer.stdout
    assert rebuilt.run("qwenft", "chat", text="").returncode == 0


@pytest.mark.parametrize(
    "command",
    [
        ("dagster", "definitions", "validate", "-w", "workspace.yaml"),
        ("dagster", "definitions", "validate"),
        ("dg", "check", "defs"),
    ],
    ids=["workspace", "pyproject", "dg"],
)
def test_both_command_lines_accept_the_project(rebuilt, command):
    answer = rebuilt.run(*command)
    assert answer.returncode == 0, answer.stdout + answer.stderr
