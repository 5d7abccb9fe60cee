"""What a line typed into the chat does: a question, or one of the slash commands."""

import shlex
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from qwenft_assets.errors import PromptError, QwenftError
from qwenft_assets.inference.conversation import Conversation
from qwenft_assets.inference.load import NO_ADAPTER, AnsweringModels
from qwenft_assets.text.chatml import SYSTEM_PROMPT

LEAVE_WORDS = {"exit", "quit"}


class View(Protocol):
    """Where a chat shows things: a terminal, or plain text for a pipe."""

    stop: threading.Event
    """Set while an answer comes, it ends the answer."""

    def note(self, text: str) -> None:
        """A line about the chat itself."""
        ...

    def table(self, rows: Iterable[tuple[str, str]]) -> None:
        """Names with values."""
        ...

    def answer(self, pieces: Iterable[str]) -> None:
        """An answer as it comes."""
        ...

    def side_by_side(self, left: tuple[str, str], right: tuple[str, str]) -> None:
        """Two answers, each with a title."""
        ...

    def waiting(self, text: str, pieces: Iterable[str]) -> None:
        """Take pieces that are not shown as they come, under a sign of life."""
        ...


class Chat:
    """A conversation with the deployment's models, driven line by line."""

    def __init__(self, models: AnsweringModels, adapter: str | None, view: View) -> None:
        """Load the first model."""
        self.models = models
        self.view = view
        self.conversation = Conversation(models.get(adapter), models.config.decoding)

    def handle(self, line: str) -> bool:
        """Do what a line says; False when it says to leave.

        A mistake is a note, never the end of the conversation.
        """
        text = line.strip()
        if not text:
            return True
        if text.lower() in LEAVE_WORDS:
            return False
        try:
            if not text.startswith("/"):
                self.ask(text)
                return True
            name, _, argument = text[1:].partition(" ")
            command = COMMANDS.get(name.lower())
            if command is None:
                raise PromptError(f"/{name}: no such command. /help lists them.")
            if command.run is None:
                return False
            command.run(self, argument.strip())
        except QwenftError as error:
            self.view.note(str(error))
        return True

    def ask(self, question: str) -> None:
        """Show the answer to a question."""
        conversation = self.conversation
        known = conversation.forgotten
        self.view.stop.clear()
        pieces = conversation.ask(question, self.view.stop)
        self.view.answer(pieces)
        if conversation.forgotten > known:
            self.view.note(
                f"the {_count(conversation.forgotten, 'oldest exchange')} no longer fit the window of "
                f"{conversation.model.window_tokens} tokens and were left out"
            )
        answer = conversation.last_answer
        if answer and answer.finish_reason == "stopped":
            self.view.note("stopped")
        elif answer and answer.finish_reason == "length":
            self.view.note(
                f"cut at {_count(answer.tokens, 'token')}: /set max_new_tokens allows more"
            )


@dataclass(frozen=True)
class Command:
    """A slash command."""

    usage: str
    help: str
    run: Callable[[Chat, str], None] | None
    """None: leave."""


def _help(chat: Chat, argument: str) -> None:  # noqa: ARG001
    chat.view.table((f"/{command.usage}", command.help) for command in COMMANDS.values())


def _system(chat: Chat, argument: str) -> None:
    if argument:
        chat.conversation.system = None if argument == "default" else argument
    system = chat.conversation.system
    chat.view.note(f"system prompt: {SYSTEM_PROMPT if system is None else system}")


def _reset(chat: Chat, argument: str) -> None:  # noqa: ARG001
    chat.conversation.reset()
    chat.view.note("forgotten; system prompt and settings stay")


def _set(chat: Chat, argument: str) -> None:
    name, _, value = argument.replace("=", " ", 1).partition(" ")
    if not name or not value.strip():
        raise PromptError(
            "/set takes a name and a value, such as `/set temperature 0.2`. /params lists them."
        )
    if name in {"window_tokens", "compile"}:
        raise PromptError(f"{name} is fixed once the model is loaded. Set it in the config.")
    chat.conversation.set(name, value.strip())
    chat.view.note(f"{name} {getattr(chat.conversation.decoding, name)}")


def _params(chat: Chat, argument: str) -> None:  # noqa: ARG001
    settings = chat.conversation.decoding.model_dump()
    settings["window_tokens"] = chat.conversation.model.window_tokens
    chat.view.table((name, "none" if v is None else str(v)) for name, v in settings.items())


def _compare(chat: Chat, argument: str) -> None:
    names, question = _what_to_compare(chat, argument)
    conversation = chat.conversation
    past = conversation.exchanges
    if not question:
        if not past:
            raise PromptError(
                "/compare needs a question: write it behind the command, or ask one first."
            )
        *past, last = past
        question = last.question
    prompt = replace(conversation, exchanges=past).prompt(question)
    models = [chat.models.get(name) for name in names]
    decoding = conversation.decoding
    chat.view.stop.clear()
    shown: list[tuple[str, str]] = []
    for name, model in zip(names, models, strict=True):
        answer = model.answer(prompt, decoding, chat.view.stop)
        decoding = decoding.model_copy(update={"seed": answer.seed})
        version = model.adapter_version
        title = "base" if version is None else name if name == version else f"{name} {version}"
        chat.view.waiting(f"{title} answers", answer)
        if answer.finish_reason == "stopped":
            chat.view.note("stopped")
            return
        shown.append((title, answer.text))
    chat.view.side_by_side(*shown)


