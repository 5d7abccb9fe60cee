"""One tiny model for all tests of training; models are loaded anew where a test changes them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwenft_assets.training.engines.peft import load_base, load_tokenizer
from qwenft_assets_tests.tiny_model import write_tiny_model


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """A tiny model gains nothing from threads, and loses minutes where the cores are busy."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random fp32 Qwen2 with its tokenizer."""
    folder = tmp_path_factory.mktemp("base") / "tiny-qwen2"
    write_tiny_model(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tiny_model: Path) -> Any:
    return load_tokenizer(tiny_model)


@pytest.fixture(scope="session")
def base(tiny_model: Path) -> Any:
    """The tiny model in fp32, without an adapter; not to be changed."""
    return load_base(tiny_model, "fp32", "cpu").eval()
