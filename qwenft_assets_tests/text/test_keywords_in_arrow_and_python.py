"""Arrow's mask and Python's search find the same keywords, whatever the text and the pattern."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from qwenft_assets.config import KeywordRules
from qwenft_assets.errors import ConfigError
from qwenft_assets.text.keywords import compile_rules
from qwenft_assets_tests.text.keyword_rules import RULES, mask_of


def test_long_list_equals_a_naive_search():
    words = tuple(
        f"{a}{b} {c}{a}" for a in "abcdefghijk" for b in "lmnopqrstuv" for c in "wxyz1234567"
    )
    assert len(words) == 1331
    matcher = compile_rules(KeywordRules(words=words[:1300], acronyms=("IC",)))
    assert len(matcher.unambiguous) >= 3
    texts = [f"so {word[:first]}{word[first:].upper()} it is" for word in words for first in (2, 4)]
    texts += ["al  wa", "al\nwa", "alwa", "al wax", "xal wa", "IC", "ic", ""]
    naive = [
        "IC" in text.split()
        or any(f" {w} " in f" {' '.join(text.lower().split())} " for w in words[:1300])
        for text in texts
    ]
    assert mask_of(matcher, *texts) == naive
    assert [matcher.first_keyword(text) is not None for text in texts] == naive


KEYWORDS = ["lora", "LoRA", "IC", "ic", "GAN", "language", "model", "loss function", "k-means"]
KEYWORDS += [
    "c++",
    "Op",
    "amp",
    "74",
    "LS00",
    "gate",
    "Drain",
    "logic",
    "oxide",
    "power transformer",
]
BETWEEN = [" ", "-", "_", "\n", ".", "0", "s", "é", "微", "ſ", "\u212a", "\u00a0", "\u2028", "\0"]
BETWEEN += ["\u0301", "\v", "\t\r\n", "&nbsp;", "#", "+", "\U0001f600", "İ"]
TEXTS = st.lists(st.sampled_from(KEYWORDS + BETWEEN), max_size=12).map("".join) | st.text(
    max_size=30
)


@given(st.lists(TEXTS, max_size=20))
@settings(deadline=None, max_examples=300)
@example(["lo\u017fs function", "\u212a-means", "İC", "ıc", "op\vamp", "#\u017f#", "#\n#", "# #"])
@example(["logic gate", "log\u0131c gate", "gate\u0301 logic", "gate&nbsp;oxide", "gate _logic"])
def test_arrow_and_python_find_the_same_texts(texts):
    matcher = compile_rules(RULES)
    expected = [matcher.first_keyword(text) is not None for text in texts]
    assert mask_of(matcher, *texts) == expected
    assert [matcher.keyword_of(text) is not None for text in texts] == expected
    assert [bool(matcher.hits(text)) for text in texts] == expected
    for text in texts:
        for keyword in matcher.hits(text):
            assert len(matcher.context(text, keyword).splitlines()) <= 1 or "\u2028" in text


PIECES = st.sampled_from(
    [
        *"aksKS19+.|é-",
        r"\b",
        r"\w",
        r"\s",
        r"\S",
        r"\d",
        r"\+",
        "[a-k]",
        "[^s]",
        r"[\s-]",
        "[^-]",
        "(?:",
        ")",
    ]
)
PATTERNS = st.tuples(st.sampled_from(["", "(?i)"]), st.lists(PIECES, min_size=1, max_size=6)).map(
    lambda parts: parts[0] + "".join(parts[1])
)


@given(PATTERNS, st.lists(st.text("aAkKsSzZ19ſ\u212aéÉ \n\v\u00a0+-.^", max_size=8), max_size=20))
@settings(deadline=None, max_examples=500)
@example("(?i)[^s]k", ["\u017fk", "sk", "a\u212a", "aK"])
@example(r"(?i)[\s^-]k", ["^K", "-k", "\vk", "ak"])
def test_arrow_and_python_read_a_pattern_alike(pattern, texts):
    try:
        matcher = compile_rules(KeywordRules(patterns={"x": pattern}))
    except ConfigError:
        return
    assert mask_of(matcher, *texts) == [matcher.keyword_of(text) == "x" for text in texts]
