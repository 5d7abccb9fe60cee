"""A deployment of a tiny base model with two adapters, the older one released."""

from pathlib import Path

from qwenft_assets.config import Config, DecodingConfig, TrainingConfig
from qwenft_assets.inference.load import AnsweringModels
from qwenft_assets.model.device import Device
from qwenft_assets.records import Champion
from qwenft_assets.storage.root import Storage
from qwenft_assets_tests.made_up_records import put
from qwenft_assets_tests.tiny_adapter import RECIPE, write_tiny_adapter
from qwenft_assets_tests.tiny_model import write_tiny_model

CHAMPION, LATEST = "a" * 16, "b" * 16


def make_tiny_models(folder: Path) -> AnsweringModels:
    """The deployment's models, not loaded yet; greedy, eight tokens an answer."""
    base = folder / "tiny"
    write_tiny_model(base)
    storage = Storage(folder / "storage")
    storage.ensure_writable()
    write_tiny_adapter(storage, base, CHAMPION, seed=1)
    write_tiny_adapter(storage, base, LATEST, seed=2)
    put(storage.release(RECIPE), Champion, version=CHAMPION)
    config = Config(
        name="tiny",
        training=TrainingConfig(base_model=str(base), weights="fp32", device="cpu"),
        decoding=DecodingConfig(temperature=0, max_new_tokens=8),
    )
    return AnsweringModels(config, storage, RECIPE, Device("cpu", "cpu", 0, 0), lambda line: None)
