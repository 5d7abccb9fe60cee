"""What of a GPU a training takes: from what the driver says is free, within `max_vram_gib`."""

import pytest

from qwenft_assets.config import TrainingConfig
from qwenft_assets.model.device import GIB
from qwenft_assets.model.memory import CONTEXT_GIB
from qwenft_assets.model.tokens import TokenRow
from qwenft_assets.training.forecast import SHAPES
from qwenft_assets.training.loading import limit_gpu_memory, plan_on_gpu

QWEN_7B = SHAPES["Qwen/Qwen2.5-7B-Instruct"]
ROWS = [TokenRow("", "", "", input_ids=[0] * 400, answer_start=0, truncated=False)] * 16


@pytest.fixture
def fractions(monkeypatch):
    """A GPU of 80 GiB, of which 20 are free; the shares of it that were asked for."""
    import torch

    asked = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (20 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", asked.append)
    return asked


@pytest.mark.parametrize(("max_vram_gib", "room_gib"), [(None, 20 + CONTEXT_GIB), (10, 10)])
def test_a_plan_keeps_to_what_is_free_and_to_what_the_config_allows(
    fractions, max_vram_gib, room_gib
):
    found = plan_on_gpu(QWEN_7B, ROWS, ROWS, TrainingConfig(max_vram_gib=max_vram_gib))
    assert found.peak_gib <= room_gib
    assert found.keep_4bit is (room_gib == 10)
    assert fractions == []  # loading the base may take more for a moment


def test_torch_is_held_to_the_limit_and_to_none_without_one(fractions):
    limit_gpu_memory(TrainingConfig())
    assert fractions == []
    limit_gpu_memory(TrainingConfig(max_vram_gib=10))
    assert fractions == [pytest.approx((10 - CONTEXT_GIB) / 80)]
