"""Whole words only; rules that cannot be used are refused by name."""

import copy
import re

import pyarrow as pa
import pytest
from pydantic import ValidationError

from qwenft_assets.config import KeywordRules
from qwenft_assets.errors import ConfigError
from qwenft_assets.text.keywords import KeywordMatcher
from qwenft_assets_tests.text.keyword_rules import RULES, mask_of


@pytest.mark.parametrize(
    ("text", "keyword"),
    [
        pytest.param("I train a LORA now", "lora", id="word-in-any-case"),
        pytest.param("an exploration of ideas", None, id="not-inside-a-word"),
        pytest.param("loras", None, id="not-a-plural-it-does-not-list"),
        pytest.param("lora_rank", None, id="underscore-is-part-of-a-word"),
        pytest.param("lora-rank, (lora)", "lora", id="hyphen-and-brackets-end-a-word"),
        pytest.param("IC", "IC", id="acronym-alone"),
        pytest.param("an ic, an Ic", None, id="acronym-in-another-case"),
        pytest.param("academIC topics", None, id="acronym-inside-a-word"),
        pytest.param("gan or GAN", "GAN", id="acronym-skips-the-wrong-case"),
        pytest.param("relu ReLU", "ReLU", id="mixed-case-acronym"),
        pytest.param(
            "a Language Model here", ["language", "language model"], id="phrase-and-the-word-in-it"
        ),
        pytest.param(
            "language \n\t model", ["language", "language model"], id="phrase-over-a-line-break"
        ),
        pytest.param(
            "language\u00a0model", ["language", "language model"], id="phrase-with-a-hard-space"
        ),
        pytest.param(
            "language&nbsp;model", ["language", "language model"], id="phrase-with-its-entity"
        ),
        pytest.param("language-model", "language", id="phrase-needs-its-space"),
        pytest.param("my C++ code", "C++", id="pattern-without-boundaries-by-its-name"),
        pytest.param("two Op-Amps", "op-amp", id="pattern-in-any-case"),
        pytest.param("74ls00 or 74LS00", "74xx", id="pattern-in-exact-case"),
        pytest.param("a gate", None, id="ambiguous-word-alone"),
        pytest.param("A Gate of LOGIC", "gate", id="ambiguous-word-with-context"),
        pytest.param("logical gates", None, id="context-is-a-whole-word"),
        pytest.param("logic", None, id="context-alone"),
        pytest.param("logic " + "x" * 5000 + " drain", "drain", id="context-far-away"),
        pytest.param("the gate\noxide", "gate", id="context-around-the-word"),
        pytest.param("drain, lora, logic", ["drain", "lora"], id="several-kinds"),
        pytest.param("K-Means and kmeans", "k-means", id="hyphen-in-a-keyword"),
        pytest.param("使用lora微调", "lora", id="boundaries-are-ascii"),
        pytest.param("lo\u017f\u017f function, \u212a-means", None, id="look-alike-letters"),
        pytest.param("", None, id="empty"),
    ],
)
def test_whole_words_are_found(text, keyword):
    matcher = KeywordMatcher(RULES)
    assert matcher.hits(text) == ([keyword] if isinstance(keyword, str) else keyword or [])
    assert mask_of(matcher, text) == [keyword is not None]


def test_null_stays_null():
    assert mask_of(KeywordMatcher(RULES), None, "lora", "x") == [None, True, False]


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param(KeywordRules(words=("lora",)), id="words-only"),
        pytest.param(KeywordRules(acronyms=("lora",)), id="acronyms-only"),
        pytest.param(KeywordRules(words=("lora",), acronyms=("lora",)), id="in-both"),
        pytest.param(KeywordRules(words=("lora", "LoRA", "lora")), id="given-twice"),
    ],
)
def test_either_kind_of_keyword_is_enough(rules):
    assert KeywordMatcher(rules).hits("a lora, a LoRA") == ["lora"]


@pytest.mark.parametrize(
    "keyword",
    [
        pytest.param("c++", id="symbol-at-the-end"),
        pytest.param(".net", id="symbol-at-the-start"),
        pytest.param(" lora", id="space-at-the-start"),
        pytest.param("", id="empty"),
        pytest.param("芯片", id="not-ascii"),
    ],
)
def test_keyword_with_a_symbol_at_its_edge_is_refused_by_name(keyword):
    with pytest.raises(ConfigError, match="must begin and end with a letter or digit") as raised:
        KeywordMatcher(KeywordRules(words=("lora", keyword)))
    assert repr(keyword) in str(raised.value)


