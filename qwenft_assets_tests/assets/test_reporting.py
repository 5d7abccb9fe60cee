import dagster as dg
import pytest

from qwenft_assets.assets.reporting import (
    count_table,
    dropped_in_words,
    first_rows,
    one_line_failures,
)
from qwenft_assets.errors import SourceError
from qwenft_assets.rows import make_row, rows_to_table
from qwenft_assets.storage import write_parquet


def test_a_mistake_of_the_user_becomes_one_line():
    with pytest.raises(dg.Failure) as caught, one_line_failures():
        raise SourceError("a.json: no such file. Put it there.")
    assert caught.value.description == "a.json: no such file. Put it there."
    assert caught.value.metadata["error"].value == "SourceError"
    assert not caught.value.allow_retries


def test_a_bug_stays_a_bug():
    with pytest.raises(ZeroDivisionError), one_line_failures():
        raise ZeroDivisionError


def test_untrusted_rows_are_cells_of_one_line(tmp_path):
    text = "<img src=x onerror=alert(1)>\n\n# heading " + "x" * 500
    row = make_row(
        source="slimorca",
        upstream_id="1",
        instruction=text,
        output="![](http://x)",
        license="MIT",
        revision="r",
        admitted_by="all",
    )
    write_parquet(tmp_path / "rows.parquet", rows_to_table([row] * 9))
    table = first_rows(tmp_path / "rows.parquet")
    assert len(table.records) == 5
    cell = table.records[0].data["instruction"]
    assert isinstance(cell, str)
    assert "\n" not in cell
    assert len(cell) == 160


def test_counts_by_reason():
    manifest = {"rows": 3, "dropped_off_topic": 2, "dropped_duplicate": 0}
    assert dropped_in_words(manifest) == "off_topic 2"
    assert dropped_in_words({"rows": 1}) == "none"
    assert count_table({"off_topic": 2}, "reason").records[0].data == {
        "reason": "off_topic",
        "rows": 2,
    }
