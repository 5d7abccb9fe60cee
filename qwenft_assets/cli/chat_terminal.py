"""The chat at a terminal: typed by prompt_toolkit, shown by rich."""

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import ROUNDED
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markdown import Markdown
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from qwenft_assets.cli.chat_commands import COMMANDS, Chat

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

REFRESHES_PER_SECOND = 12
LEAST_COLUMNS_SIDE_BY_SIDE = 80
FENCE = "```"


class TerminalView:
    """Markdown as it is written; Ctrl-C ends an answer and nothing else."""

    def __init__(self, console: Console) -> None:
        """Show things on `console`."""
        self._console = console
        self.stop = threading.Event()
        """Set by Ctrl-C while an answer comes."""

    def note(self, text: str) -> None:
        """A dim line."""
        self._console.print(Text(text, style="dim"))

    def table(self, rows: Iterable[tuple[str, str]]) -> None:
        """Names in colour, values beside them."""
        table = Table.grid(padding=(0, 2))
        table.add_column(style="cyan", no_wrap=True)
        table.add_column()
        for name, value in rows:
            table.add_row(Text(name), Text(value))
        self._console.print(table)

    def answer(self, pieces: Iterable[str]) -> None:
        """Whole blocks are printed for good, the block that grows is drawn anew as it grows."""
        text, printed = "", 0
        with self._answering(Spinner("dots", style="dim")) as live:
            for piece in pieces:
                text += piece
                whole = end_of_whole_blocks(text, printed)
                if whole > printed:
                    live.console.print(Markdown(text[printed:whole]))
                    printed = whole
                rest = text[printed:]
                live.update(_Tail(rest) if rest.strip() else Spinner("dots", style="dim"))
        if text[printed:].strip():
            self._console.print(Markdown(text[printed:]))

    def waiting(self, text: str, pieces: Iterable[str]) -> None:
        """A spinner until there are no more pieces."""
        with self._answering(Spinner("dots", Text(text, style="dim"))):
            for _ in pieces:
                pass

    def side_by_side(self, left: tuple[str, str], right: tuple[str, str]) -> None:
        """Two columns; one above the other where the terminal is narrow."""
        answers = (left, right)
        is_narrow = self._console.width < LEAST_COLUMNS_SIDE_BY_SIDE
        for shown in [(answer,) for answer in answers] if is_narrow else [answers]:
            table = Table(box=ROUNDED, border_style="dim", expand=True)
            for title, _ in shown:
                table.add_column(Text(title, style="cyan"), ratio=1)
            table.add_row(*(Markdown(text) for _, text in shown))
            self._console.print(table)

    @contextmanager
    def _answering(self, first: RenderableType) -> Iterator[Live]:
        """A live area; meanwhile Ctrl-C sets `stop` instead of raising."""

        def stop(signal_number: int, frame: object) -> None:  # noqa: ARG001
            self.stop.set()

        before = signal.signal(signal.SIGINT, stop)
        try:
            with Live(
                first,
                console=self._console,
                refresh_per_second=REFRESHES_PER_SECOND,
                transient=True,
                vertical_overflow="crop",
            ) as live:
                yield live
        finally:
            signal.signal(signal.SIGINT, before)


class _Tail:
    """The last lines of a growing block, as many as the terminal has room for."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: object) -> Iterator[RenderableType]:
        lines = console.render_lines(Markdown(self._text), pad=False)
        shown = lines[-max(1, console.height - 2) :]
        rows = [Text.assemble(*((part.text, part.style or "") for part in line)) for line in shown]
        yield Group(*rows)


def end_of_whole_blocks(text: str, start: int) -> int:
    """Where the last finished Markdown block ends: behind a blank line outside a code fence."""
    end, position, in_fence = start, start, False
    for line in text[start:].splitlines(keepends=True):
        position += len(line)
        if line.lstrip().startswith(FENCE):
            in_fence = not in_fence
        elif not in_fence and not line.strip() and line.endswith("\n"):
            end = position
    return end


def run_terminal_chat(chat: Chat, console: Console) -> None:
    """Read and answer until the user leaves."""
    session = _prompt_session(chat)
    while True:
        try:
            line = session.prompt()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        if not chat.handle(line):
            return
        console.print()


def _prompt_session(chat: Chat) -> "PromptSession[str]":
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.formatted_text import FormattedText
    from prompt_toolkit.styles import Style

    def toolbar() -> FormattedText:
        model = chat.conversation.model
        used = chat.conversation.used_tokens()
        return FormattedText(
            [
                ("", f" {model.base_name.rsplit('/', 1)[-1]}  "),
                ("", f"{model.adapter_version or 'no adapter'}  "),
                ("", f"{used}/{model.window_tokens} tokens  "),
                ("", "/help  Alt-Enter: new line "),
            ]
        )

    return PromptSession(
        [("class:prompt", "> ")],
        history=_history(),
        multiline=True,
        key_bindings=_key_bindings(),
        completer=WordCompleter([f"/{name}" for name in COMMANDS], sentence=True),
        complete_while_typing=False,
        prompt_continuation="  ",
        bottom_toolbar=toolbar,
        style=Style.from_dict(
            {"prompt": "ansicyan bold", "bottom-toolbar": "noreverse ansibrightblack"}
        ),
    )


def _key_bindings() -> "KeyBindings":
    """Enter sends; Alt-Enter, or Enter behind a backslash, begins a new line."""
    from prompt_toolkit.key_binding import KeyBindings

    bindings = KeyBindings()

    @bindings.add("enter")
    def send(event: "KeyPressEvent") -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def begin_line(event: "KeyPressEvent") -> None:
        event.current_buffer.insert_text("\n")

    return bindings


def _history() -> "History":
    """What was typed in earlier chats; only this one's where it cannot be written."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    file = state / "qwenft" / "chat_history"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(file))
