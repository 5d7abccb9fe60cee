"""What is dropped and what is not, on a planted set of 22,000 rows.

Recall and precision are what the rules promise: copies go, rows that only look alike stay.
"""

import random

import pytest

from qwenft_assets.config import NearDuplicatesConfig
from qwenft_assets.mixture.deduplication import drop_duplicates, drop_near_duplicates
from qwenft_assets.rows import InstructionRow
from qwenft_assets_tests.mixture.sampled_rows import WORDS, row, words

PLANTED = 500


def changed(text: str, share: float, rng: random.Random) -> str:
    """The text with `share` of its words replaced, one at least."""
    parts = text.split()
    for n in rng.sample(range(len(parts)), max(1, round(len(parts) * share))):
        parts[n] = rng.choice(WORDS) + rng.choice(WORDS) + rng.choice(WORDS)
    return " ".join(parts)


def variant(text: str, number: int) -> str:
    """The text in other white space or another case."""
    return text.upper() if number % 2 else "  " + text.replace(" ", " \n", 3) + "\t"


@pytest.fixture(scope="module")
def planted() -> dict[str, list[InstructionRow]]:
    rng = random.Random(7)
    base = [
        row(
            "slimorca",
            n,
            words(("q", n), rng.randint(8, 40)),
            words(("a", n), rng.randint(25, 120)),
            input=words(("i", n), 40) if n % 3 == 0 else "",
        )
        for n in range(20_000)
    ]

    def copies(kind: str, first: int, change) -> list[InstructionRow]:
        """Rows of a later source made from 500 of the base's."""
        made = []
        for n, original in enumerate(base[first : first + PLANTED]):
            question, passage, answer = change(original, n)
            made.append(row("pubmedqa", f"{kind}-{n}", question, answer, input=passage))
        return made

    def texts(original: InstructionRow) -> tuple[str, str, str]:
        return original.instruction, original.input, original.output

    def three_percent(original: InstructionRow, number: int) -> tuple[str, str, str]:
        """3 % of the words of the row as a whole, wherever they fall."""
        parts = [text.split() for text in texts(original)]
        places = [(p, n) for p, part in enumerate(parts) for n in range(len(part))]
        for p, n in rng.sample(places, max(1, round(0.03 * len(places)))):
            parts[p][n] = f"zu{rng.choice(WORDS)}"
        question, passage, answer = (" ".join(part) for part in parts)
        return question, passage, answer

    def look_alike(original: InstructionRow, number: int) -> tuple[str, str, str]:
        question, passage, answer = texts(original)
        kind = number % 4
        if kind == 0:  # the same question, answered otherwise
            return question, passage, words(("other answer", number), 60)
        if kind == 1:  # the same passage, asked and answered otherwise
            passage = passage or words(("passage", number), 150)
            return words(("other question", number), 12), passage, words(("o", number), 30)
        if kind == 2:  # a stock answer to another question
            return words(("another question", number), 20), "", answer
        return changed(question, 0.3, rng), passage, changed(answer, 0.3, rng)

    return {
        "base": base,
        "exact": copies("exact", 0, lambda original, _: texts(original)),
        "variant": copies(
            "variant", 500, lambda original, n: [variant(t, n) if t else t for t in texts(original)]
        ),
        "changed": copies("changed", 1_000, three_percent),
        "look_alike": copies("look-alike", 1_500, look_alike),
    }


@pytest.fixture(scope="module")
def outcome(planted):
    """Row id to removal, over all planted rows."""
    rows = [row for part in planted.values() for row in part]
    kept, exact = drop_duplicates(rows)
    kept, near = drop_near_duplicates(kept, NearDuplicatesConfig())
    assert len(kept) + len(exact) + len(near) == len(rows)
    return {removal.row.row_id: removal for removal in exact + near}


@pytest.mark.parametrize(
    ("kind", "reason", "least_recall"),
    [
        ("exact", "duplicate", 0.95),
        ("variant", "duplicate", 0.95),
        ("changed", "near_duplicate", 0.90),
    ],
)
def test_planted_copies_are_found_with_the_row_they_copy(
    planted, outcome, kind, reason, least_recall
):
    found = [outcome.get(row.row_id) for row in planted[kind]]
    first = {"exact": 0, "variant": 500, "changed": 1_000}[kind]
    right = [
        removal
        for removal, original in zip(found, planted["base"][first:], strict=False)
        if removal and (removal.reason, removal.partner) == (reason, original.row_id)
    ]
    assert len(right) / PLANTED >= least_recall


def test_look_alikes_and_rows_of_their_own_stay(planted, outcome):
    copies = {row.row_id for kind in ("exact", "variant", "changed") for row in planted[kind]}
    assert sum(row_id in copies for row_id in outcome) / len(outcome) >= 0.99
    dropped_look_alikes = sum(row.row_id in outcome for row in planted["look_alike"])
    assert dropped_look_alikes <= 5


def test_order_of_the_rows_within_a_source_does_not_matter_to_what_is_found(planted, outcome):
    """The earlier row of the order of priority stays; here the base, in another order."""
    base = planted["base"].copy()
    random.Random(3).shuffle(base)
    rows = [*base, *planted["changed"]]
    _, near = drop_near_duplicates(rows, NearDuplicatesConfig())
    expected = {r.row_id for r in planted["changed"]} & outcome.keys()
    assert {removal.row.row_id for removal in near} == expected
