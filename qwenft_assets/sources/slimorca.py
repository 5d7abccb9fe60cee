"""Open-Orca/SlimOrca: GPT-4 answers to FLAN tasks, one conversation a JSON line (MIT)."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

from qwenft_assets.config import Config
from qwenft_assets.hashing import short_hash
from qwenft_assets.rows import InstructionRow, make_row
from qwenft_assets.sources.origin import Repository, open_repository
from qwenft_assets.sources.scan import Scan, Tally

REPO_ID = "Open-Orca/SlimOrca"
LICENSE = "MIT"
MAX_LINE_BYTES = 200_000
"""A longer line is a dump, not an answer to learn from."""
ROLE_OF = {"system": "system", "human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}


def scan_slimorca(config: Config) -> Scan:
    """The conversations of all `*.jsonl` files of the repository."""
    repository = open_repository(config.sources.origin, REPO_ID, config.sources.slimorca.revision)
    files = repository.require_files("", ".jsonl")
    revision = repository.revision_of(files)

    return Scan(revision, tuple(files), partial(_read, repository, revision))


def _read(
    repository: Repository, revision: str, path: str, tally: Tally
) -> Iterator[InstructionRow]:
    with repository.open(path) as lines:
        size = max(repository.local_path(path).stat().st_size, 1)
        for line in lines:
            tally.bytes_read += len(line)
            tally.share_read = tally.bytes_read / size
            if not line.strip():
                continue
            tally.scanned += 1
            row = to_row(line, revision) if len(line) <= MAX_LINE_BYTES else "too_long"
            if isinstance(row, str):
                tally.dropped[row] += 1
            else:
                yield row


def to_row(line: bytes, revision: str) -> InstructionRow | str:
    """One JSON line as a row, or the reason why it is none.

    The system prompt stays a field of its own: folded into the instruction it would be lost, dropped
    it would change what the answer means ("explain like I'm five").
    """
    try:
        conversation = json.loads(line)["conversations"]
        turns = [(ROLE_OF[turn["from"]], turn["value"]) for turn in conversation]
        for _, text in turns:
            _text_of(text).encode()  # half a surrogate pair is valid JSON and no text
    except (ValueError, KeyError, TypeError):
        return "malformed"
    system = _text_of(turns[0][1]) if turns and turns[0][0] == "system" else None
    dialogue = turns[1:] if turns and turns[0][0] == "system" else turns
    if [role for role, _ in dialogue] != ["human", "gpt"]:
        return "not_one_exchange"
    instruction, output = (_text_of(text) for _, text in dialogue)
    if not instruction or not output:
        return "empty_text"
    return make_row(
        source="slimorca",
        # Upstream has no ids; a line number would change with every new revision.
        upstream_id=short_hash(system, instruction, output),
        instruction=instruction,
        output=output,
        system=system or None,
        url=f"https://huggingface.co/datasets/{REPO_ID}",
        author="Open-Orca",
        license=LICENSE,
        revision=revision,
        admitted_by="all",
    )


def _text_of(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""
