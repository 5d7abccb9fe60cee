"""How assets show counts, rows and errors."""

import dagster as dg
import pytest

from qwenft_assets.assets.reporting import (
    SHOWN_CHARACTERS,
    SHOWN_COLUMNS,
    count_table,
    dropped_of,
    first_rows,
    format_dropped,
    one_line_failures,
    record_table,
)
from qwenft_assets.errors import MixtureError, SourceError
from qwenft_assets.rows import make_row, rows_to_table
from qwenft_assets.storage.files import write_parquet


def row(number, output="An answer.", **parts):
    return make_row(
        source="slimorca",
        upstream_id=str(number),
        instruction=f"Question {number}?",
        output=output,
        license="MIT",
        revision="abc",
        admitted_by="all",
        **parts,
    )


def shown(tmp_path, rows):
    write_parquet(tmp_path / "rows.parquet", rows_to_table(rows))
    return [record.data for record in first_rows(tmp_path / "rows.parquet").records]


def columns_of(table):
    return [(column.name, column.type) for column in table.schema.columns]


def test_counts_become_a_table_in_the_order_given():
    table = count_table({"too_short": 12, "duplicate": 0}, "reason")
    assert columns_of(table) == [("reason", "string"), ("rows", "int")]
    assert [record.data for record in table.records] == [
        {"reason": "too_short", "rows": 12},
        {"reason": "duplicate", "rows": 0},
    ]


def test_no_counts_are_an_empty_table():
    assert count_table({}, "reason").records == []


def test_records_become_a_table_with_types():
    table = record_table([{"part": "bio", "got": 0.2}], [("part", "string"), ("got", "float")])
    assert columns_of(table) == [("part", "string"), ("got", "float")]
    assert [record.data for record in table.records] == [{"part": "bio", "got": 0.2}]


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        pytest.param("An answer.", "An answer.", id="short"),
        pytest.param("one\ntwo\r\n\n\tthree  four", "one two three four", id="newlines-and-tabs"),
        pytest.param("one\u2028two\x0bthree", "one two three", id="other-line-ends"),
        pytest.param("x" * 160, "x" * 160, id="just-fits"),
        pytest.param("x" * 161, "x" * 159 + "…", id="one-too-long"),
        pytest.param("一" * 5_000, "一" * 159 + "…", id="long-chinese"),
        pytest.param("# H\n<script>", "# H <script>", id="markup-is-text"),
    ],
)
def test_a_cell_is_one_readable_line(tmp_path, text, cell):
    (record,) = shown(tmp_path, [row(1, output=text)])
    assert record["output"] == cell
    assert len(cell) <= SHOWN_CHARACTERS


def test_the_first_five_rows_are_shown_in_their_order(tmp_path):
    records = shown(tmp_path, [row(n) for n in range(20)])
    assert [record["instruction"] for record in records] == [f"Question {n}?" for n in range(5)]
    assert {tuple(record) for record in records} == {SHOWN_COLUMNS}


def test_a_row_without_input_has_an_empty_cell(tmp_path):
    records = shown(tmp_path, [row(1), row(2, input="Some context.")])
    assert [record["input"] for record in records] == ["", "Some context."]


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        pytest.param({"rows": 3}, "none", id="nothing-counted"),
        pytest.param({"dropped_short": 0}, "none", id="counted-none"),
        pytest.param(
            {"rows": 3, "dropped_short": 2, "dropped_meta": 0, "dropped_off_topic": 7},
            "short 2, off_topic 7",
            id="some",
        ),
    ],
)
def test_dropped_rows_in_words(manifest, words):
    assert format_dropped(manifest) == words


def test_dropped_rows_by_reason_keep_the_zeros():
    assert dropped_of({"rows": 3, "dropped_short": 2, "dropped_meta": 0}) == {"short": 2, "meta": 0}


@pytest.mark.parametrize("kind", [SourceError, MixtureError])
def test_a_mistake_becomes_a_failure_of_one_line_without_retries(kind):
    message = "data/my_dataset.json: row 2: no 'output'. Fix the row."
    with pytest.raises(dg.Failure) as caught, one_line_failures():
        raise kind(message)
    assert caught.value.description == message
    assert caught.value.metadata["error"].value == kind.__name__
    assert caught.value.allow_retries is False
    assert isinstance(caught.value.__cause__, kind)


@pytest.mark.parametrize("kind", [ValueError, KeyError, OSError, KeyboardInterrupt])
def test_a_bug_keeps_its_type_and_traceback(kind):
    bug = kind("x")
    with pytest.raises(kind) as caught, one_line_failures():
        raise bug
    assert caught.value is bug
