"""The frozen evaluation set: rows that stay the same over rebuilds, and out of every mixture."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from qwenft_assets.config import PROJECT_ROOT, EvaluationConfig
from qwenft_assets.errors import EvaluationError
from qwenft_assets.hashing import short_hash
from qwenft_assets.rows import InstructionRow, make_row, rows_version
from qwenft_assets.storage.files import read_json_lines

EXAMPLE = '{"instruction": "...", "input": "", "output": "...", "source": "..."}'


class FrozenRow(BaseModel):
    """One line of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    instruction: str = Field(min_length=1)
    input: str = ""
    output: str = Field(min_length=1)
    system: str | None = None
    source: str = Field(default="frozen", min_length=1, description="The part it is reported in.")


def read_frozen_eval(settings: EvaluationConfig) -> list[InstructionRow]:
    """The rows of `evaluation.frozen_eval`; none where that is not set.

    Raises:
        EvaluationError: The file is missing, empty, holds a row twice, or a line is wrong.
    """
    if settings.frozen_eval is None:
        return []
    path = PROJECT_ROOT / Path(settings.frozen_eval).expanduser()
    rows = [
        make_row(
            source=line.source,
            upstream_id=short_hash(line.instruction, line.input, line.output, line.system),
            instruction=line.instruction,
            input=line.input,
            output=line.output,
            system=line.system,
            license="private",
            revision=path.name,
            admitted_by="frozen_eval",
        )
        for line in read_json_lines(path, FrozenRow, EvaluationError, EXAMPLE)
    ]
    if not rows:
        raise EvaluationError(f"{path}: has no rows. Add lines like {EXAMPLE}.")
    if len({row.row_id for row in rows}) < len(rows):
        raise EvaluationError(f"{path}: holds a row twice. Remove the copy.")
    return rows


def frozen_version(rows: list[InstructionRow]) -> str | None:
    """Content hash of the frozen rows; None where there are none."""
    return rows_version(rows) if rows else None
