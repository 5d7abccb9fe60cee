"""One process, accelerate with two, Ray with two: the same loss, through the stock Dagster command.

In fp32 on a CPU and without noise, whose numbers each process draws by itself. What differs is the
order in which fp32 gradients are summed.
"""

import shutil

import pytest

from qwenft_assets.storage.root import Storage
from qwenft_assets_tests.commands import make_deployment
from qwenft_assets_tests.processes.outcomes import (
    outcome_of,
    require_same_evaluation,
    require_same_training,
)
from qwenft_assets_tests.ray_installed import needs_ray

COMMAND = (
    "dagster",
    "asset",
    "materialize",
    "-m",
    "qwenft_assets.definitions",
    "--partition",
    "small",
)


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
    require_same_training(together, alone)
    assert (
        together.record["loss_history"]["train"][-1][1]
        < alone.record["loss_history"]["train"][0][1]
    )
    assert (together.record["processes"], alone.record["processes"]) == (2, 1)
    assert (together.record["shards"], alone.record["shards"]) == (shards, 1)
    if "evaluation" in assets:
        require_same_evaluation(together.evaluation, alone.evaluation)
        assert together.evaluation
        assert together.evaluation["processes"] == 2
