"""Rows of evaluation files are found by 13 words in a row, whatever stands around them."""

import json

import numpy as np
import pytest

from qwenft_assets.errors import MixtureError
from qwenft_assets.mixture.decontamination import _is_in, find_contaminated, read_evaluation_file
from qwenft_assets_tests.mixture.sampled_rows import row, rows_of, words

LONG, SHORT = words("evaluation", 30), "Which enzyme unwinds DNA?"


@pytest.fixture
def jsonl(tmp_path):
    path = tmp_path / "benchmark.jsonl"
    items = [
        {"question": LONG, "answers": [{"text": words("nested", 14)}], "label": 3},
        {"question": SHORT, "answer": "yes"},
    ]
    path.write_text("\n".join(json.dumps(item) for item in items) + "\n\n", encoding="utf-8")
    return str(path)


def middle(text: str, count: int) -> str:
    return " ".join(text.split()[5 : 5 + count])


@pytest.mark.parametrize(
    ("fields", "hit"),
    [
        pytest.param({"instruction": LONG}, True, id="whole-question"),
        pytest.param({"output": f"So: {middle(LONG, 13).upper()}!"}, True, id="13-words-in-answer"),
        pytest.param({"output": f"So: {middle(LONG, 12)}."}, False, id="12-words"),
        pytest.param({"input": f"x {words('nested', 14)} y"}, True, id="nested-in-input"),
        pytest.param({"instruction": "which enzyme unwinds  DNA"}, True, id="short-question"),
        pytest.param({"output": SHORT}, False, id="short-text-as-answer"),
        pytest.param({"output": "Yes"}, False, id="short-answer"),
        pytest.param({"instruction": f"{SHORT} Why?"}, False, id="short-question-in-a-longer"),
    ],
)
def test_overlap_is_found(jsonl, fields, hit):
    planted = row("slimorca", "planted", **fields)
    rows = [*rows_of("slimorca", 20), planted, *rows_of("pubmedqa", 20)]
    removals = find_contaminated(rows, [read_evaluation_file(jsonl)])
    assert [(r.row.row_id, r.partner) for r in removals] == (
        [(planted.row_id, jsonl)] if hit else []
    )


def test_text_file_counts_across_its_lines(tmp_path):
    path = tmp_path / "exam.txt"
    path.write_text(LONG.replace(" ", "\n", 9), encoding="utf-8")
    rows = [*rows_of("slimorca", 3), row("slimorca", "x", output=middle(LONG, 20))]
    (removal,) = find_contaminated(rows, [read_evaluation_file(str(path))])
    assert removal.row == rows[-1]


def test_json_list_is_read(tmp_path):
    path = tmp_path / "exam.json"
    path.write_text(json.dumps([[LONG], {"a": 1}]), encoding="utf-8")
    assert len(read_evaluation_file(str(path)).long) == 30 - 12


@pytest.mark.parametrize(
    ("name", "content", "about"),
    [
        pytest.param("gone.jsonl", None, "cannot be read", id="missing"),
        pytest.param("a.jsonl", b'{"a": "b"}\n{oops\n', r"a\.jsonl:2: not JSON", id="bad-line"),
        pytest.param("a.txt", b"", "holds no text", id="empty"),
        pytest.param("a.jsonl", b'{"a": 1}\n', "holds no text", id="no-text"),
        pytest.param("a.txt", b"\xff\xfe\xff", r"not UTF-8 text \(byte 0\)", id="other-encoding"),
    ],
)
def test_unreadable_file_is_one_line(tmp_path, name, content, about):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MixtureError, match=about) as raised:
        read_evaluation_file(str(path))
    assert str(path) in str(raised.value)
    assert "mixture.decontaminate" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_hashes_are_found_where_they_are_and_not_beside_them():
    known = np.array([5, 9, 2**40 + 5], np.uint64)
    asked = np.array([4, 5, 2**41 + 5, 9, 2**40 + 5, 10], np.uint64)
    assert _is_in(asked, known).tolist() == [False, True, False, True, True, False]
    assert not _is_in(asked, known[:0]).any()
