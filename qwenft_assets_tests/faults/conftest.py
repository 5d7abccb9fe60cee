"""A mixture and a training job that every test of a kind of fault may copy."""

from pathlib import Path

import pytest

from qwenft_assets.config_file import load_config
from qwenft_assets.mixture.build import build_mixture
from qwenft_assets.sources.sample import sample_source
from qwenft_assets.storage import Storage
from qwenft_assets.training.job import TrainingJob, plan_training
from qwenft_assets_tests.tiny_model import write_tiny_model

TRAINING = {
    "device": "cpu",
    "weights": "fp32",
    "min_vram_gib": 0,
    "max_length_tokens": 256,
    "epochs": 3,
    "peak_learning_rate": 0.01,
    "warmup_steps": 2,
    "evaluate_every_steps": 3,
    "gradient_checkpointing": False,
}


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "tiny-qwen2"
    write_tiny_model(folder)
    return folder


@pytest.fixture(scope="session")
def training_job(tmp_path_factory: pytest.TempPathFactory, base_model: Path) -> TrainingJob:
    """15 steps of 8 rows, with an evaluation and a checkpoint every 3; not trained yet."""
    config = load_config("configs/demo.yaml")
    small = config.mixture.recipes["small"].model_copy(update={"rows": 40})
    changes = {
        "training": config.training.model_copy(update={"base_model": str(base_model), **TRAINING}),
        "mixture": config.mixture.model_copy(update={"recipes": {"small": small}}),
    }
    config = config.model_copy(update=changes)
    storage = Storage(tmp_path_factory.mktemp("mixed"))
    for source in ("local_reports", "slimorca", "pubmedqa"):
        sample_source(config, source, storage)
    build_mixture(config, "small", storage)
    return plan_training(config, "small", storage, "cpu")
