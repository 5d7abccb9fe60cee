"""`qwenft chat`: a conversation in the terminal; plain text when it is piped."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from qwenft_assets.cli.infer import (
    MaxNewTokensOption,
    SeedOption,
    TemperatureOption,
    load_answering_model,
    with_decoding,
)
from qwenft_assets.cli.options import (
    AdapterOption,
    ConfigOption,
    RecipeOption,
    load,
    recipe_named,
    use_dagster_home,
)

if TYPE_CHECKING:
    from qwenft_assets.config import DecodingConfig
    from qwenft_assets.inference.load import LoadedModel
    from qwenft_assets.text.chatml import Turn

LEAVE = {"exit", "quit", "/exit", "/quit"}


def chat(
    recipe: RecipeOption = "small",
    config: ConfigOption = None,
    adapter: AdapterOption = None,
    max_new_tokens: MaxNewTokensOption = None,
    temperature: TemperatureOption = None,
    seed: SeedOption = None,
) -> None:
    r"""Talk to the adapter. `exit` or `quit` leaves; Ctrl-C stops an answer, not the program.

    Examples: `qwenft chat`, `qwenft chat --adapter none --temperature 0`,
    `printf 'Hello\nexit\n' | qwenft chat`
    """
    settings = with_decoding(load(config), max_new_tokens, temperature, seed)
    loaded = load_answering_model(settings, recipe_named(settings, recipe), adapter)
    who = loaded.adapter_version or "no adapter"
    if sys.stdin.isatty():
        print(f"{settings.training.base_model}, {who}. `exit` leaves.", file=sys.stderr)
    converse(loaded, settings.decoding, settings.training.max_length_tokens, _questions())


def converse(
    loaded: "LoadedModel",
    decoding: "DecodingConfig",
    window_tokens: int,
    questions: Iterator[str],
) -> None:
    """Answer each question in turn, with what was said before as far as the window reaches."""
    from qwenft_assets.inference.generate import stream_answer
    from qwenft_assets.text.chatml import Turn, render_conversation

    turns: list[Turn] = []
    for question in questions:
        turns.append(Turn("user", question))
        turns = within_window(loaded, turns, window_tokens)
        pieces: list[str] = []
        answer = stream_answer(loaded.model, loaded.tokenizer, render_conversation(turns), decoding)
        try:
            for piece in answer:
                pieces.append(piece)
                print(piece, end="", flush=True)
        except KeyboardInterrupt:
            answer.close()
            print(" [stopped]", end="")
        print()
        turns.append(Turn("assistant", "".join(pieces)))


def within_window(loaded: "LoadedModel", turns: list["Turn"], window_tokens: int) -> list["Turn"]:
    """The newest turns whose rendering fits; the last one always stays."""
    from qwenft_assets.text.chatml import render_conversation

    kept = list(turns)
    while (
        len(kept) > 1 and len(loaded.tokenizer(render_conversation(kept)).input_ids) > window_tokens
    ):
        kept = kept[2:]
        print("(older turns dropped: the context window is full)", file=sys.stderr)
    return kept


def _questions() -> Iterator[str]:
    """What the user types, line by line, until `exit`, `quit` or the end of the input."""
    lines = _typed_lines() if sys.stdin.isatty() else (line for line in sys.stdin)
    for line in lines:
        question = line.strip()
        if question.lower() in LEAVE:
            return
        if question:
            yield question


def _typed_lines() -> Iterator[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory

    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(use_dagster_home() / "chat_history"))
    )
    while True:
        try:
            yield session.prompt("> ")
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
