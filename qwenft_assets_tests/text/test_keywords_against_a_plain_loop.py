"""Mask and hits are those of a plain loop over the rules, word by word, whatever the text."""

import re

from hypothesis import example, given, settings
from hypothesis import strategies as st

from qwenft_assets.config import KeywordRules
from qwenft_assets.errors import ConfigError
from qwenft_assets.text.keywords import BLANK, WHITESPACE, KeywordMatcher
from qwenft_assets_tests.text.keyword_rules import RULES, mask_of


def stands(text, word, *, any_case=True):
    """Whether a word or phrase stands in a text as a whole, by Python's `re`."""
    letters = [
        f"[{c.lower()}{c.upper()}]" if any_case and c.isascii() and c.isalpha() else re.escape(c)
        for c in word
    ]
    phrase = "".join(letters).replace(re.escape(" "), BLANK)
    return re.search(rf"\b{phrase}\b", text, re.ASCII) is not None


def hits_by_loop(text):
    found = {word for word in RULES.words if stands(text, word)}
    found |= {word for word in RULES.acronyms if stands(text, word, any_case=False)}
    for word, context in RULES.with_context.items():
        others = (other for other in context if other.lower() != word.lower())
        if stands(text, word) and any(stands(text, other) for other in others):
            found.add(word)
    for name, pattern in RULES.patterns.items():
        spelled = pattern.replace(r"[\s-]", f"[{WHITESPACE}-]").replace(r"\s", WHITESPACE)
        if re.search(spelled, text, re.ASCII):
            found.add(name)
    return sorted(found)


def test_long_list_equals_a_naive_search():
    words = tuple(
        f"{a}{b} {c}{a}" for a in "abcdefghijk" for b in "lmnopqrstuv" for c in "wxyz1234567"
    )
    assert len(words) == 1331
    matcher = KeywordMatcher(KeywordRules(words=words[:1300], acronyms=("IC",)))
    assert len(matcher.certain) >= 3
    texts = [f"so {word[:first]}{word[first:].upper()} it is" for word in words for first in (2, 4)]
    texts += ["al  wa", "al\nwa", "alwa", "al wax", "xal wa", "IC", "ic", ""]
    naive = [
        "IC" in text.split()
        or any(f" {w} " in f" {' '.join(text.lower().split())} " for w in words[:1300])
        for text in texts
    ]
    assert mask_of(matcher, *texts) == naive
    assert [bool(matcher.hits(text)) for text in texts] == naive


KEYWORDS = ["lora", "LoRA", "IC", "ic", "GAN", "language", "model", "loss function", "k-means"]
KEYWORDS += ["c++", "Op", "amp", "74", "LS00", "gate", "Drain", "logic", "oxide"]
KEYWORDS += ["power transformer"]
BETWEEN = [" ", "-", "_", "\n", ".", "0", "s", "é", "微", "ſ", "\u212a", "\u00a0", "\u2028", "\0"]
BETWEEN += ["\u0301", "\v", "\t\r\n", "&nbsp;", "#", "+", "\U0001f600", "İ"]
TEXTS = st.lists(st.sampled_from(KEYWORDS + BETWEEN), max_size=12).map("".join) | st.text(
    max_size=30
)


@given(st.lists(TEXTS, max_size=20))
@settings(deadline=None, max_examples=300)
@example(["lo\u017fs function", "\u212a-means", "İC", "ıc", "op\vamp", "#\u017f#", "#\n#", "# #"])
@example(["logic gate", "log\u0131c gate", "gate\u0301 logic", "gate&nbsp;oxide", "gate _logic"])
def test_mask_and_hits_are_those_of_a_plain_loop(texts):
    matcher = KeywordMatcher(RULES)
    expected = [hits_by_loop(text) for text in texts]
    assert [matcher.hits(text) for text in texts] == expected
    assert mask_of(matcher, *texts) == [bool(hits) for hits in expected]


PIECES = [*"aksKS19+.|é-^$", r"\b", r"\w", r"\s", r"\S", r"\d", r"\+", r"\pL", r"\Qs\E"]
PIECES += ["[a-k]", "[^s]", r"[\s-]", "[^-]", "[[:alpha:]]", "(?i)", "(?:", ")"]
PATTERNS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map("".join)


@given(PATTERNS, st.lists(st.text("aAkKsSzZ19ſ\u212aéÉ \n\v\u00a0+-.^", max_size=8), max_size=20))
@settings(deadline=None, max_examples=500)
@example("(?i)[^s]k", ["\u017fk", "sk", "a\u212a", "aK"])
@example(r"(?i)[\s^-]k", ["^K", "-k", "\vk", "ak"])
def test_mask_and_hits_read_a_pattern_alike(pattern, texts):
    try:
        matcher = KeywordMatcher(KeywordRules(patterns={"x": pattern}))
    except ConfigError:
        return
    assert mask_of(matcher, *texts) == [matcher.hits(text) == ["x"] for text in texts]
