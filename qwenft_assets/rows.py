"""The one thing that crosses stages: an instruction row and its Arrow schema."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

import pyarrow as pa

from qwenft_assets.hashing import short_hash


@dataclass(frozen=True, slots=True)
class InstructionRow:
    """One instruction with its answer, and where it came from."""

    row_id: str
    """Stable and free of content: hash of source and upstream id."""
    source: str
    """The partition it was sampled from."""
    instruction: str
    input: str
    output: str
    system: str | None
    """The row's own system prompt, where upstream has one."""
    upstream_id: str
    url: str
    author: str
    license: str
    revision: str
    """Commit of the upstream repository, or sha256 of the file."""
    admitted_by: str
    """The rule or keyword that let it in."""
    content_hash: str
    """Hash of instruction, input, output and system, exactly as written."""


ROW_COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(InstructionRow))
_values: Callable[[InstructionRow], tuple[str | None, ...]] = attrgetter(*ROW_COLUMNS)
"""As dataclasses.astuple, which would copy every text."""
ROW_SCHEMA = pa.schema(
    [pa.field(name, pa.string(), nullable=name == "system") for name in ROW_COLUMNS]
)
_MIXED_FIELDS: list[pa.Field[Any]] = [
    *ROW_SCHEMA,
    pa.field("split", pa.string(), nullable=False),
    pa.field("copy", pa.int32(), nullable=False),  # 0, or n for the n-th repeat of a train row
]
MIXED_SCHEMA = pa.schema(_MIXED_FIELDS)


def make_row(
    *,
    source: str,
    upstream_id: str,
    instruction: str,
    output: str,
    input: str = "",  # noqa: A002  (the field's name in the original format)
    system: str | None = None,
    url: str = "",
    author: str = "",
    license: str,  # noqa: A002
    revision: str,
    admitted_by: str,
) -> InstructionRow:
    """A row with its two hashes filled in."""
    return InstructionRow(
        row_id=short_hash(source, upstream_id),
        source=source,
        instruction=instruction,
        input=input,
        output=output,
        system=system,
        upstream_id=upstream_id,
        url=url,
        author=author,
        license=license,
        revision=revision,
        admitted_by=admitted_by,
        content_hash=short_hash(instruction, input, output, system),
    )


def is_private(license: str) -> bool:  # noqa: A002
    """Whether rows of this licence must never leave: nothing but a named licence lets them."""
    return license.strip().casefold() in {"", "private", "proprietary", "unknown", "none"}


def rows_to_table(rows: Sequence[InstructionRow]) -> pa.Table:
    """Rows as an Arrow table of ROW_SCHEMA, in the same order."""
    columns: list[Sequence[Any]] = list(zip(*(_values(row) for row in rows), strict=True))
    if not columns:
        columns = [[] for _ in ROW_COLUMNS]
    arrays = [pa.array(list(column), pa.string()) for column in columns]
    return pa.table(arrays, schema=ROW_SCHEMA)


def table_to_rows(table: pa.Table) -> list[InstructionRow]:
    """The rows of a table that has at least the columns of ROW_SCHEMA, in the same order."""
    columns = [table.column(name).to_pylist() for name in ROW_COLUMNS]
    return [InstructionRow(*values) for values in zip(*columns, strict=True)]


def texts_of(table: pa.Table, column: str) -> list[str]:
    """A column of rows that every row has."""
    values: list[Any] = table.column(column).to_pylist()
    return values


def rows_version(rows: Iterable[InstructionRow]) -> str:
    """Content hash of rows in their order: equal exactly when every field of every row is."""
    return version_of(map(row_hash, rows))


def row_hash(row: InstructionRow) -> str:
    """Content hash of every field of a row."""
    return short_hash(*_values(row))


def version_of(row_hashes: Iterable[str]) -> str:
    """`rows_version` of the rows that have these hashes, in their order."""
    digest = hashlib.sha256()
    for row_hashed in row_hashes:
        digest.update(row_hashed.encode())
    return digest.hexdigest()[:16]