def _what_to_compare(chat: Chat, argument: str) -> tuple[tuple[str, str], str]:
    """Two adapters, and the question; none where the last one is meant."""
    aliases = {"base": NO_ADAPTER, "candidate": "latest"}
    names = {*aliases, NO_ADAPTER, "champion", "latest", *chat.models.versions()}
    left, right, question = (*argument.split(maxsplit=2), "", "", "")[:3]
    if left in names and right in names:
        return (aliases.get(left, left), aliases.get(right, right)), question
    return (NO_ADAPTER, chat.conversation.model.adapter_version or "latest"), argument


def _retry(chat: Chat, argument: str) -> None:  # noqa: ARG001
    exchange = chat.conversation.undo()
    if exchange is None:
        raise PromptError("nothing to try again: no question was asked yet. Ask one first.")
    try:
        chat.ask(exchange.question)
    except PromptError:  # it no longer fits: a longer system prompt, say
        chat.conversation.exchanges.append(exchange)
        raise


def _undo(chat: Chat, argument: str) -> None:  # noqa: ARG001
    exchange = chat.conversation.undo()
    if exchange is None:
        raise PromptError("nothing to undo: no question was asked yet. Ask one first.")
    chat.view.note(f"taken back: {exchange.question}")


def _save(chat: Chat, argument: str) -> None:
    path = _file(argument, "/save")
    added = chat.conversation.save(path)
    chat.view.note(f"{path}: {_count(added, 'training row')} added")


def _load(chat: Chat, argument: str) -> None:
    path = _file(argument, "/load")
    chat.view.note(f"{path}: {_count(chat.conversation.load(path), 'exchange')} loaded")


def _file(argument: str, command: str) -> Path:
    try:
        words = shlex.split(argument)
    except ValueError:
        words = [argument]
    if len(words) != 1:
        raise PromptError(f"{command} takes one file. Write it behind: `{command} talk.jsonl`.")
    return Path(words[0]).expanduser()


def _adapter(chat: Chat, argument: str) -> None:
    if argument:
        chat.conversation.model = chat.models.get("none" if argument == "base" else argument)
    chat.view.note(describe_model(chat))


def _stats(chat: Chat, argument: str) -> None:  # noqa: ARG001
    answer = chat.conversation.last_answer
    if answer is None:
        raise PromptError("no figures yet: nothing was answered. Ask something first.")
    model, speed = chat.conversation.model, answer.tokens_per_second
    weights = "merged bf16, compiled" if model.is_merged else "as trained"
    chat.view.table(
        (
            ("prompt", _count(answer.prompt_tokens, "token")),
            ("answer", f"{_count(answer.tokens, 'token')}, ended by {answer.finish_reason}"),
            ("first token after", f"{answer.first_token_seconds or 0:.2f} s"),
            ("speed", f"{speed:.1f} tokens/s" if speed else "one token has none"),
            ("time", f"{answer.seconds:.1f} s"),
            ("seed", str(answer.seed)),
            ("window", f"{chat.conversation.used_tokens()} of {model.window_tokens} tokens"),
            ("loaded in", f"{model.load_seconds:.1f} s, weights {weights}"),
        )
    )


def describe_model(chat: Chat) -> str:
    """Which base model with which adapter answers."""
    model = chat.conversation.model
    adapter = f"adapter {model.adapter_version}" if model.adapter_version else "no adapter"
    return f"{model.base_name}, {adapter}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


COMMANDS: dict[str, Command] = {
    "help": Command("help", "this list", _help),
    "system": Command("system [TEXT]", "show or replace the system prompt; `default`", _system),
    "reset": Command("reset", "forget what was said", _reset),
    "set": Command("set NAME VALUE", "change a decoding setting", _set),
    "params": Command("params", "the decoding settings", _params),
    "compare": Command(
        "compare [A B] [TEXT]",
        "two adapters on one prompt and seed; else base and this one, on the last question",
        _compare,
    ),
    "retry": Command("retry", "ask the last question again", _retry),
    "undo": Command("undo", "take the last question and answer back", _undo),
    "save": Command("save FILE", "add the conversation to .json or .jsonl training rows", _save),
    "load": Command("load FILE", "go on from such a file", _load),
    "adapter": Command(
        "adapter [VERSION]", "which answers; or `champion`, `latest`, `none`", _adapter
    ),
    "stats": Command("stats", "figures of the last answer", _stats),
    "quit": Command("quit", "leave; so do exit, quit and Ctrl-D", None),
    "exit": Command("exit", "leave", None),
}
