"""A conversation: turns, what of them the window holds, and the rows they become."""

import json
import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from qwenft_assets.config import DecodingConfig
from qwenft_assets.errors import PromptError
from qwenft_assets.inference.generate import Answer, AnsweringModel
from qwenft_assets.sources.local_reports import parse_reports
from qwenft_assets.storage.files import write_text
from qwenft_assets.text.chatml import Turn, render_conversation, user_text


@dataclass(frozen=True)
class Exchange:
    """A question with its answer."""

    question: str
    answer: str
    is_cut: bool = False
    """The user stopped the answer."""

    def turns(self) -> tuple[Turn, Turn]:
        """As two turns."""
        return Turn("user", self.question), Turn("assistant", self.answer)


@dataclass
class Conversation:
    """What was said, and how the next answer is drawn."""

    model: AnsweringModel
    decoding: DecodingConfig
    system: str | None = None
    """System prompt; None for the fixed one of training."""
    exchanges: list[Exchange] = field(default_factory=list[Exchange])
    forgotten: int = 0
    """Exchanges, from the oldest, that no longer fit the window."""
    last_answer: Answer | None = None

    def prompt(self, question: str) -> str:
        """The rendered prompt for a question, with as much of the past as leaves room to answer.

        Raises:
            PromptError: Not even the question alone fits.
        """
        room = self.model.window_tokens - min(
            self.decoding.max_new_tokens, self.model.window_tokens // 2
        )
        self.forgotten = 0
        while True:
            prompt = render_conversation([*self._past(), Turn("user", question)], self.system)
            if self.forgotten == len(self.exchanges) or self.model.count_tokens(prompt) <= room:
                return prompt
            self.forgotten += 1

    def ask(self, question: str, stop: threading.Event | None = None) -> Generator[str]:
        """The answer, piece by piece; it becomes part of the conversation, a stopped one too.

        Raises:
            PromptError: The question is longer than the window; nothing is remembered of it.
        """
        answer = self.model.answer(self.prompt(question), self.decoding, stop)
        try:
            yield from answer
        finally:
            self.last_answer = answer
            is_cut = answer.finish_reason == "stopped"
            self.exchanges.append(Exchange(question, answer.text, is_cut))

    def used_tokens(self) -> int:
        """Tokens of the conversation as the next prompt would hold it, without a question."""
        return self.model.count_tokens(render_conversation(self._past(), self.system))

    def _past(self) -> list[Turn]:
        return [turn for exchange in self.exchanges[self.forgotten :] for turn in exchange.turns()]

    def undo(self) -> Exchange | None:
        """Take the last exchange back; None when there is none."""
        return self.exchanges.pop() if self.exchanges else None

    def reset(self) -> None:
        """Forget everything said; system prompt and settings stay."""
        self.exchanges.clear()
        self.forgotten = 0
        self.last_answer = None

    def set(self, name: str, value: str) -> None:
        """Change a decoding setting; `none` clears one that may be empty.

        Raises:
            PromptError: There is no such setting, or it cannot have that value.
        """
        self.decoding = changed_decoding(self.decoding, {name: value})

    def rows(self) -> list[dict[str, Any]]:
        """Training rows as `my_dataset.json` takes them; without answers that are cut or empty."""
        system = {} if self.system is None else {"system": self.system}
        return [
            {"instruction": exchange.question, "input": "", "output": exchange.answer, **system}
            for exchange in self.exchanges
            if not exchange.is_cut and exchange.question.strip() and exchange.answer.strip()
        ]

    def save(self, path: Path) -> int:
        """Add the conversation to a file of training rows, `.json` or `.jsonl`; make it if need be.

        Returns:
            Rows added; those that the file has already are left as they are.

        Raises:
            PromptError: The name says no format, there is nothing to save, or no such folder.
            SourceError: The file is there and holds something else.
            StorageError: It cannot be written.
        """
        if path.suffix not in {".json", ".jsonl"}:
            raise PromptError(f"{path}: rows are saved as .json or .jsonl. Name such a file.")
        rows = self.rows()
        if not rows:
            raise PromptError("nothing to save: no answer is whole yet. Ask something first.")
        if not path.parent.is_dir():
            raise PromptError(f"{path.parent}: no such folder. Create it, or name another file.")
        existing = _existing_rows(path)
        added = [row for row in rows if row not in existing]
        write_rows(path, [*existing, *added])
        return len(added)

    def load(self, path: Path) -> int:
        """Go on from a file of training rows: each becomes an exchange.

        Returns:
            Exchanges loaded.

        Raises:
            PromptError: The file cannot be read.
            SourceError: It holds no such rows.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise PromptError(
                f"{path}: cannot be read ({error.strerror}). Name a file that /save wrote."
            ) from error
        reports = parse_reports(content, path)
        self.reset()
        self.system = reports[0].system
        self.exchanges = [
            Exchange(user_text(report.instruction, report.input), report.output)
            for report in reports
        ]
        return len(self.exchanges)


def changed_decoding(decoding: DecodingConfig, changes: dict[str, Any]) -> DecodingConfig:
    """Decoding settings with some of them replaced, and checked.

    Args:
        decoding: As they were.
        changes: Values by name; text is read as the setting's type, `none` as no value.

    Raises:
        PromptError: There is no such setting, or it cannot have that value.
    """
    settings = decoding.model_dump()
    for name, value in changes.items():
        if name not in settings:
            raise PromptError(f"{name}: no such setting. There are: {', '.join(settings)}.")
        settings[name] = None if value == "none" else value
    try:
        return DecodingConfig.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise PromptError(
            f"{name} {first['input']}: {first['msg'][0].lower()}{first['msg'][1:]}. It is "
            f"{getattr(decoding, name)} now."
        ) from error


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows atomically, as a JSON list or as JSON lines."""
    if path.suffix == ".jsonl":
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_text(path, "".join(lines))
    else:
        write_text(path, json.dumps(rows, ensure_ascii=False, indent=2) + "\n")


def _existing_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file just as they stand in it; none when there is no file."""
    if not path.exists():
        return []
    content = path.read_bytes()
    parse_reports(content, path)  # refuses a file of anything else
    text = content.decode("utf-8-sig")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    return json.loads(text)
