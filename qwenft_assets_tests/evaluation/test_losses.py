"""Rows read flat: their common start once, where the kernel can, with the losses of each."""

from dataclasses import replace
from typing import Any

import pytest

from qwenft_assets.config import LoraConfig
from qwenft_assets.evaluation.losses import flat_batches, flat_losses, losses_by_model
from qwenft_assets.evaluation.models import ADAPTER, BASE
from qwenft_assets.model import attention
from qwenft_assets.model.decoder import FlatDecoder
from qwenft_assets.model.engines.peft import add_lora, load_base
from qwenft_assets.model.loss import span_losses
from qwenft_assets_tests.tiny_model import write_tiny_model
from qwenft_assets_tests.training.tiny_rows import token_row, token_rows

START = token_row(99, 20).input_ids
ROWS = [replace(row, input_ids=START + row.input_ids) for row in token_rows(30, 12, 47)]


class Watched(FlatDecoder):
    """Remembers how many tokens each pass computes."""

    tokens: list[int]

    def hidden_states(self, batch: Any, **mode: Any) -> Any:
        self.tokens.append(len(batch.input_ids))
        return super().hidden_states(batch, **mode)


@pytest.fixture
def model(tmp_path):
    import torch

    write_tiny_model(tmp_path)
    torch.manual_seed(1)
    model = add_lora(load_base(tmp_path, "fp32", "cpu"), LoraConfig(rank=4, alpha=8))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn_like(parameter) * 0.1
    return model


def read(model: Any, rows: Any) -> list[int]:
    """Tokens of each pass, once the losses are those of the model's own forward."""
    expected = span_losses(model, rows)
    decoder = Watched(model, weights="fp32")
    decoder.tokens = []
    for found, own in zip(flat_losses(decoder, rows, "default")(), expected, strict=True):
        assert found.full.tokens == own.full.tokens
        assert found.full.nll == pytest.approx(own.full.nll, rel=1e-5)
        assert found.answer.nll == pytest.approx(own.answer.nll, rel=1e-5)
    return decoder.tokens


def test_a_start_that_rows_share_is_computed_once(model):
    assert read(model, ROWS) == [20 + 30 + 12 + 47]


def test_rows_that_begin_differently_are_computed_whole(model):
    assert read(model, token_rows(30, 12, 47)) == [30 + 12 + 47]


@pytest.mark.parametrize(
    ("rows", "batch_tokens", "expected"),
    [
        (ROWS, 20 + 47 + 30, [[2, 0], [1]]),
        (ROWS, 20 + 47 + 30 - 1, [[2], [0, 1]]),
        (token_rows(30, 12, 47), 47 + 30, [[2, 0], [1]]),
        (ROWS, 1, [[2], [0], [1]]),
        ([], 100, []),
    ],
)
def test_a_batch_holds_what_it_computes_and_a_shared_start_once(
    model, rows, batch_tokens, expected
):
    decoder = FlatDecoder(model, weights="fp32")
    assert list(flat_batches(decoder, rows, batch_tokens)) == expected


@pytest.mark.parametrize(("flat", "batches"), [(True, 2), (False, 3)])
def test_the_room_of_a_batch_is_padding_only_where_there_is_any(model, flat, batches):
    reports: list[float] = []

    def report(done: float, total: int, note: str = "") -> None:
        assert (total, note) == (len(ROWS), "held-out rows")
        reports.append(done)

    losses_by_model(model, ROWS, 20 + 47 + 30, (BASE, ADAPTER), report, flat=flat)
    assert len(reports) == batches
    assert reports[-1] == len(ROWS)


def test_nothing_is_shared_where_the_kernel_counts_from_the_start(model, monkeypatch):
    def from_the_start(query: Any, key: Any, value: Any) -> Any:
        import torch
        from torch.nn.functional import scaled_dot_product_attention

        sees = torch.ones(len(query), len(key), dtype=torch.bool).tril()
        by_head = (part.transpose(0, 1)[None] for part in (query, key, value))
        attended = scaled_dot_product_attention(*by_head, attn_mask=sees, enable_gqa=True)
        return attended[0].transpose(0, 1)

    attention.sees_shared_starts.cache_clear()
    try:
        monkeypatch.setattr(attention, "_one_row", from_the_start)
        assert read(model, ROWS) == [3 * 20 + 30 + 12 + 47]
    finally:
        attention.sees_shared_starts.cache_clear()
