"""An evaluation set of the user's own: read whole, or refused with the line that is wrong."""

import json

import pytest

from qwenft_assets.config import EvaluationConfig
from qwenft_assets.errors import EvaluationError
from qwenft_assets.mixture.frozen_eval import frozen_version, read_frozen_eval

ROW = {"instruction": "What is an LDO?", "output": "A regulator."}


def frozen(tmp_path, *rows):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return EvaluationConfig(frozen_eval=str(path))


def test_rows_are_private_and_named_after_their_file(tmp_path):
    rows = read_frozen_eval(frozen(tmp_path, ROW, {**ROW, "input": "7805", "source": "ic"}))
    assert [(row.source, row.input) for row in rows] == [("frozen", ""), ("ic", "7805")]
    assert {(row.license, row.revision, row.admitted_by) for row in rows} == {
        ("private", "mine.jsonl", "frozen_eval")
    }
    assert frozen_version(rows) != frozen_version(rows[:1])


def test_without_the_setting_there_are_none():
    assert read_frozen_eval(EvaluationConfig()) == []
    assert frozen_version([]) is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        pytest.param([], "has no rows. Add lines like", id="empty"),
        pytest.param([ROW, ROW], "holds a row twice. Remove the copy", id="twice"),
        pytest.param([ROW, {**ROW, "instruction": ""}], "line 2: field 'instruction'", id="blank"),
        pytest.param([{**ROW, "output": ""}], "line 1: field 'output'", id="no-answer"),
        pytest.param([{**ROW, "source": ""}], "line 1: field 'source'", id="no-source"),
        pytest.param([{**ROW, "answer": "x"}], "line 1: field 'answer'", id="unknown-key"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_line(tmp_path, rows, message):
    with pytest.raises(EvaluationError, match=message):
        read_frozen_eval(frozen(tmp_path, *rows))
