"""What many tests need: the demo's settings, a place to write, a deployment that has run once."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qwenft_assets.config import PROJECT_ROOT, Config, load_config
from qwenft_assets.storage.root import Storage
from qwenft_assets_tests.commands import REBUILD, SAMPLE, Deployment, make_deployment
from qwenft_assets_tests.tiny_model import write_tiny_model

# A script's background job ignores Ctrl-C, and so would all that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

ENVIRONMENT = ("QWENFT_CONFIG", "QWENFT_STORAGE", "QWENFT_STAGE", "QWENFT_SOURCES_ORIGIN")


@pytest.fixture
def demo_config(monkeypatch: pytest.MonkeyPatch) -> Config:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    return load_config(PROJECT_ROOT / "configs" / "demo.yaml")


@pytest.fixture
def write_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)

    def write(text: str) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = Storage(tmp_path / "storage")
    storage.ensure_writable()
    return storage


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "tiny-qwen2"
    write_tiny_model(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(base_model: Path) -> Path:
    """Folder of a random fp32 Qwen2 with its tokenizer."""
    return base_model


@pytest.fixture(scope="session")
def tokenizer(tiny_model: Path) -> Any:
    from qwenft_assets.model.engines.peft import load_tokenizer

    return load_tokenizer(tiny_model)


@pytest.fixture(scope="session")
def base(tiny_model: Path) -> Any:
    """The tiny model in fp32, without an adapter; not to be changed."""
    from qwenft_assets.model.engines.peft import load_base

    return load_base(tiny_model, "fp32", "cpu").eval()


@pytest.fixture(scope="session")
def rebuilt(tmp_path_factory: pytest.TempPathFactory, base_model: Path) -> Deployment:
    """A deployment after the two stock commands; who changes it works on a copy."""
    deployment = make_deployment(tmp_path_factory.mktemp("deployment"), base_model)
    for command in (SAMPLE, REBUILD):
        answer = deployment.run(*command)
        assert answer.returncode == 0, answer.stdout + answer.stderr
    return deployment
