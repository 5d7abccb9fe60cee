"""Answers of a tiny random Qwen2: the same as `generate` draws, streamed, stopped, failing."""

import threading
from pathlib import Path

import pytest

from qwenft_assets.config import DecodingConfig
from qwenft_assets.errors import PromptError
from qwenft_assets.inference.decoder import Decoder, use_grouped_attention
from qwenft_assets.inference.generate import AnsweringModel, answer_batch, generation_options
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


WINDOW = 1024


def load_tiny(folder, compile_step=None):
    from qwenft_assets.model.engines.peft import load_base, load_tokenizer

    write_tiny_model(folder)
    model = load_base(folder, "fp32", "cpu").eval()
    decoder = Decoder(model, WINDOW, compile_step=compile_step)
    return AnsweringModel(decoder, load_tokenizer(folder), "tiny", None, Path(folder))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return load_tiny(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def static(tmp_path_factory):
    """As on a GPU: a static cache and grouped attention, without waiting for a compiler."""
    model = load_tiny(tmp_path_factory.mktemp("base"), compile_step=lambda step: step)
    use_grouped_attention(model.decoder.model)
    return model


@pytest.fixture
def endless(tmp_path):
    """A model that never ends a turn: the rows of its head for the end tokens are made unlikely."""
    import torch

    tiny = load_tiny(tmp_path)
    head = tiny.decoder.model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(head.out_features))
    ends = tiny.tokenizer.convert_tokens_to_ids([TURN_END, END_OF_TEXT])
    head.bias.data[ends] = -1e4
    return tiny


def generated_by_transformers(tiny, prompt, decoding):
    import torch
    from transformers import set_seed

    inputs = tiny.tokenizer([prompt], add_special_tokens=False, return_tensors="pt")
    if decoding.seed is not None:
        set_seed(decoding.seed)
    with torch.no_grad():
        options = generation_options(tiny.tokenizer, decoding)
        output = tiny.decoder.model.generate(**inputs, **options)
    answer = output[0, inputs["input_ids"].shape[1] :]
    return tiny.tokenizer.decode(answer, skip_special_tokens=True)


def whole(model, prompt, decoding):
    return "".join(model.answer(prompt, decoding))


@pytest.mark.parametrize("prompt", PROMPTS, ids=["short", "long", "chinese"])
@pytest.mark.parametrize(
    "decoding",
    [
        pytest.param(GREEDY, id="greedy"),
        pytest.param(DecodingConfig(temperature=0, max_new_tokens=24), id="greedy-with-penalties"),
        pytest.param(DecodingConfig(max_new_tokens=24, seed=7), id="default"),
        pytest.param(SAMPLED, id="sampled"),
    ],
)
def test_an_answer_is_what_generate_of_transformers_draws(tiny, static, prompt, decoding):
    wanted = generated_by_transformers(tiny, prompt, decoding)
    assert len(wanted) > 10
    assert whole(tiny, prompt, decoding) == wanted
    # Twice: the static cache is used again.
    assert [whole(static, prompt, decoding) for _ in range(2)] == [wanted] * 2


def test_an_answer_counts_its_tokens_and_says_how_it_ended(tiny):
    answer = tiny.answer(PROMPTS[0], GREEDY)
    pieces = list(answer)
    assert "".join(pieces) == answer.text
    assert all(pieces)
    assert (answer.tokens, answer.finish_reason) == (GREEDY.max_new_tokens, "length")
    assert answer.prompt_tokens == tiny.count_tokens(PROMPTS[0])
    assert 0 < answer.first_token_seconds < answer.seconds
    assert answer.tokens_per_second > 0


def test_an_answer_ends_where_the_window_does(tiny):
    tokens = tiny.count_tokens(PROMPTS[0])
    narrow = AnsweringModel(
        Decoder(tiny.decoder.model, tokens + 5), tiny.tokenizer, "tiny", None, tiny.base_path
    )
    answer = narrow.answer(PROMPTS[0], GREEDY)
    assert len("".join(answer)) > 0
    assert (answer.tokens, answer.finish_reason) == (5, "length")


def test_a_prompt_as_long_as_the_window_is_refused(tiny):
    prompt = render_prompt("why " * 2000, "")
    with pytest.raises(PromptError, match=rf"has \d+ tokens, the window {WINDOW}\. Shorten"):
        tiny.answer(prompt, GREEDY)


