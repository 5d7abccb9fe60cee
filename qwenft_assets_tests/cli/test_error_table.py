"""Every mistake that a user can make is told in one line: what, where, how to fix it.

`pytest qwenft_assets_tests/cli/test_error_table.py -s` prints them all, to be read aloud.
"""

import os
import re
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from qwenft_assets import cli
from qwenft_assets.config import PROJECT_ROOT
from qwenft_assets.records import Record
from qwenft_assets_tests.cli.error_table import Raised, raised_errors

RAISED = raised_errors()
SENTENCE_END = re.compile(r"(?<=[.:;)}`])\s+(?=[A-Z`{(/])|; |: ")
WAYS_OUT = re.compile(
    r"^(Add|Ask|Check|Choose|Compare|Convert|Copy|Correct|Create|Delete|End|Export|Extend|Fetch|Fix|Free|"
    r"Give|If|In|Install|Its own|Let|Lower|Merge|Mend|Name|Nothing|Pin|Publish|Put|Raise|Redirect|Remove|"
    r"Rename|Roll|Run|Save|Say|Send|Set|Shorten|Spell|Start|Train|Use|Write|What came|remove|report|delete|"
    r"`[a-z]|/\w+ lists|It is|There (is|are)|A (row|line) looks|Change|List|Lay|Point|Do not|"
    r"the same command|publish|write it|give )"
)
DYNAMIC = re.compile(r"\{[^{}]*(problem|advice|error|reasons|_ways_out|_first|REMEDY)[^{}]*\}\.?$")
"""Ends in what is known at run time only; those are among the real ones below."""
MISTAKES = [
    ("run", "--recipe", "huge"),
    ("run", "--config", "none.yaml"),
    ("run", "--epochs", "3"),
    ("sample", "wikipedia"),
    ("sample",),
    ("plan", "--gpu-gib", "0"),
    ("infer",),
    ("infer", " "),
    ("infer", "Hi", "--adapter", "0f1e2d3c4b5a6978"),
    ("infer", "Hi", "--adapter", "champion"),
    ("infer", "Hi", "--top-p", "2"),
    ("infer", "--batch", "no.jsonl"),
    ("infer", "Hi", "--output", "out.jsonl"),
    ("chat",),
    ("serve", "--host", "0.0.0.0"),  # noqa: S104
    ("serve", "--engine", "x"),
    ("publish",),
    ("publish", "--target", "elsewhere"),
    ("publish", "--target", "hub"),
    ("verify", "no-such-folder"),
    ("releases", "show", "0f1e2d3c4b5a6978"),
    ("releases", "promote", "0f1e2d3c4b5a6978", "--why", " "),
    ("releases", "promote", "0f1e2d3c4b5a6978", "--why", "tried"),
    ("releases", "rollback"),
    ("nonsense",),
]


@pytest.fixture
def main(tmp_path, monkeypatch, capsys):
    """The real entry point, in a deployment where nothing was done yet; returns what it said."""
    config = tmp_path / "mine.yaml"
    config.write_text((PROJECT_ROOT / "configs" / "demo.yaml").read_text(encoding="utf-8"))
    monkeypatch.setenv("QWENFT_CONFIG", str(config))
    monkeypatch.setenv("QWENFT_STORAGE", str(tmp_path / "storage"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.delenv("QWENFT_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)

    def said(*words):
        monkeypatch.setattr("sys.argv", ["qwenft", *words])
        with Path(os.devnull).open(encoding="utf-8") as nothing:
            monkeypatch.setattr("sys.stdin", nothing)
            with pytest.raises(SystemExit) as ended:
                cli.main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return said


def has_way_out(message: str) -> bool:
    """Whether something after the first part says what to do."""
    return any(WAYS_OUT.match(part) for part in SENTENCE_END.split(message)[1:])


def test_all_of_them_are_printed_in_one_table():
    table = Table("error", "message", title=f"{len(RAISED)} mistakes", show_lines=True)
    for raised in RAISED:
        table.add_row(f"{raised.kind}\n{raised.place}", raised.message.replace("[", "\\["))
    Console(width=140).print(table)
    assert len(RAISED) > 150


@pytest.mark.parametrize("raised", RAISED, ids=lambda raised: raised.place)
def test_a_message_is_one_line_with_a_way_out(raised: Raised):
    assert raised.message
    assert "\n" not in raised.message
    assert not raised.message.startswith(("Error", "Invalid", "Failed"))
    if raised.kind == "GateRefusedError" or DYNAMIC.search(raised.message):
        return
    assert raised.message.endswith((".", "}", "com")), raised.message
    assert has_way_out(raised.message), raised.message


@pytest.mark.parametrize("kind", Record.__subclasses__(), ids=lambda kind: kind.__name__)
def test_every_record_says_what_to_do_about_a_damaged_file(kind: type[Record]):
    assert has_way_out(f"The file is damaged. {kind.REMEDY}")


@pytest.mark.parametrize("words", MISTAKES, ids=" ".join)
def test_the_command_says_it_in_one_line_and_ends_with_2(main, words):
    code, out, err = main(*words)
    Console(width=140, markup=False).print(err.strip(), soft_wrap=True)
    assert (code, out) == (2, ""), err
    assert err.startswith("qwenft: ")
    assert err.count("\n") == 1
    assert has_way_out(err), err
