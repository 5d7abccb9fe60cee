"""What training refuses before it starts, and the row it shows."""

import copy

import pytest

from qwenft_assets.config import TrainingConfig
from qwenft_assets.errors import TrainingError
from qwenft_assets.model.tokens import tokenize_rows
from qwenft_assets.training.token_checks import check_tokens, shown_with_mask
from qwenft_assets_tests.training.tiny_rows import mixed_row

MIXED = [mixed_row("What is a PLL?", "A feedback loop."), mixed_row("Why?", "It tracks a phase.")]


@pytest.fixture
def rows(tokenizer):
    return tokenize_rows(MIXED, tokenizer.backend_tokenizer, TrainingConfig())


@pytest.mark.parametrize("supervise", ["full", "answer"])
def test_good_tokens_pass(tokenizer, rows, supervise):
    check_tokens(tokenizer, MIXED[0].row, rows, "fixed", supervise)


def test_padding_that_teaches_when_to_stop_is_refused(tokenizer, rows):
    padding = copy.deepcopy(tokenizer)
    padding.pad_token_id = padding.convert_tokens_to_ids("<|im_end|>")
    with pytest.raises(TrainingError, match="pads with"):
        check_tokens(padding, MIXED[0].row, rows, "fixed", "full")


def test_a_tokenizer_without_the_end_of_a_turn_is_refused(tokenizer, rows, monkeypatch):
    monkeypatch.setattr(type(tokenizer), "convert_tokens_to_ids", lambda *_: None)
    with pytest.raises(TrainingError, match="has no token"):
        check_tokens(tokenizer, MIXED[0].row, rows, "fixed", "full")


def test_tokens_of_another_text_are_refused(tokenizer, rows):
    with pytest.raises(TrainingError, match="not those that inference would make"):
        check_tokens(tokenizer, MIXED[1].row, rows, "fixed", "full")


@pytest.mark.parametrize(
    ("supervise", "ends"),
    [
        pytest.param("answer", "assistant\n«A feedback loop.<|im_end|>\n»", id="answer"),
        pytest.param("full", "assistant\nA feedback loop.<|im_end|>\n»", id="full"),
    ],
)
def test_the_row_is_shown_with_what_carries_loss_marked(tokenizer, rows, supervise, ends):
    shown = shown_with_mask(tokenizer, rows[0], supervise)
    assert shown.endswith(ends)
    assert shown.startswith("<|im_start|>" if supervise == "answer" else "<|im_start|>«")


def test_a_long_row_is_shown_in_part(tokenizer):
    (row,) = tokenize_rows([mixed_row("word " * 900, "yes")], tokenizer.backend_tokenizer, TrainingConfig(max_length_tokens=8000))  # fmt: skip
    shown = shown_with_mask(tokenizer, row, "answer")
    assert len(shown) < 1400
    assert shown.endswith("«yes<|im_end|>\n»")