def test_answers_do_not_depend_on_their_neighbours(tiny):
    together = answer_batch(tiny.decoder.model, tiny.tokenizer, PROMPTS, GREEDY)
    alone = [
        answer_batch(tiny.decoder.model, tiny.tokenizer, [prompt], GREEDY)[0] for prompt in PROMPTS
    ]
    assert together == alone
    assert len(set(together)) == len(PROMPTS)


def test_a_seed_decides_the_answer(tiny):
    def streamed(seed):
        decoding = SAMPLED.model_copy(update={"seed": seed})
        return whole(tiny, PROMPTS[0], decoding)

    assert streamed(5) == streamed(5)
    assert len({streamed(seed) for seed in range(4)}) == 4
    batch = [
        answer_batch(tiny.decoder.model, tiny.tokenizer, PROMPTS[:1], SAMPLED) for _ in range(2)
    ]
    assert batch[0] == batch[1] == [streamed(5).strip()]


def test_an_answer_without_a_seed_differs_from_time_to_time(tiny):
    decoding = SAMPLED.model_copy(update={"seed": None})
    answers = {
        answer_batch(tiny.decoder.model, tiny.tokenizer, PROMPTS[:1], decoding)[0] for _ in range(3)
    }
    assert len(answers) == 3


def test_special_tokens_are_never_shown(tiny):
    """Long random answers of a 600-token vocabulary draw each special token many times."""
    decoding = DecodingConfig(
        temperature=2.0, top_p=1, max_new_tokens=200, repetition_penalty=1, seed=1
    )
    answers = answer_batch(tiny.decoder.model, tiny.tokenizer, PROMPTS * 4, decoding)
    answers += [whole(tiny, PROMPTS[0], decoding)]
    for answer in answers:
        assert not any(token in answer for token in (TURN_START, TURN_END, END_OF_TEXT))


@pytest.mark.parametrize("end", [TURN_END, END_OF_TEXT])
def test_an_answer_ends_at_the_end_of_its_turn(endless, end):
    """The model is made to prefer an end token: the answer is empty, and the stream ends at once."""
    token = endless.tokenizer.convert_tokens_to_ids(end)
    endless.decoder.model.get_output_embeddings().bias.data[token] = 1e4
    assert list(endless.answer(PROMPTS[0], ENDLESS)) == []
    assert answer_batch(endless.decoder.model, endless.tokenizer, PROMPTS[:2], ENDLESS) == ["", ""]


def test_an_answer_without_a_seed_says_which_one_draws_it_again(tiny):
    first = tiny.answer(PROMPTS[0], SAMPLED.model_copy(update={"seed": None}))
    text = "".join(first)
    again = SAMPLED.model_copy(update={"seed": first.seed})
    assert whole(tiny, PROMPTS[0], again) == text


def test_a_stop_event_set_before_leaves_no_token(endless):
    stop = threading.Event()
    stop.set()
    answer = endless.answer(PROMPTS[0], ENDLESS, stop)
    assert list(answer) == []
    assert (answer.tokens, answer.finish_reason) == (0, "stopped")


def test_a_stop_event_set_meanwhile_ends_the_answer(endless):
    stop = threading.Event()
    answer = endless.answer(PROMPTS[0], ENDLESS, stop)
    first = next(iter(answer))
    stop.set()
    rest = "".join(answer)  # ends, which 100,000 tokens would not do within the test's time
    assert answer.text == first + rest
    assert answer.tokens < 10
    assert answer.finish_reason == "stopped"


def test_an_interrupt_leaves_what_came_until_then(endless):
    answer = endless.answer(PROMPTS[0], ENDLESS)
    pieces = iter(answer)
    first = next(pieces)
    with pytest.raises(KeyboardInterrupt):
        pieces.throw(KeyboardInterrupt)
    assert answer.text == first
    assert answer.finish_reason == "stopped"


def test_a_character_of_several_tokens_comes_whole(tiny):
    """Greedy answers of the tiny model to Chinese are mostly bytes of broken characters."""
    answer = tiny.answer(PROMPTS[2], GREEDY.model_copy(update={"max_new_tokens": 60}))
    pieces = list(answer)
    text = "".join(pieces)
    assert text == generated_by_transformers(
        tiny, PROMPTS[2], GREEDY.model_copy(update={"max_new_tokens": 60})
    )


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
