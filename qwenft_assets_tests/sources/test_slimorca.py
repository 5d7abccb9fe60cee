"""Conversations of any shape become rows, or are counted with the reason."""

import json
from pathlib import Path

import pytest

from qwenft_assets.config import Config, SourcesConfig
from qwenft_assets.errors import SourceError
from qwenft_assets.rows import InstructionRow
from qwenft_assets.sources.scan import Tally
from qwenft_assets.sources.slimorca import scan_slimorca, to_row

HUMAN = {"from": "human", "value": "Why is the sky blue?", "weight": 0.0}
GPT = {"from": "gpt", "value": "Air scatters blue light most.", "weight": 1.0}
SYSTEM = {"from": "system", "value": "Explain like I'm five.", "weight": None}


def line(*turns: object) -> bytes:
    return json.dumps({"conversations": list(turns)}).encode()


def row_of(*turns: object) -> InstructionRow:
    row = to_row(line(*turns), "abc")
    assert isinstance(row, InstructionRow)
    return row


def scan_lines(folder: Path, *lines: bytes) -> tuple[list[InstructionRow], Tally]:
    repository = folder / "Open-Orca" / "SlimOrca"
    repository.mkdir(parents=True)
    (repository / "part.jsonl").write_bytes(b"\n".join(lines))
    tally = Tally()
    config = Config(name="test", sources=SourcesConfig(origin=str(folder)))
    return list(scan_slimorca(config).rows(tally)), tally


def test_conversation_becomes_a_row_with_its_system_prompt_apart():
    row = row_of(SYSTEM, HUMAN, GPT)
    assert row.instruction == "Why is the sky blue?"
    assert row.input == ""
    assert row.output == "Air scatters blue light most."
    assert row.system == "Explain like I'm five."
    assert (row.source, row.license, row.revision) == ("slimorca", "MIT", "abc")
    assert row.url == "https://huggingface.co/datasets/Open-Orca/SlimOrca"
    assert (row.author, row.admitted_by) == ("Open-Orca", "all")


@pytest.mark.parametrize(
    "turns",
    [
        pytest.param((HUMAN, GPT), id="missing"),
        pytest.param((SYSTEM | {"value": ""}, HUMAN, GPT), id="empty"),
        pytest.param((SYSTEM | {"value": " \n"}, HUMAN, GPT), id="blank"),
        pytest.param((SYSTEM | {"value": None}, HUMAN, GPT), id="null"),
    ],
)
def test_system_prompt_that_says_nothing_is_none(turns):
    assert row_of(*turns).system is None


@pytest.mark.parametrize(
    "turns",
    [
        pytest.param((HUMAN | {"weight": None}, GPT | {"weight": None}), id="null-weights"),
        pytest.param(
            tuple({k: v for k, v in turn.items() if k != "weight"} for turn in (HUMAN, GPT)),
            id="no-weights",
        ),
        pytest.param((HUMAN | {"from": "user"}, GPT | {"from": "assistant"}), id="other-names"),
        pytest.param((HUMAN | {"value": "\n Why is the sky blue? "}, GPT), id="white-space"),
    ],
)
def test_variants_of_one_conversation_are_the_same_row(turns):
    assert row_of(*turns) == row_of(HUMAN, GPT)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b'{"conversations": [', "malformed", id="cut-off"),
        pytest.param(b"\xff\xfe\xff", "malformed", id="not-utf8"),
        pytest.param(b"[]", "malformed", id="a-list"),
        pytest.param(b"null", "malformed", id="null"),
        pytest.param(b"{}", "malformed", id="no-conversations"),
        pytest.param(b'{"conversations": null}', "malformed", id="null-conversations"),
        pytest.param(b'{"conversations": {"from": "human"}}', "malformed", id="an-object"),
        pytest.param(line("hello"), "malformed", id="turn-is-text"),
        pytest.param(line(HUMAN | {"from": "bing"}, GPT), "malformed", id="unknown-role"),
        pytest.param(line(HUMAN | {"from": None}, GPT), "malformed", id="null-role"),
        pytest.param(line(HUMAN | {"from": ["human"]}, GPT), "malformed", id="role-is-a-list"),
        pytest.param(line({"from": "human"}, GPT), "malformed", id="no-value"),
        pytest.param(line(HUMAN | {"value": "a\ud83d"}, GPT), "malformed", id="half-a-surrogate"),
        pytest.param(line(), "not_one_exchange", id="no-turn"),
        pytest.param(line(SYSTEM), "not_one_exchange", id="system-only"),
        pytest.param(line(HUMAN), "not_one_exchange", id="no-answer"),
        pytest.param(line(GPT, HUMAN), "not_one_exchange", id="wrong-order"),
        pytest.param(line(HUMAN, SYSTEM, GPT), "not_one_exchange", id="system-in-the-middle"),
        pytest.param(line(HUMAN, GPT, HUMAN, GPT), "not_one_exchange", id="two-exchanges"),
        pytest.param(line(HUMAN, GPT | {"value": ""}), "empty_text", id="empty-answer"),
        pytest.param(line(HUMAN, GPT | {"value": None}), "empty_text", id="null-answer"),
        pytest.param(line(HUMAN | {"value": " \n"}, GPT), "empty_text", id="blank-question"),
        pytest.param(line(HUMAN | {"value": 7}, GPT), "empty_text", id="number-as-question"),
    ],
)
def test_line_that_is_no_exchange_is_left_out_with_the_reason(content, reason):
    assert to_row(content, "abc") == reason


def test_row_is_known_by_its_text_whatever_line_it_stands_on(tmp_path):
    first, _ = scan_lines(tmp_path / "a", line(HUMAN, GPT), line(SYSTEM, HUMAN, GPT))
    second, _ = scan_lines(tmp_path / "b", line(SYSTEM, HUMAN, GPT), line(HUMAN, GPT))
    assert [row.row_id for row in first] == [row.row_id for row in reversed(second)]
    assert first[0].row_id != first[1].row_id


def test_scan_counts_what_it_leaves_out_and_goes_on(tmp_path):
    rows, tally = scan_lines(
        tmp_path,
        line(HUMAN, GPT),
        b"",
        b"{broken",
        line(GPT, HUMAN),
        b"  ",
        line(SYSTEM, HUMAN, GPT),
    )
    assert [row.system for row in rows] == [None, "Explain like I'm five."]
    assert tally.scanned == 4
    assert tally.dropped == {"malformed": 1, "not_one_exchange": 1}


def test_line_separator_inside_a_text_ends_no_line(tmp_path):
    content = json.dumps(
        {"conversations": [HUMAN, GPT | {"value": "one\u2028two\x85three"}]}, ensure_ascii=False
    )
    rows, tally = scan_lines(tmp_path, content.encode())
    assert [row.output for row in rows] == ["one\u2028two\x85three"]
    assert tally.scanned == 1


def test_folder_without_a_jsonl_file_is_named(tmp_path):
    (tmp_path / "Open-Orca" / "SlimOrca").mkdir(parents=True)
    config = Config(name="test", sources=SourcesConfig(origin=str(tmp_path)))
    with pytest.raises(SourceError, match=r"SlimOrca/.*: holds no \*\.jsonl file"):
        scan_slimorca(config)
