r"""Whole-word keyword matching, on Arrow columns and on single texts, with the same answer.

Substrings are ruinous: `lora` stands in "exploration", `ic` in almost every abstract. RE2's `\b` is
ASCII-only, so Python's side is held to ASCII as well. Columns go through RE2; a single text is cut
into words that are looked up, because `re` tries every keyword at every position.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, reduce
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Any, NamedTuple, TypeAlias, cast

import pyarrow as pa
import pyarrow.compute as pc

from qwenft_assets.config import KeywordRules
from qwenft_assets.errors import ConfigError
from qwenft_assets.text.pattern_dialect import WHITESPACE, either_case, translate

MAX_ALTERNATIVES = 500
MAX_CHARACTERS = 20_000
"""Of one RE2 pattern. It falls from 400,000 rows/s to 3,000 above 1,000 words or 500 phrases
(50,000 characters); a long list is cut into several patterns."""

BLANK = f"(?:[{WHITESPACE}]|&nbsp;)+"
"""In a phrase: any whitespace, in HTML as well."""

_NOTHING = r"[^\x00-\x{10FFFF}]"
_BLANKS = re.compile(BLANK)
_WORD = re.compile(r"\w+", re.ASCII)
_KEYWORD = re.compile(r"\w(.*\w)?", re.ASCII | re.DOTALL)


class _WordsApart(dict[int, str | int]):
    r"""For `str.translate`: ASCII words in lower case, a blank for every other character.

    Words are those of `\w`, positions stay, and it takes half the time of finding them by `re`.
    """

    def __missing__(self, character: int) -> str:
        return " "


_WORDS_APART = _WordsApart({ord(c): ord(c) for c in f"{ascii_lowercase}{digits}_"})
_WORDS_APART.update({ord(c): ord(c.lower()) for c in ascii_uppercase})

Column: TypeAlias = "pa.ChunkedArray[Any]"


class _Phrase(NamedTuple):
    """A whole word or phrase, filed under its first word."""

    source: str
    """Of its regular expression: compiled when its first word is met, as most of a list never is."""
    keyword: str
    """As listed; of a context word, in lower case."""
    is_keyword: bool
    context: frozenset[str] = frozenset()
    """Where not empty: counts only if one of these stands in the text."""


class _Hit(NamedTuple):
    """A keyword where it stands in a text; of hits that start together, the longest is first."""

    start: int
    minus_end: int
    keyword: str


@dataclass(frozen=True)
class KeywordMatcher:
    """Compiled rules of one domain."""

    unambiguous: tuple[str, ...]
    """RE2 patterns; a text with a match is on topic."""
    ambiguous: tuple[str, ...]
    """RE2 patterns of all words that need context."""
    with_context: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
    """RE2 patterns of some of these words and of their context: on topic where both match."""
    phrases: Mapping[str, tuple[_Phrase, ...]]
    patterns: Mapping[str, re.Pattern[str]]

    def mask(self, column: Column) -> Column:
        """Which texts hold a keyword: bool, null for null."""
        found = _match_any(column, self.unambiguous)
        if not self.ambiguous:
            return found
        # Context is looked up only where it decides: it takes two passes an entry.
        undecided: Any = pc.invert(found)
        rest: Column = column.filter(undecided)
        possible = _match_any(rest, self.ambiguous)
        candidates: Column = rest.filter(possible)
        counted: Any = reduce(
            pc.or_,
            (
                pc.and_(_match_any(candidates, words), _match_any(candidates, context))
                for words, context in self.with_context
            ),
        )
        return _put(found, undecided, _put(possible, possible, counted))

    def keyword_of(self, text: str) -> str | None:
        """The first keyword of a text as it is listed, a pattern's by its name; None without."""
        hits = self._hits(text)
        return hits[0].keyword if hits else None

    def first_keyword(self, text: str) -> str | None:
        """The first keyword of a text as it stands there, a pattern's by its name; None without."""
        hits = self._hits(text)
        if not hits or hits[0].keyword in self.patterns:
            return hits[0].keyword if hits else None
        return _one_line(text[hits[0].start : -hits[0].minus_end])

    def hits(self, text: str) -> list[str]:
        """Every keyword of a text as it is listed, each once, sorted; also one inside another."""
        return sorted({hit.keyword for hit in self._hits(text)})

    def context(self, text: str, keyword: str, characters: int = 60) -> str:
        """The first place of one of `hits` with up to `characters` on either side, on one line.

        Raises:
            ValueError: The keyword is not among the text's hits.
        """
        for hit in self._hits(text):
            if hit.keyword == keyword:
                start, end = max(0, hit.start - characters), -hit.minus_end + characters
                before, after = "…" if start else "", "…" if end < len(text) else ""
                return f"{before}{_one_line(text[start:end]).strip()}{after}"
        raise ValueError(f"keyword {keyword!r} does not stand in the text")

    def _hits(self, text: str) -> list[_Hit]:
        found = list(self._phrases_in(text))
        in_text = {phrase.keyword for _, _, phrase in found if not phrase.is_keyword}
        hits = [
            _Hit(start, -end, phrase.keyword)
            for start, end, phrase in found
            if phrase.is_keyword and (not phrase.context or phrase.context & in_text)
        ]
        for name, expression in self.patterns.items():
            hits += [_Hit(m.start(), -m.end(), name) for m in expression.finditer(text)]
        return sorted(hits)

    def _phrases_in(self, text: str) -> Iterator[tuple[int, int, _Phrase]]:
        words = text.translate(_WORDS_APART)
        # Most words of a text begin no keyword: looked up as a set, the loops are rarely entered.
        for word in self.phrases.keys() & words.split():
            start = words.find(word)
            while start >= 0:
                for phrase in self.phrases[word]:
                    if match := _compiled(phrase.source).match(text, start):
                        yield *match.span(), phrase
                start = words.find(word, start + 1)


