"""One process, accelerate with two, Ray with two: the same loss, through the stock Dagster command.

In fp32 on a CPU and without noise, whose numbers each process draws by itself. What differs is the
order in which fp32 gradients are summed.
"""

import shutil
from dataclasses import dataclass
from typing import Any

import pytest

from qwenft_assets.config_file import load_config
from qwenft_assets.evaluation.evaluate import evaluate
from qwenft_assets.evaluation.job import plan_evaluation, read_evaluation
from qwenft_assets.mixture.build import build_mixture
from qwenft_assets.progress import no_progress
from qwenft_assets.sources.sample import sample_source
from qwenft_assets.storage import Storage
from qwenft_assets.training.job import plan_training, training_record
from qwenft_assets.training.train import train
from qwenft_assets_tests.commands import make_deployment
from qwenft_assets_tests.ray_installed import needs_ray

LOSS_TOLERANCE = 2e-5
"""Nats per token."""
WEIGHT_TOLERANCE = 2e-4
"""Of adapter weights after steps of 1e-2: Adam divides by tiny second moments."""
COMMAND = (
    "dagster",
    "asset",
    "materialize",
    "-m",
    "qwenft_assets.definitions",
    "--partition",
    "small",
)


@dataclass(frozen=True)
class Outcome:
    """What training and evaluation left."""

    weights: Any
    record: dict[str, Any]
    evaluation: dict[str, Any] | None


def outcome_of(storage, version):
    from safetensors.numpy import load_file

    record = training_record(storage, "small", version)
    evaluation = read_evaluation(storage, "small", version)
    assert record is not None
    path = storage.adapter("small", version) / "adapter_model.safetensors"
    return Outcome(load_file(path), record, evaluation)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, base_model):
    """The deployment with its mixture."""
    deployment = make_deployment(tmp_path_factory.mktemp("mixed"), base_model)
    text = deployment.config.read_text(encoding="utf-8")
    text = text.replace("epochs: 1", "epochs: 2\n  neftune_alpha: null\n  lora: {rank: 4}")
    deployment.config.write_text(text, encoding="utf-8")
    config, storage = load_config(str(deployment.config)), Storage(deployment.storage)
    for source in ("local_reports", "slimorca", "pubmedqa"):
        sample_source(config, source, storage)
    build_mixture(config, "small", storage)
    return deployment


@pytest.fixture(scope="module")
def alone(mixed, tmp_path_factory):
    """One process: this one."""
    root = tmp_path_factory.mktemp("alone") / "storage"
    shutil.copytree(mixed.storage, root)
    config, storage = load_config(str(mixed.config)), Storage(root)
    job = plan_training(config, "small", storage, "cpu")
    train(job, no_progress, lambda line: None)
    evaluate(plan_evaluation(config, job, storage), no_progress, lambda line: None)
    return outcome_of(storage, job.version)


@pytest.mark.parametrize(
    ("launcher", "assets", "shards"),
    [
        pytest.param("accelerate", "lora_adapter,evaluation", 1, id="accelerate"),
        pytest.param(
            *("accelerate", "lora_adapter,evaluation", 2),
            id="accelerate-sharded",
            marks=pytest.mark.faults,
        ),
        pytest.param("ray", "lora_adapter", 1, id="ray", marks=needs_ray),
        pytest.param(
            *("ray", "lora_adapter,evaluation", 2),
            id="ray-sharded-evaluates-too",
            marks=[pytest.mark.faults, *needs_ray],
        ),
    ],
)
def test_two_processes_train_and_measure_as_one(
    mixed, alone, base_model, tmp_path, launcher, assets, shards
):
    deployment = make_deployment(tmp_path, base_model)
    text = mixed.config.read_text(encoding="utf-8")
    text += f"launcher: {{kind: {launcher}, processes: 2}}\n"
    if shards > 1:
        text = text.replace("  epochs: 2", "  shard_base_weights: true\n  epochs: 2")
    deployment.config.write_text(text, encoding="utf-8")
    shutil.copytree(mixed.storage, deployment.storage)
    answer = deployment.run(*COMMAND, "--select", assets)
    assert answer.returncode == 0, answer.stderr[-4_000:]
    assert "2 processes share each step of 8 sequences" in answer.stderr
    said = answer.stderr.count("the frozen weights of the layers are sharded over 2 processes")
    assert said == (shards > 1) * len(assets.split(","))

    together = outcome_of(Storage(deployment.storage), alone.record["version"])
    for kind in ("learning_rate", "train", "eval"):
        ours, theirs = (one.record["loss_history"][kind] for one in (together, alone))
        assert [step for step, _ in ours] == [step for step, _ in theirs]
        assert [n for _, n in ours] == pytest.approx([n for _, n in theirs], abs=LOSS_TOLERANCE)
    assert (
        together.record["loss_history"]["train"][-1][1]
        < alone.record["loss_history"]["train"][0][1]
    )
    largest = max(abs(together.weights[n] - alone.weights[n]).max() for n in alone.weights)
    assert largest <= WEIGHT_TOLERANCE
    for name in ("steps", "train_tokens", "padding_tokens", "train_rows", "tokens_per_step"):
        assert together.record[name] == alone.record[name], name
    assert (together.record["processes"], alone.record["processes"]) == (2, 1)
    assert (together.record["shards"], alone.record["shards"]) == (shards, 1)
    assert together.record.keys() == alone.record.keys()
    if "evaluation" in assets:
        require_same_figures(together.evaluation, alone.evaluation)


def require_same_figures(together, alone):
    assert together.keys() == alone.keys()
    for name in ("eval_loss", "base_eval_loss", "delta_loss"):
        assert together[name] == pytest.approx(alone[name], abs=LOSS_TOLERANCE), name
    for name in ("eval_rows", "eval_tokens", "mixture_version", "inputs"):
        assert together[name] == alone[name], name
    assert (together["processes"], alone["processes"]) == (2, 1)
