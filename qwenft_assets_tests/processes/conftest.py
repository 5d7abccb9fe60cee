"""A tiny deployment whose mixture is there and whose adapter is not, and what one process makes of it."""

import shutil
from pathlib import Path

import pytest

from qwenft_assets.config import load_config
from qwenft_assets.evaluation.evaluate import evaluate
from qwenft_assets.evaluation.job import plan_evaluation
from qwenft_assets.mixture.build import build_mixture
from qwenft_assets.progress import no_progress
from qwenft_assets.sources.sample import sample_source
from qwenft_assets.storage.root import Storage
from qwenft_assets.training.job import plan_training
from qwenft_assets.training.run import TrainingRun
from qwenft_assets.training.train import train
from qwenft_assets_tests.commands import Deployment, make_deployment
from qwenft_assets_tests.processes.outcomes import Outcome, outcome_of
from qwenft_assets_tests.tiny_model import write_tiny_model


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "tiny-qwen2"
    write_tiny_model(folder)
    return folder


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory, base_model: Path) -> Deployment:
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


@pytest.fixture(scope="session")
def alone(mixed: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """One process: this one."""
    root = tmp_path_factory.mktemp("alone") / "storage"
    shutil.copytree(mixed.storage, root)
    config, storage = load_config(str(mixed.config)), Storage(root)
    job = plan_training(config, "small", storage, "cpu")
    train(TrainingRun(job))
    evaluate(plan_evaluation(config, job, storage), no_progress, lambda line: None)
    return outcome_of(storage, job.version)
