"""Recognising private rows in other text, by runs of their words."""

import hashlib
import re
from collections.abc import Iterable, Sequence

RUN_WORDS = 8
"""Length of a run of words that counts as a quotation of a private row; shorter runs are coincidence."""
FEWEST_WORDS = 3
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")
"""A word, or one character of a script that puts no blanks between words."""
_DIGEST_BYTES = 8


class PrivateText:
    """Hashed runs of words of private texts; the texts themselves are not kept."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._runs: set[bytes] = set()
        self._short: set[bytes] = set()
        """Texts of fewer words, which count only where they are a whole value."""
        for text in texts:
            words = _words(text)
            if len(words) >= RUN_WORDS:
                self._runs.update(_runs(words))
            elif len(words) >= FEWEST_WORDS:
                self._short.add(_digest(words))

    def quoted_in(self, text: str) -> bool:
        """Whether a run of words of a private text stands in `text`."""
        return not self._runs.isdisjoint(_runs(_words(text)))

    def quoted_in_lines(self, lines: Sequence[str]) -> list[int]:
        """Numbers (from 0) of the lines where a quotation begins, one may run over several lines."""
        words: list[str] = []
        line_of_word: list[int] = []
        for number, line in enumerate(lines):
            found = _words(line)
            words += found
            line_of_word += [number] * len(found)
        begins = (
            line_of_word[start] for start, run in enumerate(_runs(words)) if run in self._runs
        )
        return sorted(set(begins))

    def is_short_text(self, value: str) -> bool:
        """Whether a whole value is a private text of a few words."""
        return bool(self._short) and _digest(_words(value)) in self._short


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _runs(words: Sequence[str]) -> Iterable[bytes]:
    return (_digest(words[n : n + RUN_WORDS]) for n in range(len(words) - RUN_WORDS + 1))


def _digest(words: Sequence[str]) -> bytes:
    joined = "\0".join(words).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(joined, digest_size=_DIGEST_BYTES).digest()
