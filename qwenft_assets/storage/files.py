"""Files of artifacts: read, hashed, and written so that they appear whole or not at all.

Every write goes to a `.part` sibling that is renamed once it is whole, so that neither a reader nor the
next run after a kill sees half of it. The sibling's name holds the process that writes it; the next run
removes what killed processes left, or puts it back.
"""

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from qwenft_assets.errors import QwenftError, StorageError
from qwenft_assets.records import Record
from qwenft_assets.storage.locking import is_alive

Line = TypeVar("Line", bound=BaseModel)
Kind = TypeVar("Kind", bound=Record)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A `.part` sibling to write to; it becomes `path` when the block ends without an error.

    Raises:
        StorageError: The disk is full or cannot be written.
    """
    part = _beside(path, "part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        # If the write failed, this may fail for the same reason, which is reported already.
        with suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A fresh `.part` folder; it becomes `path` when the block ends without an error.

    An existing `path` is replaced only then. A kill between the two renames leaves it aside, whole:
    `recover` puts it back.
    """
    part, aside = _beside(path, "part"), _beside(path, "aside")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        for file in part.rglob("*"):  # safetensors leaves 0600, which nobody else could serve
            file.chmod(0o755 if file.is_dir() else 0o644)
            if file.is_file():
                with file.open("rb+") as written:
                    os.fsync(written.fileno())
        if path.exists():
            path.replace(aside)
        try:
            part.replace(path)
        except OSError:
            if aside.exists():
                aside.replace(path)
            raise
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if path.exists():
            shutil.rmtree(aside, ignore_errors=True)


def recover(root: Path) -> None:
    """Repair what killed processes left: put back folders set aside, remove unfinished writes."""
    for left in root.rglob(".*.aside"):
        original = _original(left)
        if original is None:
            continue
        if original.exists():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.replace(original)
    for left in root.rglob(".*.part"):
        if _original(left) is None:
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


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
    path: Path, model: type[Line], error_kind: type[QwenftError], example: str
) -> list[Line]:
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
    records: list[Line] = []
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


def read_record(folder: Path, kind: type[Kind]) -> Kind | None:
    """The record of that kind in a folder; None when there is none.

    Raises:
        StorageError: It is damaged, or of a version of this program that wrote other fields.
    """
    path = folder / kind.FILE
    values = read_json(path)
    return None if values is None else _validated(values, kind, str(path))


def write_record(folder: Path, record: Record) -> None:
    """Write a record atomically into a folder, under its name."""
    write_json(folder / record.FILE, record.as_json())


def read_lines(folder: Path, kind: type[Kind]) -> list[Kind]:
    """The records of a JSON lines file in a folder; none when there is no file.

    Raises:
        StorageError: A line is damaged, or of a version of this program that wrote other fields.
    """
    path = folder / kind.FILE
    if not path.exists():
        return []
    records: list[Kind] = []
    # Not splitlines(): it would also break at U+2028 and others that stand inside strings.
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if line.strip():
            where = f"{path}: line {number}"
            try:
                values = json.loads(line)
            except ValueError as error:
                raise StorageError(f"{where} is not JSON ({error}). {kind.REMEDY}") from error
            records.append(_validated(values, kind, where))
    return records


def append_json_line(path: Path, value: Mapping[str, Any]) -> None:
    """Append one JSON line in a single write, so that a kill leaves whole lines only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
    with path.open("ab", buffering=0) as file:
        file.write(line.encode("utf-8"))
        os.fsync(file.fileno())


def _validated(values: Any, kind: type[Kind], where: str) -> Kind:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise StorageError(
            f"{where}: field {field!r}: {first['msg']}. It is damaged, or another version of qwenft "
            f"wrote it. {kind.REMEDY}"
        ) from error


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


def _beside(path: Path, kind: str) -> Path:
    """A hidden sibling that carries the name of this process."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{kind}")


def _original(beside: Path) -> Path | None:
    """The path that a hidden sibling belongs to; None while the process that made it may still run."""
    name, _, rest = beside.name[1:].partition(f".{socket.gethostname()}.")
    pid = rest.partition(".")[0]
    if not pid.isdigit() or is_alive(int(pid)):
        return None
    return beside.with_name(name)


def _not_written(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path}: cannot be written ({error.strerror or error}). Free space or change its "
        "permissions, then run the same command again."
    )