def test_no_keyword_is_refused():
    with pytest.raises(ConfigError, match="keywords: none given"):
        KeywordMatcher(KeywordRules())


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        pytest.param("", "matches the empty string", id="empty"),
        pytest.param("(?:lora)?", "matches the empty string", id="optional"),
        pytest.param(r"\b", "matches the empty string", id="boundary-only"),
        pytest.param("x|", "matches the empty string", id="empty-alternative"),
        pytest.param("(?i)", "matches the empty string", id="flag-only"),
        pytest.param("(lora", "missing )", id="open-bracket"),
        pytest.param("a)|(b", "unexpected )", id="bracket-of-the-group-around-it"),
        pytest.param(r"\Qa", "missing )", id="quoting-without-an-end"),
        pytest.param("^", "matches the empty string", id="start-of-text-alone"),
        pytest.param("a++", "bad repetition operator", id="possessive-in-python-only"),
        pytest.param("*a", "no argument for repetition", id="nothing-to-repeat"),
        pytest.param("a{2000}", "invalid repetition size", id="too-many-for-re2"),
        pytest.param("a(?=b)", "invalid perl operator", id="look-ahead"),
        pytest.param(r"(a)\1", "invalid escape sequence", id="back-reference"),
        pytest.param("a\\", "trailing", id="backslash-at-the-end"),
    ],
)
def test_pattern_that_cannot_be_used_is_refused_by_name(pattern, reason):
    with pytest.raises(ConfigError, match=re.escape(reason)) as raised:
        KeywordMatcher(KeywordRules(words=("x",), patterns={"my pattern": pattern}))
    assert str(raised.value).startswith("keywords: pattern 'my pattern': ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("context", [(), ("gate",), ("Gate", "GATE")], ids=str)
def test_ambiguous_word_without_context_is_refused_by_name(context):
    with pytest.raises(ConfigError, match="with_context: 'gate' has no context word"):
        KeywordMatcher(KeywordRules(with_context={"gate": context}))


def test_kind_of_keyword_that_is_not_known_is_refused():
    with pytest.raises(ValidationError, match="Extra inputs"):
        KeywordRules.model_validate({"words": ["lora"], "phrases": ["lora"]})


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param(KeywordRules(patterns={"C++": r"[Cc]\+\+"}), id="pattern"),
        pytest.param(KeywordRules(with_context={"c": ("gcc", "code")}), id="with-context"),
    ],
)
def test_one_kind_alone_is_enough(rules):
    texts = ("C++ code", "cc", None, "c by gcc", "")
    found = [text and bool(KeywordMatcher(rules).hits(text)) for text in texts]
    assert mask_of(KeywordMatcher(rules), *texts) == [found[0], False, None, found[3], False]
    assert found[0] is True


def test_mask_keeps_order_and_nulls_over_chunks():
    chunks = [
        ["drain", None, "lora"],
        [],
        ["logic drain", "x"],
        [None],
        ["C++", "gate", "logic gate"],
    ]
    column = pa.chunked_array([pa.array(chunk, pa.string()) for chunk in chunks])
    expected = [False, None, True, True, False, None, True, False, True]
    assert KeywordMatcher(RULES).mask(column).to_pylist() == expected
    assert KeywordMatcher(RULES).mask(column.slice(2, 3)).to_pylist() == expected[2:5]
    assert KeywordMatcher(RULES).mask(pa.chunked_array([], pa.string())).to_pylist() == []


def test_hits_are_distinct_and_as_listed():
    matcher = KeywordMatcher(RULES)
    text = "LANGUAGE\nMODEL, language, a GAN, c++ C++, Drain near logic, lora_rank, 74LS00"
    assert matcher.hits(text) == ["74xx", "C++", "GAN", "drain", "language", "language model"]
    assert matcher.hits("") == []


def test_matcher_is_pickled_as_its_rules():
    matcher = copy.deepcopy(KeywordMatcher(RULES))  # through `__reduce__`, as pickling is
    assert matcher.hits("a GAN") == ["GAN"]


def test_symbols_inside_a_keyword_mean_themselves():
    matcher = KeywordMatcher(KeywordRules(words=("a.b", "x|y", "p(q)r", "s [t", "u^v")))
    assert mask_of(matcher, "a.b", "axb", "x|y", "x", "p(q)r", "pqr", "s [t", "u^v", "uv") == [
        True, False, True, False, True, False, True, True, False,
    ]  # fmt: skip


def test_white_space_and_its_opposite_in_a_pattern_mean_themselves():
    spaced = KeywordRules(patterns={"spaced": r"rail\sto\srail"})
    joined = KeywordRules(patterns={"joined": r"rail\Sto\Srail"})
    either = KeywordRules(patterns={"either": r"rail[\s-]to[^\S]rail"})
    texts = ("a rail to\u00a0rail amplifier", "a rail-to-rail amplifier")
    assert mask_of(KeywordMatcher(spaced), *texts) == [True, False]
    assert mask_of(KeywordMatcher(joined), *texts) == [False, True]
    assert mask_of(KeywordMatcher(either), "rail\u00a0to rail", "rail\\to rail") == [True, False]


def test_acronyms_of_other_case_are_others_and_words_are_not():
    acronyms = KeywordMatcher(KeywordRules(acronyms=("IC", "Ic")))
    assert [acronyms.hits(f"an {word} here") for word in ("IC", "Ic", "ic")] == [["IC"], ["Ic"], []]
    words = KeywordMatcher(KeywordRules(words=("LoRA", "lora", "Lora")))
    assert words.hits("one lora, another LoRA") == ["LoRA"]
