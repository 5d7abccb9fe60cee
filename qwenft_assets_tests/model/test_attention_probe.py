"""A forward pass that lets rows see each other, or cannot be seen, is refused before training."""

import pytest

from qwenft_assets.config import LoraConfig
from qwenft_assets.errors import DeviceError
from qwenft_assets.model.attention_probe import probe_attention
from qwenft_assets.model.batches import flatten
from qwenft_assets.model.decoder import FlatDecoder
from qwenft_assets.model.engines.peft import add_lora, load_base
from qwenft_assets_tests.training.tiny_rows import token_rows

ROWS = token_rows(60, 33, 47)


@pytest.fixture
def model(tiny_model):
    return add_lora(load_base(tiny_model, "fp32", "cpu"), LoraConfig(rank=2)).train()


class Changed:
    """The flat decoder, but for what it does with a batch."""

    def __init__(self, model, change):
        self.decoder, self.change = FlatDecoder(model, weights="fp32"), change

    @property
    def head(self):
        return self.decoder.head

    def hidden_states(self, batch, **_):
        return self.change(self.decoder, batch)


def test_calls_are_counted_and_the_model_stays_in_its_mode(model):
    seen = probe_attention(FlatDecoder(model, weights="fp32"), model, ROWS, "cpu")
    assert seen == "sdpa x 6"  # on a CPU, two layers of three rows each
    assert model.training


def test_a_loop_over_rows_is_an_error_on_a_gpu(model, monkeypatch):
    monkeypatch.setattr(
        "qwenft_assets.model.attention_probe.flatten",
        lambda rows, supervise, device: flatten(rows, supervise),
    )
    with pytest.raises(DeviceError, match="6 times for 2 layers and 3 rows, once for each row"):
        probe_attention(FlatDecoder(model, weights="fp32"), model, ROWS, "cuda")


def test_rows_that_see_each_other_are_an_error(model):
    import torch

    def as_one_row(decoder, batch):
        whole = (sum(batch.lengths),)
        ends = torch.tensor([0, *whole], dtype=torch.int32)
        return decoder.hidden_states(
            type(batch)(**{**vars(batch), "lengths": whole, "row_starts": ends})
        )

    with pytest.raises(DeviceError, match="rows of a flat batch see each other"):
        probe_attention(Changed(model, as_one_row), model, ROWS, "cpu")


def test_attention_that_cannot_be_seen_is_an_error(model):
    def embeddings(decoder, batch):
        return decoder.core.embed_tokens(batch.input_ids)

    with pytest.raises(DeviceError, match="cannot be recognised"):
        probe_attention(Changed(model, embeddings), model, ROWS, "cpu")
