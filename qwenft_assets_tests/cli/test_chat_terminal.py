"""`chat` at a real pseudo-terminal: what is typed, and what its screen shows."""

import io
import json
import re
import time

import pexpect
import pyte
import pytest
from rich.console import Console
from rich.markdown import Markdown

from qwenft_assets.cli.chat_terminal import TerminalView
from qwenft_assets.config import PROJECT_ROOT
from qwenft_assets_tests.answering_deployment import GREEDY, QUESTION, VERSION
from qwenft_assets_tests.commands import BIN


class Terminal:
    """A chat in a pseudo-terminal, and what its screen shows."""

    def __init__(self, deployment, tmp_path, *options):
        self.screen = pyte.HistoryScreen(100, 40, history=1000, ratio=1.0)
        self._stream = pyte.Stream(self.screen)
        environment = {
            **deployment.environment(), "TERM": "xterm", "XDG_STATE_HOME": str(tmp_path),
            "PROMPT_TOOLKIT_NO_CPR": "1",
        }  # fmt: skip
        del environment["COLUMNS"]
        self.process = pexpect.spawn(
            str(BIN / "qwenft"),
            ["chat", *options],
            env=environment,
            cwd=str(PROJECT_ROOT),
            dimensions=(40, 100),
            encoding="utf-8",
            timeout=120,
        )

    def wait_for(self, pattern):
        """Read until the screen shows the pattern; the whole screen."""
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                self._stream.feed(self.process.read_nonblocking(65536, timeout=0.2))
            except pexpect.TIMEOUT:
                pass
            except pexpect.EOF:
                break
            shown = "\n".join(line.rstrip() for line in self.screen.display)
            if re.search(pattern, shown):
                return shown
        raise AssertionError(
            f"{pattern!r} is not on the screen:\n" + "\n".join(self.screen.display)
        )

    def type(self, text):
        self.process.send(text)

    def leave(self):
        self.process.expect(pexpect.EOF)
        self.process.close()
        return self.process.exitstatus


def test_every_command_at_a_terminal(deployment, tmp_path):
    file = tmp_path / "talk.jsonl"
    terminal = Terminal(deployment, tmp_path / "state", *GREEDY)
    terminal.wait_for(rf"tiny-qwen2, adapter {VERSION}[\s\S]*\n>")
    for line, shown in (
        ("/help\r", r"/compare \[A B\] \[TEXT\][\s\S]*/quit"),
        ("/set temperature hot\r", "temperature hot: input should be a valid number"),
        ("/set max_new_tokens 6\r", "max_new_tokens 6"),
        ("Why\x1b\rnot?\r", r"cut at 6 tokens"),
        ("/stats\r", r"prompt +\d+ tokens\nanswer +6 tokens, ended by length\n"),
        ("/params\r", r"repetition_penalty\s+1\.3"),
        ("/compare\r", r"│ base +│ a{16} +│"),
        ("/retry\r", r"cut at 6 tokens[\s\S]*cut at 6 tokens"),
        (f"/save {file}\r", r"1\s+training\s+row\s+added"),  # a long path wraps the line anywhere
        ("/undo\r", "taken back: Why"),
        ("/reset\r", "forgotten; system prompt"),
        (f"/load {file}\r", r"1\s+exchange\s+loaded"),
        ("/system Be brief.\r", r"system prompt: Be brief\."),
        ("/adapter none\r", "tiny-qwen2, no adapter"),
        ("first \\\rsecond\x03", "second"),  # a new line; Ctrl-C drops what was typed
        ("\x1b[200~pasted\rtext\x1b[201~\x03", r"> pasted\n  text"),  # a paste sends nothing
    ):
        terminal.type(line)
        terminal.wait_for(shown)
    terminal.type("/quit\r")
    assert terminal.leave() == 0
    (row,) = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert row["instruction"] == "Why\nnot?"
    history = (tmp_path / "state" / "qwenft" / "chat_history").read_text(encoding="utf-8")
    assert "+/set max_new_tokens 6\n" in history


@pytest.mark.parametrize(("width", "is_beside"), [(100, True), (60, False)])
def test_two_answers_stand_beside_each_other_where_there_is_room(width, is_beside):
    console = Console(width=width, file=io.StringIO())
    with console.capture() as shown:
        TerminalView(console).side_by_side(("base", "*Left* [answer]"), ("adapter", "Right"))
    lines = shown.get().splitlines()
    assert max(len(line) for line in lines) == width
    assert any("base" in line and "adapter" in line for line in lines) is is_beside
    assert any("Left [answer]" in line and "Right" in line for line in lines) is is_beside


def as_markdown(text):
    """The lines that a terminal of 100 columns shows."""
    console = Console(width=100, file=io.StringIO())
    with console.capture() as shown:
        console.print(Markdown(text))
    return [line.rstrip() for line in shown.get().splitlines()]


def test_the_screen_of_a_conversation_in_whole(deployment, inferred, tmp_path):
    answer = [*as_markdown(inferred["answer"]), "cut at 8 tokens: /set max_new_tokens allows more"]
    base = str(deployment.folder.parent / "tiny-qwen2")
    terminal = Terminal(deployment, tmp_path, *GREEDY)
    terminal.wait_for(r"\n>")
    for line, last in (
        (QUESTION, "allows more"),
        ("/retry", "allows more[\\s\\S]*allows more"),
        ("/undo", "taken back"),
        ("/undo", "nothing to undo"),
        ("/adapter none", "no adapter"),
    ):
        terminal.type(f"{line}\r")
        terminal.wait_for(rf"{last}[^>]*\n\n>")
    terminal.type("/quit\r")
    assert terminal.leave() == 0
    shown = "\n".join(line.rstrip() for line in terminal.screen.display)
    start = shown.index("/help lists")
    assert shown[start:].rstrip().splitlines() == [
        "/help lists the commands; Ctrl-C stops an answer, exit leaves",
        "",
        f"> {QUESTION}", *answer, "",
        "> /retry", *answer, "",
        "> /undo", f"taken back: {QUESTION}", "",
        "> /undo", "nothing to undo: no question was asked yet. Ask one first.", "",
        "> /adapter none", f"  loading {base}", f"{base}, no adapter", "",
        ">",
    ]  # fmt: skip


def test_ctrl_c_stops_an_answer_and_not_the_program(deployment, tmp_path):
    # With this seed the answer has 1,500 characters: time to stop it.
    long = ("--max-new-tokens", "900", "--no-repeat-ngram-size", "0", "--seed", "4")
    terminal = Terminal(deployment, tmp_path, *long)
    terminal.wait_for(r"\n>")
    terminal.type("Why?\r")
    terminal.wait_for(r"> Why\?\n+\S")  # the first lines of the answer
    terminal.type("\x03")
    terminal.wait_for(r"\nstopped\n")
    terminal.type("/stats\r")
    terminal.wait_for(", ended by stopped")
    terminal.type("\x04")
    assert terminal.leave() == 0
