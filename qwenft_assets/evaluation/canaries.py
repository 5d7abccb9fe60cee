"""What must not be wrong with an answer, whatever it says. Pure functions of question and answer."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from qwenft_assets.text.chatml import END_OF_TEXT, INPUT_HEADING, TURN_END, TURN_START

TEMPLATE_MARKS = (TURN_START, TURN_END, END_OF_TEXT, "<|im", "im_start", "im_end", INPUT_HEADING)
ROLES = ("system", "user", "assistant")
LOOP_REPEATS = 4
LOOP_CHARACTERS = 24
"""Shorter tails repeat in honest text too: `...`, a ruler, a row of zeros."""
HAN_WEIGHT = 3
"""One Han character says about as much as three letters: Chinese prose quotes Latin terms."""
SCRIPTS = {
    "CJK": "han", "HIRAGANA": "kana", "KATAKANA": "kana", "HANGUL": "hangul", "LATIN": "latin",
    "CYRILLIC": "cyrillic", "GREEK": "greek", "ARABIC": "arabic", "HEBREW": "hebrew",
    "DEVANAGARI": "devanagari", "THAI": "thai",
}  # fmt: skip


class Answer(NamedTuple):
    """What a model said to one prompt."""

    text: str
    """With any control token that it wrote before its end."""
    stopped: bool
    """It ended its turn by itself, within the limit."""


def stops(question: str, answer: Answer) -> bool:  # noqa: ARG001
    """Whether the answer ended by itself."""
    return answer.stopped


def says_something(question: str, answer: Answer) -> bool:  # noqa: ARG001
    """Whether there is any letter or digit in the answer."""
    return any(character.isalnum() for character in answer.text)


def leaks_no_template(question: str, answer: Answer) -> bool:
    """Whether the answer is free of prompt layout: control tokens, their pieces, a role's line."""
    marks = any(mark in answer.text and mark not in question for mark in TEMPLATE_MARKS)
    roles = any(line.strip() in ROLES for line in answer.text.split("\n"))
    return not (marks or roles)


def does_not_loop(question: str, answer: Answer) -> bool:  # noqa: ARG001
    """Whether the answer ends otherwise than with one piece over and over."""
    text = " ".join(answer.text.split())
    for period in range(1, len(text) // LOOP_REPEATS + 1):
        # Where the last 3 periods equal those one period earlier, the last 4 are all the same.
        tail = text[-LOOP_REPEATS * period :]
        if len(tail) >= LOOP_CHARACTERS and tail[period:] == tail[:-period]:
            return False
    return True


def keeps_the_language(question: str, answer: Answer) -> bool:
    """Whether the answer is written in the question's script: Han, Latin, Cyrillic and others.

    By script alone: French asked and English answered is not seen. A text without letters agrees
    with everything.
    """
    asked, answered = main_script(question), main_script(answer.text)
    return asked is None or answered is None or asked == answered


CANARIES: Mapping[str, Callable[[str, Answer], bool]] = {
    "stops": stops,
    "says_something": says_something,
    "leaks_no_template": leaks_no_template,
    "does_not_loop": does_not_loop,
    "keeps_the_language": keeps_the_language,
}


def canary_shares(questions: Sequence[str], answers: Sequence[Answer]) -> dict[str, float]:
    """The share of answers that each canary passes, by its name; empty where nothing was asked."""
    if not questions:
        return {}
    pairs = list(zip(questions, answers, strict=True))
    return {
        name: sum(passes(question, answer) for question, answer in pairs) / len(pairs)
        for name, passes in CANARIES.items()
    }


def main_script(text: str) -> str | None:
    """The script that most of the text is written in; None where it has no letters."""
    weights: Counter[str] = Counter()
    for character, count in Counter(text).items():
        if character.isalpha():
            script = SCRIPTS.get(unicodedata.name(character, "").split(" ")[0], "other")
            weights[script] += count * (HAN_WEIGHT if script in {"han", "kana", "hangul"} else 1)
    if weights["kana"]:  # Japanese mixes both; a text with kana is not Chinese
        weights["kana"] += weights.pop("han", 0)
    return max(weights, key=lambda script: weights[script]) if weights else None
