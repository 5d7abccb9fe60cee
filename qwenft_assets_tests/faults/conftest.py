"""A mixture and a training job that every test of a kind of fault may copy."""

from pathlib import Path

import pytest

from qwenft_assets.config import Config
from qwenft_assets.mixture.build import build_mixture
from qwenft_assets.sources.sample import sample_source
from qwenft_assets.storage.root import Storage
from qwenft_assets.training.job import TrainingJob, plan_training
from qwenft_assets_tests.faults.tiny_training import tiny_config as make_tiny_config
from qwenft_assets_tests.tiny_model import write_tiny_model


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "tiny-qwen2"
    write_tiny_model(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_config(base_model: Path) -> Config:
    return make_tiny_config(base_model)


@pytest.fixture(scope="session")
def training_job(tmp_path_factory: pytest.TempPathFactory, tiny_config: Config) -> TrainingJob:
    """15 steps of 8 rows, with an evaluation and a checkpoint every 3; not trained yet."""
    storage = Storage(tmp_path_factory.mktemp("mixed"))
    for source in ("local_reports", "slimorca", "pubmedqa"):
        sample_source(tiny_config, source, storage)
    build_mixture(tiny_config, "small", storage)
    return plan_training(tiny_config, "small", storage, "cpu")
