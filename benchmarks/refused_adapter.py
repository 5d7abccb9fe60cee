"""What becomes of a bad adapter: refused by the gate, rolled back, or cut off by kill -9.

    qwenft demo && python benchmarks/refused_adapter.py --rows 40

On a copy of the deployment, with the demo's config and base model:
1. An adapter trained on train rows whose answers are shuffled is evaluated against the champion and
   held against the gate.
2. Promoted by force, it answers; rolled back, the champion before answers at once.
3. With the shuffled one as champion, the good one passes the gate in a process that is killed before
   the pointer moves: the old champion answers. The same step again finishes the move.

Nothing is generated during evaluation, which takes most of its time on a CPU; the losses decide.
Prints one JSON line.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PROJECT_ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT_ROOT))

import pyarrow as pa  # noqa: E402

from qwenft_assets.config import Config, RecipeName, load_config  # noqa: E402
from qwenft_assets.evaluation.evaluate import evaluate  # noqa: E402
from qwenft_assets.evaluation.job import EvaluationJob, plan_evaluation  # noqa: E402
from qwenft_assets.hashing import short_hash  # noqa: E402
from qwenft_assets.mixture.split import EVAL, TRAIN  # noqa: E402
from qwenft_assets.progress import progress_bar  # noqa: E402
from qwenft_assets.release.registry import read_champion, release_adapter  # noqa: E402
from qwenft_assets.storage.files import read_json, read_parquet, write_json, write_parquet  # noqa: E402
from qwenft_assets.storage.root import Storage  # noqa: E402
from qwenft_assets.training.job import TrainingJob, plan_training  # noqa: E402
from qwenft_assets.training.run import TrainingRun  # noqa: E402
from qwenft_assets.training.train import train  # noqa: E402

RECIPE: RecipeName = "small"
KILLED_AT_THE_POINTER = """
import os, signal, sys
from pathlib import Path
from qwenft_assets.config import Config
from qwenft_assets.evaluation.job import EvaluationJob
from qwenft_assets.release import registry
from qwenft_assets.storage.root import Storage  # noqa: E402

registry.write_json = lambda path, value: os.kill(os.getpid(), signal.SIGKILL)
config, job = (Config.model_validate_json(sys.argv[1]), EvaluationJob.model_validate_json(sys.argv[2]))
registry.release_adapter(config, job, Storage(Path(sys.argv[3])))
"""


def shuffle_answers(storage: Storage, count: int) -> None:
    """Keep so many train rows, and give each the answer of another one, drawn at random."""
    folder = storage.mixed_dataset(RECIPE)
    table = read_parquet(folder / "rows.parquet")
    train_rows, eval_rows = (
        [row for row in table.to_pylist() if row["split"] == split] for split in (TRAIN, EVAL)
    )
    del train_rows[count:]
    answers = [row["output"] for row in train_rows]
    random.Random(0).shuffle(answers)
    for row, answer in zip(train_rows, answers, strict=True):
        row["output"] = answer
    write_parquet(
        folder / "rows.parquet",
        pa.Table.from_pylist([*train_rows, *eval_rows], schema=table.schema),
    )
    manifest = read_json(folder / "manifest.json") or {}
    version = short_hash(manifest["version"], "shuffled", str(count))
    write_json(folder / "manifest.json", {**manifest, "version": version})


def evaluated(config: Config, training: TrainingJob, storage: Storage) -> EvaluationJob:
    """Evaluate the job's adapter against the present champion."""
    job = plan_evaluation(config, training, storage)
    with progress_bar("evaluating") as report_progress:
        evaluate(job, report_progress, _log)
    return job


def qwenft(*command: str) -> str:
    """The output of a `qwenft` command on the copy."""
    program = [sys.executable, "-c", "from qwenft_assets.cli import main; main()"]
    done = subprocess.run(
        [*program, *command], stdout=subprocess.PIPE, text=True, check=True, cwd=PROJECT_ROOT
    )
    return done.stdout


def who_answers() -> str:
    """The version of the adapter that `qwenft infer` uses."""
    options = ("--max-new-tokens", "2", "--json")
    return json.loads(qwenft("infer", "What is a virus?", *options))["adapter_version"]


def run(storage: Storage, train_rows: int) -> dict[str, Any]:
    """All three steps; what was seen in each."""
    settings = load_config()
    quiet = settings.evaluation.model_copy(update={"bundled_prompts": 0, "sample_rows": 0})
    config = settings.model_copy(update={"evaluation": quiet})
    good = plan_training(config, RECIPE, storage, "cpu")
    champion = (read_champion(storage, RECIPE) or {})["version"]

    rows = storage.mixed_dataset(RECIPE)
    with tempfile.TemporaryDirectory() as kept:
        shutil.copytree(rows, Path(kept) / "rows")
        shuffle_answers(storage, train_rows)
        bad = plan_training(config, RECIPE, storage, "cpu")
        with progress_bar("training on shuffled answers") as report_progress:
            train(TrainingRun(bad, log=_log, report_progress=report_progress))
        refused = release_adapter(config, evaluated(config, bad, storage), storage)
        shutil.rmtree(rows)
        shutil.copytree(Path(kept) / "rows", rows)
    figures = read_json(storage.evaluation(RECIPE, bad.version) / "evaluation.json") or {}
    seen: dict[str, Any] = {
        "champion": champion,
        "shuffled": bad.version,
        "refused": {
            "released": refused.released,
            "reasons": refused.reasons,
            "champion_after": (read_champion(storage, RECIPE) or {})["version"],
            "eval_loss": figures["eval_loss"],
            "base_eval_loss": figures["base_eval_loss"],
            "champion_eval_loss": figures["champion_eval_loss"],
        },
        "answers": who_answers(),
    }
    force = ("releases", "promote", bad.version, "--force", "--why", "to roll it back")
    qwenft(*force)
    seen["answers_after_promotion_by_force"] = who_answers()
    qwenft("releases", "rollback", "--why", "trained on shuffled answers")
    seen["answers_after_rollback"] = who_answers()

    qwenft(*force)
    job = evaluated(config, good, storage)
    arguments = [config.model_dump_json(), job.model_dump_json(), str(storage.root)]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_AT_THE_POINTER, *arguments], cwd=PROJECT_ROOT, check=False
    )
    seen["killed_by"] = signal.Signals(-killed.returncode).name
    seen["answers_after_kill"] = who_answers()
    again = release_adapter(config, job, storage)
    seen["the_same_step_again"] = {"released": again.released, "reasons": again.reasons}
    seen["answers_in_the_end"] = who_answers()
    return seen


def _log(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)


def main() -> None:
    """Run on a copy and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--deployment", type=Path, default=PROJECT_ROOT / "data/out/demo", help="of `qwenft demo`"
    )
    parser.add_argument("--rows", type=int, default=1_000, help="train rows at most")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copy, home = Path(folder) / "demo", Path(folder) / "dagster_home"
        shutil.copytree(options.deployment, copy)
        home.mkdir()
        shutil.copy(PROJECT_ROOT / "dagster_home" / "dagster.yaml", home)
        os.environ.pop("QWENFT_CONFIG", None)
        os.environ.update(QWENFT_STORAGE=str(copy), DAGSTER_HOME=str(home))
        os.environ["PYTHONPATH"] = str(PROJECT_ROOT)
        print(json.dumps(run(Storage(copy), options.rows), ensure_ascii=False))


if __name__ == "__main__":
    main()
