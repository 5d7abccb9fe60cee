r"""Whole-word keyword matching, on Arrow columns and on single texts, with the same answer.

Substrings are ruinous: `lora` stands in "exploration", `ic` in almost every abstract. Both sides use
RE2, whose `\b` and `\w` are ASCII only: Arrow's own for columns, a `re2.Set` for the keywords of a text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import reduce
from typing import Any, NamedTuple, TypeAlias, cast

import pyarrow as pa
import pyarrow.compute as pc
import re2  # pyright: ignore[reportMissingTypeStubs]

from qwenft_assets.config import KeywordRules
from qwenft_assets.errors import ConfigError

MAX_ALTERNATIVES = 500
MAX_CHARACTERS = 20_000
"""Limits of one pattern in Arrow, which falls from 400,000 rows/s to 3,000 above 1,000 words or 500
phrases (50,000 characters); a long list is cut into several patterns."""
SET_BYTES = 256 * 2**20
"""Most memory that the states of a `re2.Set` may take; a list of 500 keywords takes a few MiB."""

WHITESPACE = " \t\n\v\f\r\u00a0"
r"""What `\s` means, in patterns as well: RE2 alone would leave out the hard space."""
BLANK = f"(?:[{WHITESPACE}]|&nbsp;)+"
"""A space in a phrase: any whitespace, in HTML as well."""

_NOTHING = r"[^\x00-\x{10FFFF}]"
_BLANKS = re.compile(BLANK)
_KEYWORD = re.compile(r"\w(.*\w)?", re.ASCII | re.DOTALL)
_ESCAPE_OR_SET = re.compile(
    r"\\Q.*?(?:\\E|$)|\\.|\[\^?\]?(?:\[:\^?\w+:\]|\\.|[^\]\\])*\]", re.DOTALL
)
_NEIGHBOURS = ("", "a", " ", "aa", "a ", " a", "  ")
"""Every pair of neighbours that a match without any character could stand between."""

_RE2: Any = re2  # ships no types
Column: TypeAlias = "pa.ChunkedArray[Any]"


class _Entry(NamedTuple):
    """What one expression of the `re2.Set` stands for."""

    expression: str
    name: str
    """A keyword as listed, a pattern's name, or a context word in lower case."""
    is_keyword: bool = True
    context: frozenset[str] = frozenset()
    """Where not empty: counts only if one of these stands in the text."""


class KeywordMatcher:
    """Compiled rules of one domain; pickled as its rules."""

    def __init__(self, rules: KeywordRules) -> None:
        """Words and phrases match in any case, acronyms in exactly theirs, patterns as RE2 reads them.

        Raises:
            ConfigError: No keyword at all, one with a symbol at its edge, where a word boundary means
                nothing, an ambiguous word without context, or a pattern that cannot be used.
        """
        if not (rules.words or rules.acronyms or rules.patterns or rules.with_context):
            raise ConfigError("keywords: none given. List a word, acronym or pattern.")
        self._rules = rules
        words = _distinct(rules.words, any_case=True)
        acronyms = _distinct(rules.acronyms)
        certain = [_Entry(_expression(word, any_case=False), word) for word in sorted(acronyms)]
        certain += [_Entry(_expression(word), word) for word in sorted(words)]
        certain += [_Entry(_checked(name, text), name) for name, text in rules.patterns.items()]
        ambiguous = list(_ambiguous(rules.with_context))
        context = sorted(frozenset[str]().union(*(entry.context for entry in ambiguous)))
        near = [_Entry(_expression(word), word, is_keyword=False) for word in context]
        self.certain = tuple(_batches(certain))
        """Arrow patterns; a text with a match is on topic."""
        self.ambiguous = tuple(_batches(ambiguous))
        """Arrow patterns; a text with a match is on topic if the context is there, too."""
        self._entries = (*certain, *ambiguous, *near)
        self._set = _compiled(self._entries)

    def __reduce__(self) -> tuple[type[KeywordMatcher], tuple[KeywordRules]]:
        return KeywordMatcher, (self._rules,)

    def mask(self, column: Column) -> Column:
        """Which texts hold a keyword: bool, null for null."""
        found = _match_any(column, self.certain)
        if not self.ambiguous:
            return found
        # Context is looked up only where it decides.
        undecided: Any = pc.and_(pc.invert(found), _match_any(column, self.ambiguous))
        texts: list[Any] = column.filter(undecided).to_pylist()
        decided = pa.array([bool(self.hits(text)) for text in texts], pa.bool_())
        arrays: list[Any] = [found.combine_chunks(), undecided.combine_chunks()]
        return pa.chunked_array([cast("Any", pc).replace_with_mask(*arrays, decided)])

    def hits(self, text: str) -> list[str]:
        """Every keyword of a text as it is listed, a pattern's by its name, each once, sorted.

        A keyword inside another counts, too.
        """
        numbers: list[int] = self._set.Match(text) or []
        found = [self._entries[number] for number in numbers]
        near = {entry.name for entry in found if not entry.is_keyword}
        return sorted(
            {
                entry.name
                for entry in found
                if entry.is_keyword and (not entry.context or entry.context & near)
            }
        )


