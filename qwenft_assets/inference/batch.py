"""Many questions from a file, one after the other, in order; a killed run goes on where it was."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qwenft_assets.config import DecodingConfig
from qwenft_assets.errors import PromptError, StorageError
from qwenft_assets.hashing import short_hash
from qwenft_assets.inference.generate import AnsweringModel
from qwenft_assets.progress import ReportProgress, no_progress
from qwenft_assets.storage.files import append_json_line
from qwenft_assets.text.chatml import render_prompt

BATCH_SEED = 0
"""Seed of rows that name none, so that a resumed run gives the same answers as an uninterrupted one."""
EXAMPLE = '{"instruction": "...", "input": "", "system": null}'


class Question(BaseModel):
    """One row of a batch; keys it does not know, such as a reference answer, are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    instruction: str = Field(min_length=1)
    input: str = ""
    system: str | None = None


@dataclass(frozen=True)
class BatchReport:
    """What a batch did."""

    rows: int
    resumed: int
    """Rows that an earlier run had answered already."""
    tokens: int


def read_questions(path: Path) -> list[Question]:
    """The rows of a batch file.

    Raises:
        PromptError: The file cannot be read, or a row is not as it must be.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise PromptError(
            f"{path}: cannot be read ({error.strerror}). Give --batch a file of lines {EXAMPLE}."
        ) from error
    except UnicodeDecodeError as error:
        raise PromptError(f"{path}: byte {error.start} is not UTF-8. Save it as UTF-8.") from error
    questions: list[Question] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            questions.append(Question.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            about = f"field {field!r}: " if field else ""
            raise PromptError(
                f"{path}: line {number}: {about}{first['msg']}. A line looks like {EXAMPLE}."
            ) from error
    if not questions:
        raise PromptError(f"{path}: has no rows. Add lines like {EXAMPLE}.")
    return questions


def answer_file(
    model: AnsweringModel,
    questions: Sequence[Question],
    output: Path,
    decoding: DecodingConfig,
    report_progress: ReportProgress = no_progress,
) -> BatchReport:
    """Answer every question into `output`, a JSON line each, in their order.

    Rows are answered one by one, as `infer` does: side by side in one padded batch, the penalties
    would count padding and rounding would differ. Finished rows stand in a `.part` beside the
    output, named by what they depend on, and are not answered again.

    Raises:
        PromptError: A question does not fit the window.
        StorageError: The output cannot be written.
    """
    if decoding.seed is None:
        decoding = decoding.model_copy(update={"seed": BATCH_SEED})
    prompts = [render_prompt(row.instruction, row.input, row.system) for row in questions]
    for number, prompt in enumerate(prompts, 1):
        try:
            model.answer(prompt, decoding)
        except PromptError as error:  # before hours of work, not after them
            raise PromptError(f"row {number}: {error}") from error
    key = short_hash(
        *prompts,
        model.base_name,
        str(model.base_path),
        model.adapter_version,
        str(model.is_merged),
        decoding.model_dump_json(),
    )
    part = output.with_name(f"{output.name}.{key}.part")
    try:
        finished = _finished_rows(part)
        resumed = len(finished)
        for row, prompt in list(zip(questions, prompts, strict=True))[len(finished) :]:
            report_progress(len(finished), len(prompts), "rows")
            answer = model.answer(prompt, decoding)
            text = "".join(answer)
            line = {
                **row.model_dump(exclude_none=True),
                "answer": text,
                "tokens": answer.tokens,
                "finish_reason": answer.finish_reason,
                "adapter_version": model.adapter_version,
            }
            append_json_line(part, line)
            finished.append(line)
        part.replace(output)
    except OSError as error:
        raise StorageError(
            f"{output}: cannot be written ({error.strerror or error}). Free space or change its "
            "permissions, then run the same command again: finished rows are kept."
        ) from error
    report_progress(len(prompts), len(prompts), "rows")
    return BatchReport(len(prompts), resumed, sum(line["tokens"] for line in finished))


def _finished_rows(part: Path) -> list[dict[str, Any]]:
    """Rows of an earlier run; half a line, left by a lost machine, is cut off."""
    if not part.exists():
        return []
    content = part.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        part.write_bytes(whole)
    return [json.loads(line) for line in whole.decode("utf-8").split("\n") if line]
