"""`qwenft chat`: a conversation in the terminal; plain text when it is piped."""

import sys
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from qwenft_assets.cli.answering import (
    Given,
    answering_models,
    decoded_input,
    with_decoding,
    with_decoding_options,
)
from qwenft_assets.cli.options import AdapterOption, ConfigOption, RecipeOption, load, recipe_named

if TYPE_CHECKING:
    from qwenft_assets.inference.load import AnsweringModels


@with_decoding_options
def chat(
    recipe: RecipeOption = "small",
    config: ConfigOption = None,
    adapter: AdapterOption = None,
    *,
    decoding: Given,
) -> None:
    r"""Talk to the adapter. /help lists the commands; Ctrl-C stops an answer, not the program.

    Examples: `qwenft chat`, `qwenft chat --adapter none --temperature 0`,
    `printf 'Hello\n/stats\nexit\n' | qwenft chat`
    """
    settings = with_decoding(load(config), decoding)
    models = answering_models(settings, recipe_named(settings, recipe), adapter)
    if sys.stdin.isatty() and sys.stdout.isatty():
        _chat_at_terminal(models, adapter)
    else:
        _chat_in_pipe(models, adapter)


def _chat_at_terminal(models: "AnsweringModels", adapter: str | None) -> None:
    from rich.console import Console

    from qwenft_assets.cli.chat_commands import Chat, describe_model
    from qwenft_assets.cli.chat_terminal import TerminalView, run_terminal_chat

    console = Console(highlight=False)
    talk = Chat(models, adapter, TerminalView(console))
    console.print(f"[bold]{describe_model(talk)}[/bold]")
    console.print("[dim]/help lists the commands; Ctrl-C stops an answer, exit leaves[/dim]\n")
    run_terminal_chat(talk, console)


def _chat_in_pipe(models: "AnsweringModels", adapter: str | None) -> None:
    from qwenft_assets.cli.chat_commands import Chat

    talk = Chat(models, adapter, PlainView())
    for line in _piped_lines():
        if not talk.handle(line):
            return


def _piped_lines() -> Iterator[str]:
    """Lines of standard input; one that ends with a backslash goes on in the next."""
    pending = ""
    for number, content in enumerate(sys.stdin.buffer, 1):
        line = decoded_input(content, number).rstrip("\r\n")
        if line.endswith("\\"):
            pending += line[:-1] + "\n"
            continue
        yield pending + line
        pending = ""
    if pending:
        yield pending


class PlainView:
    """Text without decoration: answers on standard output, notes on standard error."""

    def __init__(self) -> None:
        """Nothing sets `stop` here: an interrupt ends a pipe as a whole."""
        self.stop = threading.Event()

    def note(self, text: str) -> None:
        """A line in brackets."""
        print(f"({text})", file=sys.stderr, flush=True)

    def table(self, rows: Iterable[tuple[str, str]]) -> None:
        """A line a name."""
        for name, value in rows:
            print(f"{name}\t{value}")

    def answer(self, pieces: Iterable[str]) -> None:
        """Pieces as they come."""
        for piece in pieces:
            print(piece, end="", flush=True)
        print(flush=True)

    def side_by_side(self, left: tuple[str, str], right: tuple[str, str]) -> None:
        """One below the other."""
        for title, text in (left, right):
            print(f"[{title}]\n{text}", flush=True)

    def waiting(self, text: str, pieces: Iterable[str]) -> None:  # noqa: ARG002
        """Nothing is shown meanwhile."""
        for _ in pieces:
            pass
