"""The same text is one row, whatever its case and white space; the earlier source keeps it."""

import pytest

from qwenft_assets.config import NearDuplicatesConfig
from qwenft_assets.mixture.deduplication import (
    drop_duplicates,
    drop_near_duplicates,
    normalized,
    question_key,
)
from qwenft_assets.rows import InstructionRow, make_row


def row(
    instruction: str = "What is a PLL?",
    output: str = "A feedback loop.",
    source: str = "slimorca",
    upstream_id: str = "1",
    **fields: str,
) -> InstructionRow:
    return make_row(
        source=source,
        upstream_id=upstream_id,
        instruction=instruction,
        output=output,
        license="MIT",
        revision="abc",
        admitted_by="all",
        **fields,
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(" What  is\na\tPLL? ", "what is a pll?", id="case-and-white-space"),
        pytest.param("STRASSE straße", "strasse strasse", id="case-folded"),
        pytest.param("a\u00a0b\u3000c", "a b c", id="wide-spaces"),
        pytest.param("x_1 = -3", "x_1 = -3", id="symbols-stay"),
        pytest.param(" \n", "", id="blank"),
    ],
)
def test_text_is_normalized(text, expected):
    assert normalized(text) == expected


def test_question_is_the_same_whatever_the_answer_and_the_system_prompt():
    same = row("what is  a pll?", "Another answer.", "pubmedqa", "9", system="Be brief.")
    assert question_key(same) == question_key(row())


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(row("What is a PLL"), id="another-question"),
        pytest.param(row(input="1 GHz"), id="another-input"),
        pytest.param(row("What is a", input="PLL?"), id="words-moved-to-the-input"),
    ],
)
def test_question_differs_with_instruction_and_input(other):
    assert question_key(other) != question_key(row())


def test_first_of_equal_rows_stays_and_the_rest_is_counted_by_source():
    rows = [
        row(source="local_reports", upstream_id="1"),
        row("WHAT IS A PLL?", "A  feedback loop.", upstream_id="2"),
        row(output="Something else.", upstream_id="3"),
        row(source="pubmedqa", upstream_id="4"),
        row(" What is a PLL?", upstream_id="5"),
    ]
    kept, removed = drop_duplicates(rows)
    assert kept == [rows[0], rows[2]]
    assert [removal.row for removal in removed] == [rows[1], rows[3], rows[4]]
    assert {removal[1:] for removal in removed[:1]} == {("duplicate", rows[0].row_id, 1.0)}


def test_nothing_is_dropped_where_all_differ():
    rows = [row(f"question {n}", upstream_id=str(n)) for n in range(20)]
    assert drop_duplicates(rows) == (rows, [])
    assert drop_duplicates([]) == ([], [])


@pytest.mark.parametrize(
    ("instruction", "output", "dropped"),
    [
        pytest.param(
            "Which device is described here?", "A phase detector.", 1, id="the-same-question"
        ),
        pytest.param("Name every unit of measure.", "A phase detector.", 0, id="another-question"),
        pytest.param("Which device is described here?", "Volts, hertz.", 0, id="another-answer"),
    ],
)
def test_a_long_passage_in_common_makes_no_near_duplicate(instruction, output, dropped):
    passage = " ".join(f"word{n}" for n in range(400))
    rows = [
        row("Which device is described here?", "A phase detector!", input=passage),
        row(instruction, output, upstream_id="2", input=f"{passage} end"),
    ]
    kept, removed = drop_near_duplicates(rows, NearDuplicatesConfig())
    assert len(removed) == dropped
    assert kept == rows[: 2 - dropped]
