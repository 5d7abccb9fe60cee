"""Files of artifacts: JSON, JSON lines and parquet, written atomically, and their hashes."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from qwenft_assets.errors import QwenftError, StorageError
from qwenft_assets.storage.atomic_writes import atomic_path

Record = TypeVar("Record", bound=BaseModel)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented, in the order given."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object at `path`; None when there is none.

    Raises:
        StorageError: The file is there and is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: not readable JSON ({error}). Delete it to rebuild.") from error
    if not isinstance(value, dict):
        raise StorageError(f"{path}: holds no JSON object. Delete it to rebuild.")
    return value


def read_json_lines(
    path: Path, model: type[Record], error_kind: type[QwenftError], example: str
) -> list[Record]:
    """The records of a JSON lines file that a user wrote; empty lines are skipped.

    Raises:
        QwenftError: Of `error_kind`: the file cannot be read, or a line is not as `example` shows.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise error_kind(
            f"{path}: cannot be read ({error}). It holds lines like {example}."
        ) from error
    records: list[Record] = []
    # Not splitlines(): it would also break at U+2028 and others that stand inside strings.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            records.append(model.model_validate_json(line, strict=True))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            about = f"field {field!r}: " if field else ""
            raise error_kind(
                f"{path}: line {number}: {about}{first['msg']}. A line looks like {example}."
            ) from error
    return records


def append_json_line(path: Path, value: dict[str, Any]) -> None:
    """Append one JSON line; a single write, so that a kill leaves whole lines only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
    with path.open("ab", buffering=0) as file:
        file.write(line.encode("utf-8"))
        os.fsync(file.fileno())


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a table atomically; the bytes depend on the table alone."""
    with atomic_path(path) as part:
        pq.write_table(table, part, compression="zstd", row_group_size=16_384)


def read_parquet(path: Path) -> pa.Table:
    """The whole table.

    Raises:
        StorageError: The file is damaged.
    """
    try:
        return pq.read_table(path)
    except FileNotFoundError:
        raise
    except (pa.ArrowInvalid, OSError) as error:
        problem = str(error).splitlines()[0]
        raise StorageError(
            f"{path}: not readable as parquet ({problem}). Delete its folder to rebuild."
        ) from error


def sha256_of_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_intact(path: Path, sha256: str | None) -> bool:
    """Whether the file exists with exactly this hash."""
    return sha256 is not None and path.is_file() and sha256_of_file(path) == sha256
