"""Tokens out of a tiny random Qwen2: streamed, in batches, stopped, failing."""

import threading
from dataclasses import dataclass
from typing import Any

import pytest

from qwenft_assets.config import DecodingConfig
from qwenft_assets.inference.generate import answer_batch, generation_options, stream_answer
from qwenft_assets.text.chatml import END_OF_TEXT, TURN_END, TURN_START, render_prompt
from qwenft_assets_tests.tiny_model import write_tiny_model

GREEDY = DecodingConfig(
    temperature=0, max_new_tokens=24, repetition_penalty=1.0, no_repeat_ngram_size=0
)
SAMPLED = DecodingConfig(temperature=1.0, max_new_tokens=24, seed=5)
ENDLESS = GREEDY.model_copy(update={"max_new_tokens": 100_000})
QUESTIONS = [
    "Why?",
    "What does a low-dropout regulator do, and where does its noise come from?",
    "低压差稳压器是什么?",
]
PROMPTS = [render_prompt(question, "") for question in QUESTIONS]


@dataclass(frozen=True)
class Tiny:
    """A model with its tokenizer."""

    model: Any
    tokenizer: Any


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    from qwenft_assets.training.engines.peft import load_base, load_tokenizer

    folder = tmp_path_factory.mktemp("base")
    write_tiny_model(folder)
    return Tiny(load_base(folder, "fp32", "cpu").eval(), load_tokenizer(folder))


@pytest.fixture
def endless(tmp_path):
    """A model that never ends a turn: the rows of its head for the end tokens are made unlikely."""
    import torch

    from qwenft_assets.training.engines.peft import load_base, load_tokenizer

    write_tiny_model(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    model = load_base(tmp_path, "fp32", "cpu").eval()
    head = model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(head.out_features))
    ends = tokenizer.convert_tokens_to_ids([TURN_END, END_OF_TEXT])
    head.bias.data[ends] = -1e4
    return Tiny(model, tokenizer)


def generating_threads():
    return [thread for thread in threading.enumerate() if "generate" in thread.name]


@pytest.mark.parametrize("prompt", PROMPTS, ids=["short", "long", "chinese"])
def test_pieces_join_to_the_answer_of_the_batch(tiny, prompt):
    pieces = list(stream_answer(tiny.model, tiny.tokenizer, prompt, GREEDY))
    assert len(pieces) > 1
    assert "".join(pieces).strip() == answer_batch(tiny.model, tiny.tokenizer, [prompt], GREEDY)[0]


def test_answers_do_not_depend_on_their_neighbours(tiny):
    together = answer_batch(tiny.model, tiny.tokenizer, PROMPTS, GREEDY)
    alone = [answer_batch(tiny.model, tiny.tokenizer, [prompt], GREEDY)[0] for prompt in PROMPTS]
    assert together == alone
    assert len(set(together)) == len(PROMPTS)


def test_a_seed_decides_the_answer(tiny):
    def streamed(seed):
        decoding = SAMPLED.model_copy(update={"seed": seed})
        return "".join(stream_answer(tiny.model, tiny.tokenizer, PROMPTS[0], decoding))

    assert streamed(5) == streamed(5)
    assert len({streamed(seed) for seed in range(4)}) == 4
    batch = [answer_batch(tiny.model, tiny.tokenizer, PROMPTS[:1], SAMPLED) for _ in range(2)]
    assert batch[0] == batch[1] == [streamed(5).strip()]


def test_an_answer_without_a_seed_differs_from_time_to_time(tiny):
    decoding = SAMPLED.model_copy(update={"seed": None})
    answers = {answer_batch(tiny.model, tiny.tokenizer, PROMPTS[:1], decoding)[0] for _ in range(3)}
    assert len(answers) == 3


def test_special_tokens_are_never_shown(tiny):
    """Long random answers of a 600-token vocabulary draw each special token many times."""
    decoding = DecodingConfig(
        temperature=2.0, top_p=1, max_new_tokens=200, repetition_penalty=1, seed=1
    )
    answers = answer_batch(tiny.model, tiny.tokenizer, PROMPTS * 4, decoding)
    answers += ["".join(stream_answer(tiny.model, tiny.tokenizer, PROMPTS[0], decoding))]
    for answer in answers:
        assert not any(token in answer for token in (TURN_START, TURN_END, END_OF_TEXT))


@pytest.mark.parametrize("end", [TURN_END, END_OF_TEXT])
def test_an_answer_ends_at_the_end_of_its_turn(endless, end):
    """The model is made to prefer an end token: the answer is empty, and the stream ends at once."""
    token = endless.tokenizer.convert_tokens_to_ids(end)
    endless.model.get_output_embeddings().bias.data[token] = 1e4
    assert list(stream_answer(endless.model, endless.tokenizer, PROMPTS[0], ENDLESS)) == []
    assert answer_batch(endless.model, endless.tokenizer, PROMPTS[:2], ENDLESS) == ["", ""]


def test_a_stop_event_set_before_leaves_one_token(endless):
    stop = threading.Event()
    stop.set()
    text = "".join(stream_answer(endless.model, endless.tokenizer, PROMPTS[0], ENDLESS, stop))
    one_token = GREEDY.model_copy(update={"max_new_tokens": 1})
    assert [text.strip()] == answer_batch(endless.model, endless.tokenizer, PROMPTS[:1], one_token)


def test_a_stop_event_set_meanwhile_ends_the_answer(endless):
    stop = threading.Event()
    answer = stream_answer(endless.model, endless.tokenizer, PROMPTS[0], ENDLESS, stop)
    first = next(answer)
    stop.set()
    rest = list(answer)  # ends, which 100,000 tokens would not do within the test's time
    assert first
    assert len(rest) < 5_000
    assert generating_threads() == []


def test_leaving_the_iterator_ends_the_thread(endless):
    answer = stream_answer(endless.model, endless.tokenizer, PROMPTS[0], ENDLESS)
    next(answer)
    assert len(generating_threads()) == 1
    answer.close()
    assert generating_threads() == []


def test_an_interrupt_between_two_pieces_ends_the_thread_and_is_passed_on(endless):
    answer = stream_answer(endless.model, endless.tokenizer, PROMPTS[0], ENDLESS)
    next(answer)
    with pytest.raises(KeyboardInterrupt):
        answer.throw(KeyboardInterrupt)
    assert generating_threads() == []


def test_an_exception_while_generating_reaches_the_caller(tiny):
    unusable = DecodingConfig.model_construct(**{**GREEDY.model_dump(), "repetition_penalty": -1.0})
    with pytest.raises(ValueError, match=r"`penalty` .* is -1\.0"):
        list(stream_answer(tiny.model, tiny.tokenizer, PROMPTS[0], unusable))
    assert generating_threads() == []


@pytest.mark.parametrize(
    ("temperature", "wanted"),
    [
        pytest.param(0.0, {"do_sample": False, "top_p": None}, id="greedy"),
        pytest.param(0.7, {"do_sample": True, "temperature": 0.7, "top_p": 0.9}, id="sampled"),
    ],
)
def test_decoding_settings_become_arguments(tiny, temperature, wanted):
    options = generation_options(tiny.tokenizer, DecodingConfig(temperature=temperature))
    assert wanted.items() <= options.items()
    assert options["eos_token_id"] == tiny.tokenizer.convert_tokens_to_ids([TURN_END, END_OF_TEXT])
    assert options["pad_token_id"] == tiny.tokenizer.convert_tokens_to_ids(END_OF_TEXT)
