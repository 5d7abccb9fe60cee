"""JSON files: order, Chinese, what is no JSON, lines appended whole."""

import json

import pytest

from qwenft_assets.errors import StorageError
from qwenft_assets.storage.files import append_json_line, read_json, write_json


def test_json_round_trip_keeps_order_and_chinese(tmp_path):
    path = tmp_path / "manifest.json"
    value = {"z": 1, "a": ["温度", None, 0.5]}
    write_json(path, value)
    assert read_json(path) == value
    assert path.read_text(encoding="utf-8").startswith('{\n  "z": 1,')
    assert "温度" in path.read_text(encoding="utf-8")


def test_json_never_holds_what_is_no_json(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "manifest.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_missing_json_is_none(tmp_path):
    assert read_json(tmp_path / "manifest.json") is None


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b'{"rows": 1', id="cut-off"),
        pytest.param(b"", id="empty"),
        pytest.param(b"[1]", id="a-list"),
        pytest.param(b"\xff\xfe\x00", id="not-utf8"),
    ],
)
def test_broken_json_is_named(tmp_path, content):
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    with pytest.raises(StorageError, match=rf"^{path}: .*Delete it to rebuild\.$"):
        read_json(path)


def test_json_lines_are_appended_whole(tmp_path):
    path = tmp_path / "release" / "history.jsonl"
    append_json_line(path, {"version": "v1", "note": "two\nlines"})
    append_json_line(path, {"version": "v2", "note": "温度"})
    lines = path.read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines[:-1]] == [
        {"version": "v1", "note": "two\nlines"},
        {"version": "v2", "note": "温度"},
    ]
    assert lines[-1] == ""