def compile_rules(rules: KeywordRules) -> KeywordMatcher:
    """Words and phrases in any case, acronyms in exactly theirs, patterns as they are written.

    Raises:
        ConfigError: No keyword at all, one with a symbol at its edge, where a word boundary means
            nothing, an ambiguous word without context, or a pattern that cannot be used.
    """
    if not (rules.words or rules.acronyms or rules.patterns or rules.with_context):
        raise ConfigError("keywords: none given. List a word, acronym or pattern.")
    words = _distinct(rules.words, any_case=True)
    acronyms = _distinct(rules.acronyms)
    groups = _groups(rules.with_context)
    patterns = {name: translate(name, text) for name, text in rules.patterns.items()}
    phrases = [_Phrase(_bounded(word), word, True) for word in words]
    phrases += [_Phrase(_bounded(word, any_case=False), word, True) for word in acronyms]
    for context, ambiguous in groups.items():
        phrases += [_Phrase(_bounded(word), word, True, context) for word in ambiguous]
    for word in frozenset[str]().union(*groups):
        phrases.append(_Phrase(_bounded(word), word, False))
    by_first_word: dict[str, list[_Phrase]] = {}
    for phrase in phrases:
        by_first_word.setdefault(_WORD.findall(phrase.keyword)[0].lower(), []).append(phrase)
    return KeywordMatcher(
        unambiguous=_re2_patterns(words, acronyms, patterns.values()),
        ambiguous=_re2_patterns(_distinct(rules.with_context)),
        with_context=tuple((_re2_patterns(of), _re2_patterns(near)) for near, of in groups.items()),
        phrases={first: tuple(filed) for first, filed in by_first_word.items()},
        patterns={name: re.compile(text, re.ASCII) for name, text in patterns.items()},
    )


def _distinct(keywords: Iterable[str], *, any_case: bool = False) -> list[str]:
    """Keywords on one line each; of those that match the same, the first."""
    listed: dict[str, str] = {}
    for keyword in keywords:
        if not _KEYWORD.fullmatch(keyword):
            raise ConfigError(
                f"keywords: {keyword!r} must begin and end with a letter or digit. Spell it out, "
                "or make it one of `patterns`."
            )
        word = _one_line(keyword)
        listed.setdefault(_lower(word) if any_case else word, word)
    return list(listed.values())


def _groups(with_context: Mapping[str, tuple[str, ...]]) -> dict[frozenset[str], list[str]]:
    """Ambiguous words by their context in lower case; most lists are shared by several words."""
    groups: dict[frozenset[str], list[str]] = {}
    for listed, near in with_context.items():
        (word,) = _distinct([listed])
        context = frozenset(_lower(other) for other in _distinct(near))
        if not context - {_lower(word)}:
            raise ConfigError(
                f"keywords: with_context: {word!r} has no context word but itself. List one, or "
                "make it one of `words`."
            )
        groups.setdefault(context - {_lower(word)}, []).append(word)
    return groups


def _re2_patterns(
    words: Iterable[str], acronyms: Iterable[str] = (), patterns: Iterable[str] = ()
) -> tuple[str, ...]:
    alternatives = [_source(word, any_case=False) for word in sorted(acronyms)]
    alternatives += [_source(word) for word in sorted(words)]
    batches = [rf"\b(?:{'|'.join(batch)})\b" for batch in _batches(alternatives)]
    batches += ["|".join(batch) for batch in _batches([f"(?:{text})" for text in patterns])]
    # A pattern is a pass over the column: the usual two become one.
    if len(batches) > 1 and len(batches[-2]) + len(batches[-1]) < MAX_CHARACTERS:
        batches[-2:] = [f"{batches[-2]}|{batches[-1]}"]
    return tuple(batches)


def _batches(alternatives: list[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for alternative in alternatives:
        full = len(batch) == MAX_ALTERNATIVES or characters + len(alternative) > MAX_CHARACTERS
        if batch and full:
            yield batch
            batch, characters = [], 0
        batch.append(alternative)
        characters += len(alternative)
    if batch:
        yield batch


def _source(keyword: str, *, any_case: bool = True) -> str:
    return "".join(
        BLANK if character == " " else either_case(character) if any_case else re.escape(character)
        for character in keyword
    )


def _bounded(keyword: str, *, any_case: bool = True) -> str:
    return rf"\b{_source(keyword, any_case=any_case)}\b"


@cache
def _compiled(source: str) -> re.Pattern[str]:
    return re.compile(source, re.ASCII)


def _lower(keyword: str) -> str:
    # ASCII only, as `either_case`: "É".lower() would name a letter that is not matched.
    return "".join(c.lower() if c.isascii() else c for c in keyword)


def _one_line(text: str) -> str:
    return _BLANKS.sub(" ", text)


def _match_any(column: Column, patterns: Iterable[str]) -> Column:
    masks: list[Any] = [
        pc.match_substring_regex(column, pattern=text) for text in patterns or (_NOTHING,)
    ]
    return reduce(pc.or_, masks)


def _put(values: Column, where: Column, replacements: Column) -> Column:
    """Bool `values`, with `replacements` in turn `where` that is true."""
    arrays = [mask.combine_chunks() for mask in (values, where, replacements)]
    return pa.chunked_array([cast("Any", pc).replace_with_mask(*arrays)])
