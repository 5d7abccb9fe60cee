"""Records to put into a storage: those that a demo once wrote, with some fields changed."""

import json
from pathlib import Path

from qwenft_assets.storage.files import write_record

AS_WRITTEN = Path(__file__).with_name("as_written")


def as_written(kind):
    """The text of such a file, named by its type."""
    (file,) = AS_WRITTEN.glob(f"{kind.__name__}.json*")
    return file.read_text(encoding="utf-8")


def made_up(kind, **changed):
    text = as_written(kind)
    values = json.loads(text.split("\n")[0] if kind.FILE.endswith("l") else text)
    return kind.model_validate({**values, **changed})


def put(folder, kind, **changed):
    """Write such a record into a folder; returns it."""
    record = made_up(kind, **changed)
    write_record(folder, record)
    return record
