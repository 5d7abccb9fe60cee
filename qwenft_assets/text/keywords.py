r"""Whole-word keyword matching, on Arrow columns and on single texts, with the same answer.

Substrings are ruinous: `lora` stands in "exploration", `ic` in almost every abstract. RE2's `\b` is
ASCII-only, so Python's `re` is held to ASCII as well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from qwenft_assets.config import KeywordRules
from qwenft_assets.errors import ConfigError

MAX_KEYWORDS = 500
"""RE2 falls from 140,000 rows/s to a few hundred somewhere above 1,000 alternatives."""


@dataclass(frozen=True)
class KeywordMatcher:
    """Compiled rules of one domain."""

    pattern: str
    """In RE2 syntax, which here is also Python's."""

    def mask(self, column: pa.ChunkedArray[Any]) -> pa.ChunkedArray[Any]:
        """Which texts hold a keyword: bool, null for null."""
        matched: Any = pc.match_substring_regex(column, pattern=self.pattern)
        return matched

    def first_keyword(self, text: str) -> str | None:
        """The first keyword of a text as it stands there, None without one."""
        match = re.search(self.pattern, text, re.ASCII)
        return match[0] if match else None


def compile_rules(rules: KeywordRules) -> KeywordMatcher:
    """Words and phrases in any case, acronyms in exactly theirs, all as whole words.

    Raises:
        ConfigError: No keyword at all, more than MAX_KEYWORDS, or one with a symbol at its edge,
            where a word boundary means nothing.
    """
    count = len(rules.words) + len(rules.acronyms)
    if not 0 < count <= MAX_KEYWORDS:
        raise ConfigError(f"keywords: {count} given, 1 to {MAX_KEYWORDS} needed. Change the list.")
    for keyword in (*rules.words, *rules.acronyms):
        if not re.fullmatch(r"\w(.*\w)?", keyword, re.ASCII):
            raise ConfigError(
                f"keywords: {keyword!r} must begin and end with a letter or digit. Spell it out."
            )
    alternatives: list[str] = []
    if rules.acronyms:
        alternatives.append(_any_of(rules.acronyms))
    if rules.words:
        alternatives.append(_any_of(rules.words, any_case=True))
    return KeywordMatcher(rf"\b(?:{'|'.join(alternatives)})\b")


def _any_of(keywords: tuple[str, ...], *, any_case: bool = False) -> str:
    # Longest first: of "language model" and "language", the more telling one is reported.
    ordered = sorted(set(keywords), key=lambda keyword: (-len(keyword), keyword))
    return "|".join("".join(_character(c, any_case) for c in keyword) for keyword in ordered)


def _character(character: str, any_case: bool) -> str:
    # Spelled out, not (?i:...): RE2 would take the long s and the Kelvin sign for s and k, `re` not.
    if any_case and character.isascii() and character.isalpha():
        return f"[{character.lower()}{character.upper()}]"
    return re.escape(character)
