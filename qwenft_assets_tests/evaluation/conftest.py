"""One trained tiny model for all tests of evaluation."""

from collections.abc import Iterator

import pytest

from qwenft_assets.storage.root import Storage
from qwenft_assets_tests.evaluation.trained import build, tiny_config, train_and_evaluate
from qwenft_assets_tests.tiny_model import write_tiny_model


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """A tiny model gains nothing from threads, and loses minutes where the cores are busy."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="package")
def trained(tmp_path_factory):
    base = tmp_path_factory.mktemp("base") / "tiny-qwen2"
    write_tiny_model(base)
    config = tiny_config(base)
    storage = Storage(tmp_path_factory.mktemp("storage"))
    build(config, storage)
    return train_and_evaluate(config, storage)
