"""Checkpoints that a killed run can go on from: whole, and of the same run.

The trainer writes a folder file by file; the seal comes last and holds a hash of each. A folder without
a seal that matches is not there.
"""

import dataclasses
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from qwenft_assets.errors import StorageError
from qwenft_assets.processes.child import Log
from qwenft_assets.storage.files import is_intact, read_json, sha256_of_file, write_json
from qwenft_assets.storage.root import Storage
from qwenft_assets.training.history import LossHistory

SEAL_FILE = "complete.json"
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes")
"""A step may come out otherwise with another version of these."""
LIBRARIES_OF_ENGINE = {"unsloth": ("unsloth", "unsloth_zoo", "triton")}


@dataclass(frozen=True)
class Identity:
    """What a run must share with another one to go on from its checkpoints."""

    version: str
    """Of the adapter: mixture, settings, base model, engine."""
    device: str
    libraries: dict[str, str]


def identity_of(version: str, device: str, engine: str = "peft") -> Identity:
    """The identity of a run in this environment."""
    return Identity(version, device, installed_versions(engine))


def installed_versions(engine: str = "peft") -> dict[str, str]:
    """Of the libraries that decide what is learnt."""
    found: dict[str, str] = {}
    for name in (*LIBRARIES, *LIBRARIES_OF_ENGINE.get(engine, ())):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def seal(folder: Path, identity: Identity, history: LossHistory) -> None:
    """Say that a checkpoint is whole, what run it is of, and what that run has seen."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    record = {
        "identity": dataclasses.asdict(identity),
        "history": dataclasses.asdict(history),
        "files": {file.name: sha256_of_file(file) for file in files},
    }
    write_json(folder / SEAL_FILE, record)


def newest_checkpoint(
    checkpoints: Path, identity: Identity
) -> tuple[Path | None, LossHistory, str | None]:
    """The checkpoint to go on from, the history up to it, and what stands against newer ones.

    Returns:
        The folder, None where training starts anew; the history; why one that is there is of no use.
    """
    reason = None
    for folder in sorted(checkpoints.glob("checkpoint-*"), key=_step_of, reverse=True):
        record, found = _read_seal(folder)
        if record is not None:
            found = _difference(record["identity"], identity) or _best_is_whole(folder)
            if found is None:
                return folder, _history(record["history"]), reason
        reason = reason or f"{folder.name} {found}"
    return None, LossHistory(), reason


def best_checkpoint(checkpoints: Path, best_step: int | None) -> Path | None:
    """The folder of the best one, which the trainer's state names by its path where it was saved."""
    return checkpoints / f"checkpoint-{best_step}" if best_step else None


def forget_old(checkpoints: Path, newest_step: int, best_step: int | None) -> None:
    """Remove all checkpoints but the newest and the best."""
    for folder in checkpoints.glob("checkpoint-*"):
        if _step_of(folder) not in {newest_step, best_step}:
            shutil.rmtree(folder, ignore_errors=True)


def send_checkpoints(storage: Storage, checkpoints: Path, log: Log) -> None:
    """Have the object store hold the same checkpoints; where it cannot be written, go on without."""
    try:
        storage.sync_up(checkpoints)
    except StorageError as error:
        log(f"checkpoints not sent: {error}")


def require_room(checkpoints: Path) -> None:
    """See that the next checkpoint, of the size of the last, has room.

    Raises:
        StorageError: It has not; the checkpoints that are there stay.
    """
    folders = sorted(checkpoints.glob("checkpoint-*"), key=_step_of)
    if not folders:
        return
    needed = sum(file.stat().st_size for file in folders[-1].iterdir())
    free = shutil.disk_usage(checkpoints).free
    if free < needed:
        raise StorageError(
            f"{checkpoints}: {free / 2**20:.0f} MiB free, the next checkpoint needs "
            f"{needed / 2**20:.0f}. Free space; the same command goes on from step "
            f"{_step_of(folders[-1])}."
        )


def _read_seal(folder: Path) -> tuple[dict[str, Any] | None, str | None]:
    try:
        record = read_json(folder / SEAL_FILE)
    except StorageError:
        record = None
    if record is None:
        return None, "was not finished"
    for name, sha256 in record["files"].items():
        if not is_intact(folder / name, sha256):
            return None, f"is damaged ({name})"
    return record, None


def _difference(theirs: dict[str, Any], ours: Identity) -> str | None:
    """What keeps a run from going on, in words."""
    own = dataclasses.asdict(ours)
    for name in sorted({*theirs["libraries"], *own["libraries"]}):
        before, now = theirs["libraries"].get(name), own["libraries"].get(name)
        if before != now:
            return f"was made with {name} {before or '(none)'}, now there is {now or 'none'}"
    for name, value in own.items():
        if theirs.get(name) != value:
            return f"was made with {name} {theirs.get(name)}, now it is {value}"
    return None


def _best_is_whole(folder: Path) -> str | None:
    state = read_json(folder / "trainer_state.json") or {}
    best = best_checkpoint(folder.parent, state.get("best_global_step"))
    if best is None or best == folder:
        return None
    _, problem = _read_seal(best)
    return f"needs the best one, {best.name}, which {problem}" if problem else None


def _history(values: dict[str, Any]) -> LossHistory:
    pairs = {
        name: [(int(step), float(value)) for step, value in values[name]]
        for name in ("train", "eval", "learning_rate")
    }
    return LossHistory(**{**values, **pairs})


def _step_of(folder: Path) -> int:
    number = folder.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1
