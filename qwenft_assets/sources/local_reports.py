"""The user's own rows: a JSON list, or JSON lines in a file that ends in .jsonl.

A mistake here is the user's to mend, so nothing is dropped: the first bad row stops the run.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from qwenft_assets.config import Config, LocalReportsSource, own_or_shipped
from qwenft_assets.errors import SourceError
from qwenft_assets.hashing import short_hash
from qwenft_assets.rows import InstructionRow, make_row
from qwenft_assets.sources.scan import Counts, Scan, Tally
from qwenft_assets.text.personal_data import find_personal_data

EXAMPLE = '{"instruction": "...", "input": "", "output": "..."}'


class Report(BaseModel):
    """One row of the file; keys it does not know are left alone."""

    model_config = ConfigDict(extra="ignore", strict=True)

    instruction: str = Field(min_length=1)
    input: str = ""
    output: str = Field(min_length=1)
    system: str | None = None
    id: str | None = Field(
        default=None, description="Keeps a row's identity when its text changes."
    )
    url: str = ""
    author: str | None = None
    license: str | None = None

    @field_validator("instruction", "output")
    @classmethod
    def _not_blank(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("must not be blank")
        return text.strip()


def reports_path(config: Config) -> Path:
    """Where the reports are; a relative path is read from the project's root."""
    return own_or_shipped(config.sources.local_reports.path)


def scan_local_reports(config: Config) -> Scan:
    """The rows of `sources.local_reports.path`.

    Raises:
        SourceError: The file is missing, not JSON, not a list, empty, or a row is not as it must be.
    """
    settings = config.sources.local_reports
    path = reports_path(config)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SourceError(
            f"{path}: cannot be read ({error.strerror}). Put your reports there as a JSON list of "
            f"{EXAMPLE}, or point sources.local_reports.path to them."
        ) from error
    reports = parse_reports(content, path)
    revision = hashlib.sha256(content).hexdigest()

    def read(shard: str, tally: Tally) -> Iterator[InstructionRow]:  # noqa: ARG001  (the one file)
        tally.bytes_read += len(content)
        for number, report in enumerate(reports, 1):
            tally.scanned += 1
            if settings.personal_data != "ignore":
                tally.findings.update(_personal_data(report, number))
            yield to_row(report, settings, revision)
        if settings.personal_data == "fail" and tally.findings:
            raise SourceError(
                f"{path}: personal data: {', '.join(tally.findings)}. Remove it, or set "
                "sources.local_reports.personal_data to report or ignore."
            )

    return Scan(revision, (path.name,), read)


def parse_reports(content: bytes, path: Path) -> list[Report]:
    """Every row of the file, checked.

    Raises:
        SourceError: Naming the file, the line or row, the field, and the mend.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: byte {error.start} is not UTF-8. Save it as UTF-8.") from error
    if path.suffix == ".jsonl":
        # Not splitlines(): it would also break at U+2028 and others that stand inside strings.
        lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        items = [(f"line {n}", _parse_json(line, path, n)) for n, line in lines]
    else:
        value = _parse_json(text, path, 1)
        if not isinstance(value, list):
            raise SourceError(
                f"{path}: holds a JSON {_json_type(value)}, a list is needed. Write [{EXAMPLE}], or "
                "one object a line in a file that ends in .jsonl."
            )
        items = [(f"row {n}", item) for n, item in enumerate(value, 1)]
    if not items:
        raise SourceError(f"{path}: has no rows. Add some like {EXAMPLE}.")
    return [_check(item, f"{path}: {place}") for place, item in items]


def _personal_data(report: Report, number: int) -> Counts:
    text = "\n".join((report.instruction, report.input, report.output, report.system or ""))
    found = find_personal_data(text)
    return Counts({f"{kind} in row {number}": count for kind, count in found.items()})


def to_row(report: Report, settings: LocalReportsSource, revision: str) -> InstructionRow:
    """A checked report as an instruction row."""
    content = short_hash(report.instruction, report.input, report.output, report.system)
    return make_row(
        source="local_reports",
        upstream_id=report.id or content,
        instruction=report.instruction,
        input=report.input.strip(),
        output=report.output,
        system=report.system,
        url=report.url,
        author=report.author or settings.author,
        license=report.license or settings.license,
        revision=revision,
        admitted_by="all",
    )


def _parse_json(text: str, path: Path, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise SourceError(
            f"{path}: line {line}, column {error.colno}: not JSON ({error.msg}). Fix that place; "
            f"a row looks like {EXAMPLE}."
        ) from error


def _check(item: object, place: str) -> Report:
    try:
        return Report.model_validate(item)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        about = f"field {field!r}: " if field else ""
        message = first["msg"].removeprefix("Value error, ")
        raise SourceError(f"{place}: {about}{message}. A row looks like {EXAMPLE}.") from error


def _json_type(value: object) -> str:
    names = {dict: "object", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
