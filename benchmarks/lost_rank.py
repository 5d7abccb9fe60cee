"""One of several training processes killed with -9: how the run ends, and whether it goes on.

    python benchmarks/lost_rank.py --model FOLDER --origin FOLDER [--device cuda] [--processes 2] \
        [--sharded]

`qwenft run` with launcher `accelerate`, on PubMedQA rows below --origin (laid out as the Hub), with the
original recipe; with --sharded the base is in bf16, its layers held once among all (FSDP2). Once a
checkpoint is sealed, the last process is killed; then the same command runs again. Without --model a
tiny random model is trained. Prints one JSON line; ends with 1 where a process is left, or the second
run began anew.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
RUN = "from qwenft_assets.cli import main; main()"
WORKER = b"qwenft_assets.training.worker"
SECONDS_TO_A_CHECKPOINT = 300
CONFIG = """
sources: {{origin: "{origin}", pubmedqa: {{holdout_official_test: false}}}}
mixture:
  recipes:
    small: {{rows: 500, ratios: {{pubmedqa: 1}}}}
launcher: {{kind: accelerate, processes: {processes}}}
training:
  base_model: "{model}"
  device: {device}
  weights: {weights}
  shard_base_weights: {sharded}
  min_vram_gib: 0
  epochs: {epochs}
  checkpoint_minutes: 0.1
  max_eval_rows: 32
evaluation: {{bundled_prompts: 1, prompt_max_new_tokens: 8, sample_rows: 1, sample_max_new_tokens: 8}}
release: {{min_canary_share: 0}}
"""


def main() -> None:
    """Run, kill, run again, print, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--origin", type=Path, required=True)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cpu")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--sharded", action="store_true")
    parser.add_argument("--epochs", type=float, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), options)
    print(json.dumps(figures))
    sys.exit(figures["processes_left"] > 0 or not figures["resumed_at_step"])


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Both runs in a deployment of their own."""
    if options.model is None:
        from qwenft_assets_tests.tiny_model import write_tiny_model

        options.model = folder / "tiny"
        write_tiny_model(options.model)
    on_gpu = options.device == "cuda"
    settings = {
        "origin": options.origin.resolve(),
        "model": options.model.resolve(),
        "weights": ("bf16" if options.sharded else "nf4") if on_gpu else "fp32",
        "sharded": "true" if options.sharded else "auto",
        **{name: getattr(options, name) for name in ("device", "processes", "epochs")},
    }
    (folder / "config.yaml").write_text(CONFIG.format(**settings), encoding="utf-8")
    storage = folder / "storage"
    environment = {
        **os.environ,
        "QWENFT_CONFIG": str(folder / "config.yaml"),
        "QWENFT_STORAGE": str(storage),
        "DAGSTER_HOME": str(folder / "home"),
        "HF_HUB_OFFLINE": "1",
    }
    (folder / "home").mkdir()
    (folder / "home" / "dagster.yaml").write_bytes(
        (ROOT / "dagster_home" / "dagster.yaml").read_bytes()
    )
    first = start(folder / "first.log", environment)
    checkpoint = wait_for_checkpoint(storage, first)
    ranks = training_processes()
    os.kill(ranks[max(ranks)], signal.SIGKILL)
    killed = time.monotonic()
    code = first.wait()
    ended = time.monotonic() - killed
    left = len(training_processes())
    began = time.monotonic()
    again = start(folder / "again.log", environment).wait()
    record = next(
        (json.loads(p.read_text()) for p in storage.glob("lora_adapter/*/*/training.json")), {}
    )
    evaluation = next(
        (json.loads(p.read_text()) for p in storage.glob("evaluation/*/*/evaluation.json")), {}
    )
    return {
        "processes": len(ranks),
        "killed_after": checkpoint.name,
        "first_exit_code": code,
        "seconds_to_the_end_of_the_run": round(ended, 1),
        "what_it_said": last_line(folder / "first.log"),
        "processes_left": left,
        "second_exit_code": again,
        "what_the_second_said": last_line(folder / "again.log"),
        "second_seconds": round(time.monotonic() - began, 1),
        "resumed_at_step": record.get("resumed_at"),
        "steps": record.get("steps"),
        "processes_of_the_second": [record.get("processes"), evaluation.get("processes")],
        "tokens_per_second": record.get("tokens_per_second"),
        "peak_vram_gib": record.get("peak_vram_gib"),
        "device": record.get("device"),
    }


def start(log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """`qwenft run` in a process of its own."""
    with log.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-c", RUN, "run", "--recipe", "small"],
            cwd=ROOT,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
        )


def wait_for_checkpoint(storage: Path, run: subprocess.Popen[bytes]) -> Path:
    """The first sealed checkpoint."""
    deadline = time.monotonic() + SECONDS_TO_A_CHECKPOINT
    while time.monotonic() < deadline and run.poll() is None:
        for seal in storage.glob("lora_adapter/small/.*.checkpoints/*/complete.json"):
            return seal.parent
        time.sleep(0.05)
    run.terminate()
    print((storage.parent / "first.log").read_text(errors="replace")[-6000:], file=sys.stderr)
    raise SystemExit(f"no checkpoint; the run says: {last_line(storage.parent / 'first.log')}")


def training_processes() -> dict[int, int]:
    """Process ids of the training's processes by rank."""
    found: dict[int, int] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            environment = (process / "environ").read_bytes().split(b"\0")
        except OSError:  # it ended meanwhile
            continue
        ranks = [e.partition(b"=")[2] for e in environment if e.startswith(b"RANK=")]
        if WORKER in words and ranks:
            found[int(ranks[0])] = int(process.name)
    return found


def last_line(log: Path) -> str:
    """What a run said last."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


if __name__ == "__main__":
    main()
