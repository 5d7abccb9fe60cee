"""The fast way to token ids gives the ids of `tokenizers`, or steps aside."""

import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE, WordPiece
from tokenizers.trainers import BpeTrainer

from qwenft_assets.config import TrainingConfig
from qwenft_assets.model import row_tokenizer
from qwenft_assets.model.fast_bpe import fast_bpe
from qwenft_assets.model.row_tokenizer import RowTokenizer
from qwenft_assets_tests.training.tiny_rows import mixed_row

QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CORPUS = [
    "The loop bandwidth of the PLL isn't 200 kHz, it's 1.25 MHz; we'd said 12 345 before.",
    "  indented\n\n\tcode(x) => {y: 'z'}  \r\n trailing   ",
    "锁相环的带宽为 200 kHz。基因组测序 étude naïve e\u0301tude Größe",
    "<p>CRP 210 mg/L &amp; 39.4 °C</p> 🧬🧬 a_b-c/d ½ ² Ⅳ",
] * 5
PIECES = [*" \n\t\r'0123456789aszSTéｅ́", "\u0301", "ſ", "½", "Ⅳ", "\u2028", "\u00a0", "🧬", "锁", "'ll", "'S", "  ",
          "<|im_end|>", "<|", "word", "200"]  # fmt: skip


def byte_level(kind: str) -> Tokenizer:
    tokenizer = Tokenizer(BPE())
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if kind == "qwen":
        tokenizer.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(QWEN_PATTERN), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, plain])
    elif kind == "smollm2":
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, gpt2])
    else:
        tokenizer.pre_tokenizer = gpt2
    trainer = BpeTrainer(
        vocab_size=700,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


@pytest.fixture(scope="module", params=["qwen", "smollm2", "gpt2"])
def both(request):
    tokenizer = byte_level(request.param)
    fast = fast_bpe(tokenizer)
    assert fast is not None
    return tokenizer, fast


@hypothesis_settings(deadline=None, max_examples=150)
@given(text=st.text() | st.lists(st.sampled_from(PIECES)).map("".join))
def test_ids_are_equal_for_any_text(both, text):
    tokenizer, fast = both
    assert fast.encode(text).tolist() == tokenizer.encode(text, add_special_tokens=False).ids


def test_bytes_of_tokens_are_those_of_the_text(both):
    _, fast = both
    text = CORPUS[0]
    assert sum(fast.byte_lengths(fast.encode(text))) == len(text.encode())


def with_parts(tokenizer: Tokenizer, **changes) -> Tokenizer:
    parts = json.loads(tokenizer.to_str())
    for name, change in changes.items():
        change(parts[name])
    return Tokenizer.from_str(json.dumps(parts))


def test_a_text_with_a_byte_the_vocabulary_lacks_is_left_to_the_slow_way():
    def forget_the_letter_q(model):
        del model["vocab"]["q"]
        model["merges"] = [pair for pair in model["merges"] if "q" not in "".join(pair)]

    fast = fast_bpe(with_parts(byte_level("gpt2"), model=forget_the_letter_q))
    assert fast is not None
    assert fast.encode("quick") is None
    assert fast.encode("thick") is not None


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(Tokenizer(WordPiece({"[UNK]": 0})), id="not-bpe"),
        pytest.param(Tokenizer(BPE()), id="no-bytes"),
        pytest.param(
            with_parts(
                byte_level("gpt2"), added_tokens=lambda tokens: tokens[1].update(lstrip=True)
            ),
            id="tokens-that-swallow-blanks",
        ),
        pytest.param(
            with_parts(byte_level("gpt2"), model=lambda model: model["merges"].reverse()),
            id="ids-not-in-order-of-merges",
        ),
    ],
)
def test_an_unusual_tokenizer_has_no_fast_way(other):
    assert fast_bpe(other) is None


def test_one_row_that_differs_ends_the_fast_way(monkeypatch):
    tokenizer = byte_level("qwen")
    rng = random.Random(0)
    rows = [
        mixed_row(" ".join(rng.choices(PIECES, k=20)), " ".join(rng.choices(PIECES, k=9))).row
        for _ in range(200)
    ]
    right = RowTokenizer(tokenizer, TrainingConfig())
    (good,) = right.batches(rows)

    class Wrong:
        def __init__(self, fast):
            self.byte_lengths, self._encode, self.calls = fast.byte_lengths, fast.encode, 0

        def encode(self, text):
            self.calls += 1
            ids = self._encode(text)
            return ids if self.calls < 10 else np.append(ids, 0)

    wrong = Wrong(fast_bpe(tokenizer))
    monkeypatch.setattr(row_tokenizer, "fast_bpe", lambda _: wrong)
    (mended,) = RowTokenizer(tokenizer, TrainingConfig()).batches(rows)
    assert 10 <= wrong.calls < len(rows)
    for one, two in zip(good, mended, strict=True):
        assert one.ids.tolist() == two.ids.tolist()
        assert one.answer_start == two.answer_start
