"""The user's file: every mistake is named with its place, and no row is lost in silence."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from qwenft_assets.config import Config, LocalReportsSource, SourcesConfig
from qwenft_assets.errors import SourceError
from qwenft_assets.rows import InstructionRow
from qwenft_assets.sources.local_reports import parse_reports, scan_local_reports
from qwenft_assets.sources.scan import Tally

GOOD = {"instruction": "What is an LDO?", "input": "", "output": "A linear regulator."}


def rows_of(path: Path, **settings: Any) -> list[InstructionRow]:
    sources = SourcesConfig(local_reports=LocalReportsSource(path=str(path), **settings))
    return list(scan_local_reports(Config(name="test", sources=sources)).rows(Tally()))


def write_list(folder: Path, *rows: object) -> Path:
    path = folder / "mine.json"
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


def message_of(path: Path) -> str:
    with pytest.raises(SourceError) as raised:
        rows_of(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_report_becomes_a_row_with_the_licence_of_the_settings(tmp_path):
    path = write_list(tmp_path, GOOD | {"input": " at 3.3 V\n", "output": " A regulator. "})
    (row,) = rows_of(path, license="CC0", author="our lab")
    assert row.instruction == "What is an LDO?"
    assert (row.input, row.output, row.system) == ("at 3.3 V", "A regulator.", None)
    assert (row.source, row.license, row.author) == ("local_reports", "CC0", "our lab")
    assert row.revision == hashlib.sha256(path.read_bytes()).hexdigest()
    assert row.admitted_by == "all"


def test_row_says_itself_what_the_settings_would(tmp_path):
    own = {"license": "MIT", "author": "Ada", "url": "https://x", "system": "Be brief."}
    (row,) = rows_of(write_list(tmp_path, GOOD | own), license="CC0", author="our lab")
    assert (row.license, row.author, row.url, row.system) == tuple(own.values())


def test_input_may_be_left_out_and_other_keys_are_left_alone(tmp_path):
    report = {"instruction": "a", "output": "b", "reviewed": True}
    assert [row.input for row in rows_of(write_list(tmp_path, report))] == [""]


def test_chinese_text_is_kept(tmp_path):
    report = {"instruction": "什么是锁相环？", "input": "频率 1 GHz", "output": "一种反馈电路。"}
    (row,) = rows_of(write_list(tmp_path, report))
    assert [row.instruction, row.input, row.output] == list(report.values())


@pytest.mark.parametrize("name", ["mine.json", "mine.jsonl"])
def test_byte_order_mark_is_passed_over(tmp_path, name):
    path = tmp_path / name
    text = json.dumps(GOOD if name.endswith("l") else [GOOD])
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert [row.instruction for row in rows_of(path)] == ["What is an LDO?"]


def test_json_lines_may_have_blank_lines_and_windows_line_ends(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\r\n\r\n" + json.dumps(GOOD).encode() + b"\r\n")
    assert len(rows_of(path)) == 2


def test_line_separator_inside_a_text_ends_no_json_line(tmp_path):
    path = tmp_path / "mine.jsonl"
    report = GOOD | {"output": "one\u2028two\x85three"}
    path.write_text(json.dumps(report, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [row.output for row in rows_of(path)] == ["one\u2028two\x85three"]


def test_id_keeps_the_identity_of_a_row_whose_text_changes(tmp_path):
    (before,) = rows_of(write_list(tmp_path, GOOD | {"id": "ldo-1"}))
    (after,) = rows_of(write_list(tmp_path, GOOD | {"id": "ldo-1", "output": "Another text."}))
    assert before.upstream_id == after.upstream_id == "ldo-1"
    assert before.row_id == after.row_id
    assert before.content_hash != after.content_hash


def test_row_without_id_is_known_by_its_content_wherever_it_stands(tmp_path):
    other = GOOD | {"instruction": "What is a buck converter?"}
    first = {row.row_id for row in rows_of(write_list(tmp_path, GOOD, other))}
    second = {row.row_id for row in rows_of(write_list(tmp_path, other, GOOD))}
    assert first == second
    assert len(first) == 2


def test_missing_file_is_named_with_what_to_put_there(tmp_path):
    message = message_of(tmp_path / "nowhere.json")
    assert message.startswith("cannot be read (No such file or directory). Put your reports there")
    assert "sources.local_reports.path" in message


def test_folder_instead_of_a_file_is_refused(tmp_path):
    assert message_of(tmp_path).startswith("cannot be read (Is a directory)")


@pytest.mark.parametrize(
    ("name", "content", "about"),
    [
        pytest.param(
            "mine.json",
            '[\n{"instruction": "a",\n "output": "b"\n "id": "1"}\n]',
            "line 4, column 2: not JSON",
            id="json-names-the-line",
        ),
        pytest.param("mine.json", "", "line 1, column 1: not JSON", id="empty-file"),
        pytest.param(
            "mine.jsonl",
            f"{json.dumps(GOOD)}\n\n{{broken\n",
            "line 3, column 2: not JSON",
            id="json-lines-names-the-line",
        ),
        pytest.param("mine.json", "{}", "holds a JSON object, a list is needed", id="object"),
        pytest.param("mine.json", '"text"', "holds a JSON string, a list is needed", id="string"),
        pytest.param("mine.json", "3.5", "holds a JSON number, a list is needed", id="number"),
        pytest.param("mine.json", "null", "holds a JSON null, a list is needed", id="null"),
        pytest.param("mine.json", "[]", "has no rows", id="empty-list"),
        pytest.param("mine.jsonl", "\n \n", "has no rows", id="blank-lines-only"),
    ],
)
def test_file_of_another_form_is_refused(tmp_path, name, content, about):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    assert message_of(path).startswith(about)


def test_file_that_is_not_utf8_is_refused_with_the_place(tmp_path):
    path = tmp_path / "mine.json"
    path.write_bytes('[{"instruction": "温度"}]'.encode("gbk"))
    assert message_of(path) == "byte 18 is not UTF-8. Save it as UTF-8."


@pytest.mark.parametrize(
    ("report", "about"),
    [
        pytest.param({"instruction": "a"}, "field 'output': Field required", id="no-output"),
        pytest.param({"output": "a"}, "field 'instruction': Field required", id="no-instruction"),
        pytest.param(GOOD | {"output": ""}, "field 'output': ", id="empty-output"),
        pytest.param(GOOD | {"output": " \n"}, "field 'output': must not be blank", id="blank"),
        pytest.param(GOOD | {"instruction": "\u3000"}, "field 'instruction': ", id="wide-space"),
        pytest.param(GOOD | {"output": None}, "field 'output': ", id="null-output"),
        pytest.param(GOOD | {"output": 5}, "field 'output': ", id="number-as-output"),
        pytest.param(GOOD | {"input": ["a"]}, "field 'input': ", id="list-as-input"),
        pytest.param("text", "", id="no-object"),
    ],
)
def test_row_that_is_not_as_it_must_be_is_named_with_its_field(tmp_path, report, about):
    message = message_of(write_list(tmp_path, GOOD, report))
    assert message.startswith(f"row 2: {about}")
    assert message.endswith(
        'A row looks like {"instruction": "...", "input": "", "output": "..."}.'
    )


def test_bad_row_of_json_lines_is_named_by_its_line(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(f'{json.dumps(GOOD)}\n\n{{"instruction": "a"}}\n')
    assert message_of(path).startswith("line 3: field 'output': Field required")


def test_half_a_surrogate_pair_is_refused(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('[{"instruction": "a\\ud83d", "output": "b"}]')
    assert message_of(path).startswith("row 1: field 'instruction': ")


def test_every_row_is_scanned_and_none_dropped(tmp_path):
    path = write_list(tmp_path, GOOD, GOOD, GOOD)
    sources = SourcesConfig(local_reports=LocalReportsSource(path=str(path)))
    tally = Tally()
    assert len(list(scan_local_reports(Config(name="t", sources=sources)).rows(tally))) == 3
    assert (tally.scanned, tally.dropped) == (3, {})
    assert len(parse_reports(path.read_bytes(), path)) == 3


@pytest.mark.parametrize("policy", ["report", "fail", "ignore"])
def test_personal_data_is_found_by_row(tmp_path, policy):
    spoken = GOOD | {"output": "Write to jane.doe@acme-labs.org about it."}
    path = write_list(tmp_path, GOOD, spoken)
    settings = LocalReportsSource(path=str(path), personal_data=policy)
    scan = scan_local_reports(Config(name="t", sources=SourcesConfig(local_reports=settings)))
    tally = Tally()
    if policy == "fail":
        with pytest.raises(SourceError, match="personal data: email in row 2"):
            list(scan.rows(tally))
        return
    assert len(list(scan.rows(tally))) == 2
    assert tally.findings == ({"email in row 2": 1} if policy == "report" else {})