def _ambiguous(with_context: Mapping[str, tuple[str, ...]]) -> Iterator[_Entry]:
    for listed, near in with_context.items():
        (word,) = _distinct([listed])
        context = frozenset(_lower(other) for other in _distinct(near)) - {_lower(word)}
        if not context:
            raise ConfigError(
                f"keywords: with_context: {word!r} has no context word but itself. List one, or "
                "make it one of `words`."
            )
        yield _Entry(_expression(word), word, context=context)


def _distinct(keywords: Iterable[str], *, any_case: bool = False) -> list[str]:
    """Keywords on one line each; of those that match the same, the first."""
    listed: dict[str, str] = {}
    for keyword in keywords:
        if not _KEYWORD.fullmatch(keyword):
            raise ConfigError(
                f"keywords: {keyword!r} must begin and end with a letter or digit. Spell it out, "
                "or make it one of `patterns`."
            )
        word = _BLANKS.sub(" ", keyword)
        listed.setdefault(_lower(word) if any_case else word, word)
    return list(listed.values())


def _expression(keyword: str, *, any_case: bool = True) -> str:
    r"""A whole word or phrase; each ASCII letter in both cases, another one as it is.

    Not `(?i:...)`, by which RE2 would take the long s and the Kelvin sign for s and k.
    """

    def one(character: str) -> str:
        if character == " ":
            return BLANK
        if any_case and character.isascii() and character.isalpha():
            return f"[{character.lower()}{character.upper()}]"
        return re.escape(character)

    return rf"\b{''.join(map(one, keyword))}\b"


def _checked(name: str, pattern: str) -> str:
    r"""A pattern in a group of its own, with `\s` spelled out.

    Raises:
        ConfigError: RE2 refuses it, or it matches without any character.
    """
    expression = f"(?:{_ESCAPE_OR_SET.sub(_spelled_out, pattern)})"
    try:
        for text in (pattern, expression):
            pc.match_substring_regex(pa.array([""]), pattern=text)
    except pa.ArrowInvalid as error:
        raise _refused(name, str(error).splitlines()[0]) from error
    compiled = _RE2.compile(expression)
    if any(not match[0] for text in _NEIGHBOURS for match in compiled.finditer(text)):
        raise _refused(name, f"{pattern!r} matches the empty string, so every text")
    return expression


def _spelled_out(token: re.Match[str]) -> str:
    if token[0].startswith("["):
        return re.sub(r"\\.", lambda one: WHITESPACE if one[0] == r"\s" else one[0], token[0])
    return {r"\s": f"[{WHITESPACE}]", r"\S": f"[^{WHITESPACE}]"}.get(token[0], token[0])


def _refused(name: str, reason: str) -> ConfigError:
    return ConfigError(f"keywords: pattern {name!r}: {reason}. Change or drop it.")


def _batches(entries: Iterable[_Entry]) -> Iterator[str]:
    batch: list[str] = []
    characters = 0
    for expression, *_ in entries:
        full = len(batch) == MAX_ALTERNATIVES or characters + len(expression) > MAX_CHARACTERS
        if batch and full:
            yield "|".join(batch)
            batch, characters = [], 0
        batch.append(expression)
        characters += len(expression)
    if batch:
        yield "|".join(batch)


def _compiled(entries: Iterable[_Entry]) -> Any:
    options = _RE2.Options()
    options.max_mem = SET_BYTES
    compiled = _RE2.Set.SearchSet(options)
    for entry in entries:
        compiled.Add(entry.expression)
    compiled.Compile()
    return compiled


def _lower(keyword: str) -> str:
    # ASCII only, as in `_expression`: "É".lower() would name a letter that is not matched.
    return "".join(c.lower() if c.isascii() else c for c in keyword)


def _match_any(column: Column, patterns: Iterable[str]) -> Column:
    masks: list[Any] = [
        pc.match_substring_regex(column, pattern=text) for text in patterns or (_NOTHING,)
    ]
    return reduce(pc.or_, masks)
