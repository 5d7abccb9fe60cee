r"""The part of RE2's syntax that Python's `re` reads in the same way.

The same word means different things to them: `\s` (a vertical tab), `$` (before a last line break),
`(?i)s` (the long s), `{,3}`. What differs is written out, and what cannot be is refused.
"""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

from qwenft_assets.errors import ConfigError

WHITESPACE = " \t\n\v\f\r\u00a0"
ANY_CASE = "(?i)"
_ESCAPE = r"\\[bBdDwWtnr]|\\[ -/:-@\[-`{-~]"
_TOKEN = re.compile(
    rf"\\(?P<space>[sS])|(?P<kept>{_ESCAPE}|\((?!\?)|\(\?:|[)|*+?.]|\{{\d+(?:,\d*)?\}})"
    r"|(?P<set>\[(?P<not>\^?)(?P<body>(?:\\.|[^\]\[\\&|~])+)\])|(?P<character>[^\\\[\](){}|*+?.^$])"
)
_IN_SET = re.compile(rf"(?P<kept>\\s|{_ESCAPE})|(?P<low>[^\\-])(?:-(?P<high>[^\\-]))?|(?P<dash>-)")
_CONTEXTS = ("", "a", " ", "aa", "a ", " a", "  ")
"""Every pair of neighbours that a match without any character could stand between."""


def translate(name: str, pattern: str) -> str:
    r"""A pattern for both, where a leading `(?i)` and `\s` are spelled out.

    Raises:
        ConfigError: One of them refuses it or reads it in another way, or it matches no character.
    """
    any_case = pattern.startswith(ANY_CASE)
    body = pattern.removeprefix(ANY_CASE)
    parts: list[str] = []
    position = 0
    while position < len(body):
        token = _TOKEN.match(body, position)
        if token is None:
            raise _refused(
                name,
                f"{body[position:]!r}: RE2 and Python do not read this alike. Anchors, flags but "
                "a leading (?i), look-around and bare brackets cannot stand here",
            )
        parts.append(_spell_out(token, any_case))
        position = token.end()
    both = "".join(parts)
    try:
        pc.match_substring_regex(pa.array([""]), pattern=both)
        compiled = re.compile(both, re.ASCII)
    except (pa.ArrowInvalid, re.error) as error:
        raise _refused(name, str(error).splitlines()[0]) from error
    if any(not match[0] for text in _CONTEXTS for match in compiled.finditer(text)):
        raise _refused(name, f"{pattern!r} matches the empty string, so every text")
    return both


def either_case(character: str) -> str:
    """A character as a pattern; an ASCII letter in both cases, another one as it is.

    Not `(?i:...)`: RE2 would take the long s and the Kelvin sign for s and k, `re` would not.
    """
    if character.isascii() and character.isalpha():
        return f"[{character.lower()}{character.upper()}]"
    return re.escape(character)


def _spell_out(token: re.Match[str], any_case: bool) -> str:
    if token["space"]:
        return f"[^{WHITESPACE}]" if token["space"].isupper() else f"[{WHITESPACE}]"
    if token["set"]:
        return f"[{token['not']}{_set_body(token['body'], any_case)}]"
    return either_case(token[0]) if any_case and token["character"] else token[0]


def _set_body(body: str, any_case: bool) -> str:
    parts: list[str] = []
    for element in _IN_SET.finditer(body):
        if element["low"] is None:
            parts.append({r"\s": WHITESPACE, "-": r"\-"}.get(element[0], element[0]))
            continue
        # A caret must not come first.
        parts.append(element[0].replace("^", r"\^"))
        if any_case:
            low, high = ord(element["low"]), ord(element["high"] or element["low"])
            letters = (chr(code) for code in range(low, min(high, ord("z")) + 1))
            parts += [letter.swapcase() for letter in letters if letter.isalpha()]
    return "".join(parts)


def _refused(name: str, reason: str) -> ConfigError:
    return ConfigError(f"keywords: pattern {name!r}: {reason}. Change or drop it.")
