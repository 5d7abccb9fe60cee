"""Whole words only, and the same answer from Arrow as from Python."""

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qwenft_assets.config import KeywordRules, SourceName
from qwenft_assets.errors import ConfigError
from qwenft_assets.sources.stackexchange import shipped_keywords
from qwenft_assets.text.keywords import MAX_KEYWORDS, KeywordMatcher, compile_rules

RULES = KeywordRules(
    words=("language", "language model", "loss function", "k-means", "q-learning", "lora"),
    acronyms=("IC", "GAN", "ReLU", "mRNA"),
)
DOMAINS: tuple[SourceName, ...] = (
    "stackexchange_ai",
    "stackexchange_ic",
    "stackexchange_biomed",
)


def mask_of(matcher: KeywordMatcher, *texts: str | None) -> list[bool | None]:
    return matcher.mask(pa.chunked_array([pa.array(texts, pa.string())])).to_pylist()


@pytest.mark.parametrize(
    ("text", "keyword"),
    [
        pytest.param("I train a LORA now", "LORA", id="word-in-any-case"),
        pytest.param("an exploration of ideas", None, id="not-inside-a-word"),
        pytest.param("loras", None, id="not-a-plural-it-does-not-list"),
        pytest.param("lora_rank", None, id="underscore-is-part-of-a-word"),
        pytest.param("lora-rank, (lora)", "lora", id="hyphen-and-brackets-end-a-word"),
        pytest.param("IC", "IC", id="acronym-alone"),
        pytest.param("an ic, an Ic", None, id="acronym-in-another-case"),
        pytest.param("academIC topics", None, id="acronym-inside-a-word"),
        pytest.param("gan or GAN", "GAN", id="acronym-skips-the-wrong-case"),
        pytest.param("relu ReLU", "ReLU", id="mixed-case-acronym"),
        pytest.param("a Language Model here", "Language Model", id="longest-phrase-first"),
        pytest.param("language\nmodel", "language", id="phrase-needs-its-space"),
        pytest.param("K-Means and kmeans", "K-Means", id="hyphen-in-a-keyword"),
        pytest.param("使用lora微调", "lora", id="boundaries-are-ascii"),
        pytest.param("lo\u017f\u017f function, \u212a-means", None, id="look-alike-letters"),
        pytest.param("", None, id="empty"),
    ],
)
def test_whole_words_are_found(text, keyword):
    matcher = compile_rules(RULES)
    assert matcher.first_keyword(text) == keyword
    assert mask_of(matcher, text) == [keyword is not None]


def test_null_stays_null():
    assert mask_of(compile_rules(RULES), None, "lora", "x") == [None, True, False]


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
    assert compile_rules(rules).first_keyword("a lora, a LoRA") == "lora"


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
        compile_rules(KeywordRules(words=("lora", keyword)))
    assert repr(keyword) in str(raised.value)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param((), id="none"),
        pytest.param(tuple(f"word{n}" for n in range(MAX_KEYWORDS + 1)), id="too-many"),
    ],
)
def test_no_keyword_and_too_many_are_refused(words):
    with pytest.raises(ConfigError, match=rf"keywords: {len(words)} given, 1 to 500 needed"):
        compile_rules(KeywordRules(words=words))


def test_symbols_inside_a_keyword_mean_themselves():
    matcher = compile_rules(KeywordRules(words=("a.b", "x|y", "p(q)r", "s [t", "u^v")))
    assert mask_of(matcher, "a.b", "axb", "x|y", "x", "p(q)r", "pqr", "s [t", "u^v", "uv") == [
        True, False, True, False, True, False, True, True, False,
    ]  # fmt: skip


KEYWORDS = ["lora", "LoRA", "IC", "ic", "GAN", "language", "model", "loss function", "k-means"]
BETWEEN = [" ", "-", "_", "\n", ".", "0", "s", "é", "微", "ſ", "\u212a", "\u00a0", "\u2028", "\0"]
FRAGMENTS = st.sampled_from(KEYWORDS + BETWEEN)


@given(st.lists(st.lists(FRAGMENTS, max_size=8).map("".join) | st.text(max_size=30), max_size=20))
@settings(deadline=None, max_examples=200)
@example(["lo\u017fs function", "\u212a-means", "İC", "ıc"])
def test_arrow_and_python_find_the_same_texts(texts):
    matcher = compile_rules(RULES)
    expected = [matcher.first_keyword(text) is not None for text in texts]
    assert mask_of(matcher, *texts) == expected


@pytest.mark.parametrize("source", DOMAINS)
def test_shipped_list_compiles_and_repeats_nothing(source):
    rules = shipped_keywords(source)
    matcher = compile_rules(rules)
    lowered = [word.lower() for word in rules.words]
    assert len(lowered) == len(set(lowered)) >= 40
    assert len(rules.acronyms) == len(set(rules.acronyms)) >= 5
    for keyword in (*rules.words, *rules.acronyms):
        assert matcher.first_keyword(f"about {keyword} here") is not None


def test_acronym_that_a_word_already_covers_is_not_listed():
    for source in DOMAINS:
        rules = shipped_keywords(source)
        assert {word.lower() for word in rules.words}.isdisjoint(
            acronym.lower() for acronym in rules.acronyms
        )
