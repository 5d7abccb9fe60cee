"""A deployment that answers: a tiny random Qwen2 with an adapter, and one of another base."""

from pathlib import Path

from qwenft_assets.storage.files import write_json
from qwenft_assets.storage.root import Storage
from qwenft_assets_tests.commands import Deployment, make_deployment
from qwenft_assets_tests.tiny_adapter import RECIPE, write_tiny_adapter
from qwenft_assets_tests.tiny_model import write_tiny_model

VERSION = "a" * 16
OF_ANOTHER_BASE = "b" * 16
QUESTION = "What does a low-dropout regulator do?"
GREEDY = ("--temperature", "0")


def make_answering_deployment(folder: Path) -> Deployment:
    base = folder / "tiny-qwen2"
    write_tiny_model(base)
    deployment = make_deployment(folder / "deployment", base)
    storage = Storage(deployment.storage)
    storage.ensure_writable()
    write_tiny_adapter(storage, base, VERSION)
    write_json(
        storage.adapter(RECIPE, OF_ANOTHER_BASE) / "training.json",
        {"base_model": "other", "base_revision": "1"},
    )
    return deployment
