"""Checkpoints from which a killed run resumes: whole, and of the same run.

The trainer writes a folder file by file; the seal comes last and holds a hash of each. A folder whose
seal is missing or does not match is ignored.
"""

import dataclasses
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from qwenft_assets.config.engines import DEFAULT_ENGINE, ENGINES
from qwenft_assets.errors import StorageError
from qwenft_assets.storage.files import is_intact, read_json, sha256_of_file, write_json
from qwenft_assets.training.job import TrainingJob
from qwenft_assets.training.run import LossHistory, TrainingRun

SEAL_FILE = "complete.json"
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes")
"""Another version of one of these may change what a step computes."""


@dataclass(frozen=True)
class Identity:
    """What two runs must share for one to resume from the other's checkpoints."""

    version: str
    """Version of the adapter: mixture, settings, base model, engine."""
    device: str
    libraries: dict[str, str]


def identity_of(job: TrainingJob) -> Identity:
    """The identity of a job's run in this environment."""
    return Identity(job.version, job.device, installed_versions(job.engine))


def installed_versions(engine: str = DEFAULT_ENGINE) -> dict[str, str]:
    """Versions of the libraries that decide what is learnt."""
    found: dict[str, str] = {}
    for name in (*LIBRARIES, *ENGINES[engine].libraries):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def seal(run: TrainingRun, folder: Path) -> None:
    """Declare a checkpoint whole, with the identity of its run and the history up to it."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    record = {
        "identity": dataclasses.asdict(identity_of(run.job)),
        "history": dataclasses.asdict(run.history),
        "files": {file.name: sha256_of_file(file) for file in files},
    }
    write_json(folder / SEAL_FILE, record)


def resume(run: TrainingRun) -> tuple[Path | None, TrainingRun]:
    """The checkpoint that all processes resume from, each from its own disk, and the run so far.

    Returns:
        The folder, None where training starts anew; and the run with the history up to there.
    """
    run.storage.sync_down(run.checkpoints)
    name, history, problem = None, LossHistory(), None
    if run.ranks.is_main_process:
        last, history, problem = newest_checkpoint(run.checkpoints, identity_of(run.job))
        name = last.name if last else None
    name, history, problem = run.ranks.broadcast((name, history, problem))
    if problem:
        run.log(f"not gone on from: {problem}")
    run.log(f"going on from {name}" if name else "training from the start")
    return run.checkpoints / name if name else None, dataclasses.replace(run, history=history)


def forget(run: TrainingRun) -> None:
    """Remove all checkpoints of the run, here and in the object store."""
    shutil.rmtree(run.checkpoints, ignore_errors=True)
    if run.ranks.is_main_process:
        send_checkpoints(run)


def newest_checkpoint(
    checkpoints: Path, identity: Identity
) -> tuple[Path | None, LossHistory, str | None]:
    """The newest checkpoint that a run can resume from.

    Returns:
        Its folder, None where training starts anew; the history up to it; and why a newer one that is
        there cannot be used.
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
    """The folder of the best checkpoint, None where no step was the best yet."""
    return checkpoints / f"checkpoint-{best_step}" if best_step else None


def forget_old(checkpoints: Path, newest_step: int, best_step: int | None) -> None:
    """Remove all checkpoints but the newest and the best."""
    for folder in checkpoints.glob("checkpoint-*"):
        if _step_of(folder) not in {newest_step, best_step}:
            shutil.rmtree(folder, ignore_errors=True)


def send_checkpoints(run: TrainingRun) -> None:
    """Bring the object store's checkpoints up to date; a store that fails stops no training."""
    try:
        run.storage.sync_up(run.checkpoints)
    except StorageError as error:
        run.log(f"checkpoints not sent: {error}")


def require_room(checkpoints: Path) -> None:
    """See that the disk has room for a checkpoint as large as the last one.

    Raises:
        StorageError: It has not; existing checkpoints are kept.
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
    """Why a run cannot resume from a checkpoint, None if it can."""
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
