"""Each canary on answers that are fine and on answers that are not."""

import pytest

from qwenft_assets.evaluation.canaries import CANARIES, Answer, canary_shares, main_script

ENGLISH = "What does a low-dropout regulator do?"
CHINESE = "用两句话说明逐次逼近型模数转换器（SAR ADC）的工作原理。"


def verdict(name, text, question=ENGLISH, stopped=True):
    return CANARIES[name](question, Answer(text, stopped))


@pytest.mark.parametrize(
    ("name", "text", "passes"),
    [
        pytest.param("says_something", "A regulator.", True, id="words"),
        pytest.param("says_something", "42", True, id="number"),
        pytest.param("says_something", "", False, id="empty"),
        pytest.param("says_something", " ... \n", False, id="dots"),
        pytest.param("leaks_no_template", "The user gets 3.3 V.", True, id="role-inside-a-sentence"),
        pytest.param("leaks_no_template", "Yes.<|im_start|>user\nMore?", False, id="control-token"),
        pytest.param("leaks_no_template", "Yes. <|im", False, id="piece-of-a-token"),
        pytest.param("leaks_no_template", "Yes.\nassistant\nNo.", False, id="role-on-its-line"),
        pytest.param("leaks_no_template", "Supplementary information:\nx", False, id="heading"),
        pytest.param("does_not_loop", "It holds the output. It needs little headroom.", True, id="prose"),
        pytest.param("does_not_loop", "very very very good", True, id="three-times"),
        pytest.param("does_not_loop", "1. one\n2. two\n3. three\n4. four\n5. five", True, id="list"),
        pytest.param("does_not_loop", "Hmm...........", True, id="ellipsis"),
        pytest.param("does_not_loop", "So " + "the output, " * 6, False, id="words-over-and-over"),
        pytest.param("does_not_loop", "a" * 30, False, id="one-letter"),
        pytest.param("does_not_loop", "好" + "这是一个答案。" * 5, False, id="chinese"),
        pytest.param("does_not_loop", "x " + "line one\nline two\n" * 4 + "line", False, id="lines"),
        pytest.param("keeps_the_language", "A regulator of 3.3 V.", True, id="latin"),
        pytest.param("keeps_the_language", "低压差稳压器。", False, id="chinese-to-english"),
        pytest.param("keeps_the_language", "Регулятор напряжения.", False, id="russian-to-english"),
        pytest.param("keeps_the_language", "3.3", True, id="no-letters"),
    ],
)  # fmt: skip
def test_canaries(name, text, passes):
    assert verdict(name, text) is passes


def test_an_answer_that_runs_into_the_limit_does_not_stop():
    assert verdict("stops", "It", stopped=True)
    assert not verdict("stops", "It", stopped=False)


def test_a_question_about_the_template_may_be_answered_with_it():
    asked = "What does <|im_start|> mean?"
    assert verdict("leaks_no_template", "<|im_start|> opens a turn.", asked)


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        pytest.param("SAR ADC 用二分搜索逐位比较 input voltage。", True, id="with-latin-terms"),
        pytest.param("It compares bit by bit.", False, id="english"),
        pytest.param("比較器がビットごとに比べます。", False, id="japanese"),
    ],
)
def test_a_chinese_question_wants_a_chinese_answer(text, passes):
    assert verdict("keeps_the_language", text, CHINESE) is passes


@pytest.mark.parametrize(
    ("text", "script"),
    [
        pytest.param("Größe", "latin", id="latin-with-marks"),
        pytest.param("Ελληνικά", "greek", id="greek"),
        pytest.param("한국어 문장", "hangul", id="hangul"),
        pytest.param("これは日本語の文章です", "kana", id="japanese-with-han"),
        pytest.param("12 % !", None, id="none"),
    ],
)
def test_scripts(text, script):
    assert main_script(text) == script


def test_shares_count_answers():
    good, bad = Answer("A regulator.", True), Answer("", False)
    shares = canary_shares([ENGLISH] * 4, [good, good, good, bad])
    assert (shares["stops"], shares["says_something"], shares["does_not_loop"]) == (0.75, 0.75, 1.0)
    assert canary_shares([], []) == {}
