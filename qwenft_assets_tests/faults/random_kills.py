"""`kill -9` at seeded random moments in each stage, and what the next run makes of it.

Each kill is of a real process that runs one stage on a copy of a storage; in half of them an older
artifact of that stage is there already. Afterwards nothing may be torn, and the same stage, run again,
must leave what an undisturbed run leaves.
"""

import dataclasses
import hashlib
import json
import multiprocessing
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from qwenft_assets.config import Config
from qwenft_assets.storage.integrity import check_artifacts
from qwenft_assets.storage.root import Storage

STAGES = ("source_sample", "mixed_dataset", "lora_adapter", "evaluation", "release")
SOURCES = ("local_reports", "slimorca", "pubmedqa")
SECONDS = 240
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["qwenft_assets_tests.faults.warm"])
VOLATILE = {
    # Times, and what depends on the build before.
    *("seconds", "seconds_by_phase", "train_seconds", "eval_seconds", "tokens_per_second"),
    *("at", "resumed_at", "files", "base_path"),
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one kill."""

    stage: str
    after_seconds: float
    over_an_older_artifact: bool
    problems: tuple[str, ...]
    """Empty: recovered."""


def run_stage(stage: str, config: Config, root: Path) -> None:
    """One stage, in this process."""
    from qwenft_assets.evaluation.evaluate import evaluate
    from qwenft_assets.evaluation.job import plan_evaluation
    from qwenft_assets.mixture.build import build_mixture
    from qwenft_assets.progress import no_progress
    from qwenft_assets.release.registry import release_adapter
    from qwenft_assets.sources.sample import sample_source
    from qwenft_assets.training.job import plan_training, training_record
    from qwenft_assets.training.run import TrainingRun
    from qwenft_assets.training.train import silence_libraries, train

    silence_libraries()
    storage = Storage(root)
    storage.ensure_writable()
    storage.recover()
    if stage == "source_sample":
        for source in SOURCES:
            sample_source(config, source, storage)
        return
    if stage == "mixed_dataset":
        build_mixture(config, "small", storage)
        return
    job = plan_training(config, "small", storage, "cpu")
    if stage == "lora_adapter":
        if training_record(storage, "small", job.version) is None:
            train(TrainingRun(job))
        return
    evaluation = plan_evaluation(config, job, storage)
    if stage == "evaluation":
        evaluate(evaluation, no_progress, _ignore)
    else:
        release_adapter(config, evaluation, storage)


def random_kills(config: Config, folder: Path, kills: int, seed: int) -> Iterator[Outcome]:
    """Kill, run again, compare; stage after stage in turn, at a random moment of each.

    Args:
        config: Of a deployment that trains a tiny model on bundled samples.
        folder: To work in.
        kills: How many.
        seed: Of the moments.
    """
    draw = random.Random(seed)
    before, seconds = _undisturbed(config, folder)
    for number in range(kills):
        stage = STAGES[number % len(STAGES)]
        older = draw.random() < 0.5
        root = folder / f"kill-{number}"
        moment = draw.uniform(0, seconds[stage])
        while True:
            shutil.copytree(before[stage], root)
            if older:
                _add_older(stage, root, before["done"])
            if _killed(stage, config, root, moment):
                break
            shutil.rmtree(root)  # it was through already
            moment *= 0.7
        problems = _torn(root)
        code = _finish(stage, config, root)
        if code != 0:
            problems.append(f"the next run ended with {code}")
        problems += _torn(root) + _left_over(root)
        problems += _differences(stage, root, before["done"])
        yield Outcome(stage, round(moment, 3), older, tuple(problems))
        shutil.rmtree(root)


def _undisturbed(config: Config, folder: Path) -> tuple[dict[str, Path], dict[str, float]]:
    """The storage before each stage, and `done`; the seconds that each stage takes."""
    before: dict[str, Path] = {}
    seconds: dict[str, float] = {}
    root = folder / "undisturbed"
    root.mkdir(parents=True)
    for stage in STAGES:
        before[stage] = Path(shutil.copytree(root, folder / f"before-{stage}"))
        started = time.monotonic()
        assert _finish(stage, config, root) == 0, stage
        seconds[stage] = time.monotonic() - started
    before["done"] = root
    assert _torn(root) == []
    return before, seconds


def _add_older(stage: str, root: Path, done: Path) -> None:
    """An artifact of the stage that the run replaces: whole, but of other inputs."""
    if stage == "release":
        return
    shutil.rmtree(root / stage, ignore_errors=True)
    shutil.copytree(done / stage, root / stage, ignore=shutil.ignore_patterns("shards"))
    change: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "source_sample": lambda record: {**record, "identity": "older"},
        "mixed_dataset": lambda record: {**record, "inputs": "older"},
        "evaluation": lambda record: {**record, "inputs": "older"},
    }
    if stage in change:
        for record in [*(root / stage).rglob("manifest.json"), *root.rglob("evaluation.json")]:
            values = json.loads(record.read_text(encoding="utf-8"))
            record.write_text(json.dumps(change[stage](values)), encoding="utf-8")
    else:  # another version of the adapter beside the one to train
        (version,) = [path for path in (root / stage / "small").iterdir() if path.is_dir()]
        version.rename(version.with_name("0" * 16))


def _killed(stage: str, config: Config, root: Path, moment: float) -> bool:
    """Run the stage and kill it; False where it had ended before."""
    process = PROCESSES.Process(target=run_stage, args=(stage, config, root), daemon=True)
    process.start()
    process.join(moment)
    process.kill()
    process.join(SECONDS)
    return process.exitcode != 0


def _finish(stage: str, config: Config, root: Path) -> int | None:
    process = PROCESSES.Process(target=run_stage, args=(stage, config, root), daemon=True)
    process.start()
    process.join(SECONDS)
    return process.exitcode


def _torn(root: Path) -> list[str]:
    """Artifacts that are there and not whole."""
    # The rows of a sample are replaced before their manifest: in between it is not there.
    torn = [
        found.problem
        for found in check_artifacts(Storage(root))
        if found.problem and found.folder.parent.name != "source_sample"
    ]
    for record in root.rglob("*.json"):
        try:
            json.loads(record.read_text(encoding="utf-8"))
        except ValueError:
            if not any(part.startswith(".") for part in record.relative_to(root).parts):
                torn.append(f"{record} is torn")
    return torn


def _left_over(root: Path) -> list[str]:
    patterns = (".*.part", ".*.aside", ".*.checkpoints")
    return [f"{path} is left" for pattern in patterns for path in root.rglob(pattern)]


def _differences(stage: str, root: Path, done: Path) -> list[str]:
    """Files of the stage that are not as an undisturbed run left them."""
    found: list[str] = []
    for file in sorted((done / stage).rglob("*")):
        ours = root / file.relative_to(done)
        if not file.is_file() or file.name in {"diff.json", "loss.png", "report.md"}:
            continue
        if not ours.is_file():
            found.append(f"{ours} is missing")
        elif content_of(ours) != content_of(file):
            found.append(f"{ours} differs")
    return found


def content_of(file: Path) -> Any:
    """What must be equal in two runs of the same: a hash, or JSON without times."""
    if file.suffix == ".json":
        return _steady(json.loads(file.read_text(encoding="utf-8")))
    if file.name == "history.jsonl":
        return [_steady(json.loads(line)) for line in file.read_text("utf-8").splitlines()]
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _steady(item) for name, item in value.items() if name not in VOLATILE}
    return [_steady(item) for item in value] if isinstance(value, list) else value


def _ignore(line: str) -> None:
    """No log."""
