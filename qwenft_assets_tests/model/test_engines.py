"""Which engine a config trains with, what it needs, and what its worker leaves."""

import importlib.util
import json

import dagster as dg
import pytest

from qwenft_assets.config import LauncherConfig, TrainingConfig, load_config
from qwenft_assets.errors import ConfigError, DeviceError
from qwenft_assets.mixture.build import build_mixture
from qwenft_assets.model import engines
from qwenft_assets.model.device import Device
from qwenft_assets.model.engines import ON_CPU_VARIABLE, require_engine
from qwenft_assets.resources import WorkerResource
from qwenft_assets.sources.sample import sample_source
from qwenft_assets.storage.root import Storage
from qwenft_assets.training.feasibility import require_feasible
from qwenft_assets.training.job import plan_training

needs_unsloth = pytest.mark.skipif(
    importlib.util.find_spec("unsloth") is None,
    reason="unsloth is not installed: it is an extra with pins of its own (pyproject.toml)",
)


@pytest.fixture
def mixture(tmp_path, tiny_model):
    """Config and storage with a small mixture, trained in few steps."""
    config = load_config("configs/demo.yaml")
    small = config.mixture.recipes["small"].model_copy(update={"rows": 20})
    changes = {
        "base_model": str(tiny_model),
        "device": "cpu",
        "weights": "fp32",
        "min_vram_gib": 0,
        "max_length_tokens": 128,
        "epochs": 1,
        "evaluate_every_steps": 2,
        "gradient_checkpointing": False,
    }
    config = config.model_copy(
        update={
            "training": config.training.model_copy(update=changes),
            "mixture": config.mixture.model_copy(update={"recipes": {"small": small}}),
        }
    )
    storage = Storage(tmp_path / "out")
    for source in ("local_reports", "slimorca", "pubmedqa"):
        sample_source(config, source, storage)
    build_mixture(config, "small", storage)
    return config, storage


def with_engine(config, engine):
    return config.model_copy(
        update={"training": config.training.model_copy(update={"engine": engine})}
    )


@needs_unsloth
def test_the_real_worker_leaves_an_adapter_that_names_its_base_as_others_know_it(
    mixture, monkeypatch, tiny_model
):
    config, storage = mixture
    job = plan_training(with_engine(config, "unsloth"), "small", storage, "cpu")
    monkeypatch.setenv(ON_CPU_VARIABLE, "1")
    records = []

    @dg.asset
    def stage(context: dg.AssetExecutionContext, worker: WorkerResource) -> dg.MaterializeResult:
        module = "qwenft_assets.training.worker"
        records.append(worker.run(context, module, job, LauncherConfig()))
        return dg.MaterializeResult()

    dg.materialize([stage], resources={"worker": WorkerResource()})
    record, folder = records[0], storage.adapter("small", job.version)
    assert (record["engine"], record["attention"]) == ("unsloth", "sdpa")
    assert "unsloth" in record["versions"]
    named = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    assert named["base_model_name_or_path"] == job.base.name
    from qwenft_assets.model.engines.peft import load_adapter, load_base

    load_adapter(load_base(tiny_model, "fp32", "cpu"), folder)


def test_only_another_engine_makes_another_version(mixture):
    config, storage = mixture
    auto, peft, unsloth = (
        plan_training(with_engine(config, engine), "small", storage, "cpu")
        for engine in ("auto", "peft", "unsloth")
    )
    assert auto.version == peft.version != unsloth.version
    assert (auto.engine, unsloth.engine) == ("peft", "unsloth")


def test_auto_does_not_ask_what_is_installed(monkeypatch):
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda _: object())
    assert TrainingConfig(engine="auto").engine_name == "peft"


@pytest.mark.parametrize(
    ("found", "message"),
    [
        pytest.param(None, r"not installed here.*pip install 'qwenft\[unsloth\]'", id="missing"),
        pytest.param(object(), "needs a CUDA GPU", id="no-gpu"),
    ],
)
def test_what_unsloth_lacks_is_told_before_a_run(monkeypatch, found, message):
    monkeypatch.delenv(ON_CPU_VARIABLE, raising=False)
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda _: found)
    with pytest.raises(DeviceError, match=message):
        require_engine(TrainingConfig(engine="unsloth"), "cpu")


def test_unsloth_is_refused_in_several_processes(mixture, monkeypatch):
    config, storage = mixture
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda _: object())
    launcher = LauncherConfig(kind="accelerate", processes=2)
    several = with_engine(config, "unsloth").model_copy(update={"launcher": launcher})
    monkeypatch.setenv(ON_CPU_VARIABLE, "1")
    with pytest.raises(ConfigError, match="runs in one process"):
        require_feasible(several, "small", storage, Device("cpu", "cpu", 0, 0))
