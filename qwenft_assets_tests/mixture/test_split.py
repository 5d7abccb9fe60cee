"""No question stands on both sides, and every source gives its share of the held-out rows."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenft_assets.config import SimilarQuestionsConfig
from qwenft_assets.mixture.split import find_leaks, question_clusters, split_rows
from qwenft_assets.rows import InstructionRow, make_row


def row(question: str, number: int = 0, source: str = "slimorca") -> InstructionRow:
    return make_row(
        source=source,
        upstream_id=f"{question}-{number}",
        instruction=question,
        output=f"answer {number}",
        license="MIT",
        revision="abc",
        admitted_by="all",
    )


def split_by_question(rows, eval_fraction, seed):
    clusters = question_clusters(rows, SimilarQuestionsConfig())
    return split_rows(rows, clusters, eval_fraction, seed)


def leaked(pairs):
    return find_leaks(list(pairs), SimilarQuestionsConfig())


def distinct(count: int, source: str = "slimorca") -> list[InstructionRow]:
    return [row(f"{source} question {n}", source=source) for n in range(count)]


@pytest.mark.parametrize(
    ("count", "held_out"), [(2, 1), (9, 1), (10, 1), (20, 2), (180, 18), (1_999, 200), (2_000, 200)]
)
def test_a_tenth_is_held_out(count, held_out):
    sides = split_by_question(distinct(count), 0.10, seed=42)
    assert Counter(sides.values()) == {"eval": held_out, "train": count - held_out}


def test_every_source_gives_its_share():
    rows = distinct(100, "slimorca") + distinct(50, "pubmedqa") + distinct(30, "local_reports")
    sides = split_by_question(rows, 0.10, seed=42)
    held_out = Counter(row.source for row in rows if sides[row.row_id] == "eval")
    assert held_out == {"slimorca": 10, "pubmedqa": 5, "local_reports": 3}


def test_answers_to_one_question_stand_on_one_side():
    rows = [row(f"question {n // 4}", n) for n in range(200)]
    sides = split_by_question(rows, 0.10, seed=42)
    for start in range(0, 200, 4):
        assert len({sides[row.row_id] for row in rows[start : start + 4]}) == 1
    assert Counter(sides.values()) == {"eval": 20, "train": 180}


def test_question_that_differs_in_case_only_is_the_same_question():
    rows = [*distinct(50), row("Slimorca  QUESTION 7", 1, "pubmedqa")]
    for seed in range(20):
        sides = split_by_question(rows, 0.10, seed)
        assert sides[rows[7].row_id] == sides[rows[-1].row_id]


def test_split_depends_on_the_seed_and_not_on_the_order():
    rows = distinct(100)
    sides = split_by_question(rows, 0.10, seed=42)
    assert split_by_question(rows[::-1], 0.10, seed=42) == sides
    assert split_by_question(rows, 0.10, seed=43) != sides


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([row("a"), row("b")], id="two-rows"),
        pytest.param([row(q, n) for q in "ab" for n in range(3)], id="groups-above-a-tenth"),
        pytest.param(
            [row("a", n) for n in range(50)] + [row("b")], id="one-question-above-all-others"
        ),
        pytest.param(
            [row("a", n, s) for n, s in enumerate(("slimorca", "pubmedqa"))] + [row("b")],
            id="group-of-two-sources",
        ),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_both_sides_have_a_row_wherever_there_are_two_questions(rows, seed):
    sides = split_by_question(rows, 0.10, seed)
    assert set(sides.values()) == {"train", "eval"}
    assert set(sides) == {row.row_id for row in rows}


def test_single_question_is_not_torn_apart():
    rows = [row("a", n) for n in range(10)]
    assert set(split_by_question(rows, 0.10, seed=42).values()) == {"train"}


@given(
    asked=st.lists(
        st.tuples(st.integers(0, 12), st.sampled_from(["slimorca", "pubmedqa", "local_reports"])),
        min_size=2,
        max_size=60,
    ),
    fraction=st.floats(0.01, 0.49),
    seed=st.integers(0, 5),
)
@settings(deadline=None)
def test_no_question_leaks_and_no_more_than_asked_is_held_out(asked, fraction, seed):
    rows = [row(f"question {question}", n, source) for n, (question, source) in enumerate(asked)]
    sides = split_by_question(rows, fraction, seed)
    assert leaked((row, sides[row.row_id]) for row in rows) == []
    questions = {question for question, _ in asked}
    held_out = sum(side == "eval" for side in sides.values())
    if len(questions) > 1:
        smallest = min(Counter(question for question, _ in asked).values())
        assert 1 <= held_out <= max(smallest, round(len(rows) * fraction), 1)
        assert held_out < len(rows)


def test_planted_leak_is_found_by_its_eval_row():
    clean = [(row("a", 1), "train"), (row("b", 2), "eval"), (row("c", 3), "train")]
    leak = row("A ", 9, "pubmedqa")
    assert leaked(clean) == []
    assert leaked([*clean, (leak, "eval")]) == [(leak.row_id, clean[0][0].row_id)]
    assert leaked([*clean, (leak, "train")]) == []
