"""The whole path by the stock Dagster CLI, on a tiny random Qwen2 and the bundled samples.

Every process is real: the CLI, the workers it starts, and the `qwenft` commands that read what they
left.
"""

import hashlib
import json
import re
import shutil
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest

from qwenft_assets_tests.commands import REBUILD, SAMPLE, Deployment, make_deployment

CHECK = "ASSET_CHECK_EVALUATION"


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
    assert passed == [True] * 7


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


OTHER = "f" * 16
ASK = ("qwenft", "infer", "What does a low-dropout regulator do?", "--temperature", "0")


@pytest.fixture
def copied(rebuilt, tmp_path):
    """The same deployment in a folder of its own, for tests that change it."""
    shutil.copytree(rebuilt.folder, tmp_path / "deployment")
    return Deployment(tmp_path / "deployment")


def add_version(deployment):
    """A second adapter with an evaluation as good as the first's, which answers otherwise."""
    from safetensors.torch import load_file, save_file

    root, first = deployment.storage, only_version(deployment)
    adapter, evaluation = (root / kind / "small" for kind in ("lora_adapter", "evaluation"))
    shutil.copytree(adapter / first, adapter / OTHER)
    shutil.copytree(evaluation / first, evaluation / OTHER)
    weights = load_file(adapter / OTHER / "adapter_model.safetensors")
    changed = {name: tensor * -3 for name, tensor in weights.items()}
    save_file(changed, adapter / OTHER / "adapter_model.safetensors", metadata={"format": "pt"})
    result = read(evaluation / OTHER / "evaluation.json")
    changed_result = {**result, "adapter_version": OTHER}
    (evaluation / OTHER / "evaluation.json").write_text(json.dumps(changed_result), "utf-8")


def champion_of(deployment):
    return read(deployment.storage / "release" / "small" / "champion.json")["version"]


def released_events(deployment, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", deployment.environment()["DAGSTER_HOME"])
    with dg.DagsterInstance.get() as instance:
        records = instance.fetch_materializations(dg.AssetKey("release"), limit=10).records
        log = instance.all_logs(instance.get_runs(limit=1)[0].run_id)
        status = instance.get_runs(limit=1)[0].status.value
    return [record.asset_materialization for record in records], log, status


def test_a_refusal_ends_red_with_the_rule_and_leaves_the_champion(copied, monkeypatch):
    champion = champion_of(copied)
    settings = copied.config.read_text(encoding="utf-8").replace(
        "release: {min_canary_share: 0}", "release: {min_canary_share: 0, min_delta_loss: 5}"
    )
    copied.config.write_text(settings, encoding="utf-8")
    answer = copied.run("qwenft", "run", "--recipe", "small")
    assert answer.returncode == 3, answer.stderr
    assert "Traceback" not in answer.stderr
    (complaint,) = [line for line in answer.stderr.splitlines() if line.startswith("qwenft: ")]
    assert f"{champion} is not released: better_than_base: delta loss -" in complaint
    assert "above the -5.0000 it must lie below" in complaint
    assert "not released: better_than_base" in answer.stdout
    assert champion_of(copied) == champion
    _, log, status = released_events(copied, monkeypatch)
    assert status == "FAILURE"
    checks: list[Any] = [entry.dagster_event for entry in log if entry.dagster_event]
    gates = [
        e.asset_check_evaluation_data
        for e in checks
        if e.event_type_value == CHECK
        and e.asset_check_evaluation_data.check_name == "release_gate"
    ]
    assert [gate.passed for gate in gates] == [False]
    rules = {record.data["name"]: record.data for record in gates[0].metadata["rules"].records}
    assert rules["better_than_base"]["passed"] is False
    assert rules["no_leakage"]["passed"] is True


def test_promote_and_rollback_change_what_infer_answers_with_at_once(copied, monkeypatch):
    first = only_version(copied)
    before = copied.run(*ASK).stdout
    alone = copied.run("qwenft", "releases", "rollback")
    assert alone.returncode == 2
    assert f"{first} is the first champion" in alone.stderr
    add_version(copied)
    moved = copied.run("qwenft", "releases", "promote", OTHER, "--why", "to try it", "--json")
    assert moved.returncode == 0, moved.stderr
    assert json.loads(moved.stdout)["previous"] == first
    assert copied.run(*ASK).stdout != before
    back = copied.run("qwenft", "releases", "rollback", "--why", "it talks nonsense")
    assert back.returncode == 0, back.stderr
    assert first in back.stdout
    assert copied.run(*ASK).stdout == before
    found, _, _ = released_events(copied, monkeypatch)
    events = [event for event in found if event is not None]
    assert [event.metadata["champion"].value for event in events[:2]] == [first, OTHER]
    assert events[0].metadata["who"].value
    assert "it talks nonsense" in str(events[0].metadata["why"].value)
    versions = [(event.tags or {})["dagster/data_version"] for event in events]
    assert versions[0] == versions[2]
    shown = copied.run("qwenft", "releases", "list")
    assert re.findall(r"│ (release|promote|rollback) by ", shown.stdout) == [
        "release",
        "promote",
        "rollback",
    ]
    about = copied.run("qwenft", "releases", "show", OTHER)
    assert "to try it" in about.stdout
    unknown = copied.run("qwenft", "releases", "show", "0" * 16)
    assert unknown.returncode == 2
    assert "qwenft releases list" in unknown.stderr
