"""How long the demo takes on this machine, first and second time, and what it buys.

    python benchmarks/demo_run.py

Runs `qwenft demo` twice in a fresh storage root and prints one JSON line.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path


def timed_demo(environment: dict[str, str]) -> tuple[float, dict[str, object]]:
    """Seconds and summary of one `qwenft demo`."""
    started = time.monotonic()
    command = [str(Path(sys.executable).with_name("qwenft")), "demo", "--json"]
    answer = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return time.monotonic() - started, json.loads(answer.stdout)


with tempfile.TemporaryDirectory() as folder:
    own = {**os.environ, "QWENFT_STORAGE": f"{folder}/storage", "DAGSTER_HOME": f"{folder}/home"}
    Path(own["DAGSTER_HOME"]).mkdir()
    first_seconds, summary = timed_demo(own)
    again_seconds, _ = timed_demo(own)
    adapter = Path(str(summary["paths"]["adapter"]))  # type: ignore[index]
    record = json.loads((adapter / "training.json").read_text(encoding="utf-8"))
evaluation = summary["evaluation"]
print(
    json.dumps(
        {
            "first_seconds": round(first_seconds, 1),
            "again_seconds": round(again_seconds, 1),
            "train_tokens_per_second": record["tokens_per_second"],
            "base_perplexity": round(evaluation["base_perplexity"], 2),  # type: ignore[index]
            "perplexity": round(evaluation["perplexity"], 2),  # type: ignore[index]
            "delta_loss_ci95": [round(x, 3) for x in evaluation["delta_loss_ci95"]],  # type: ignore[index]
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "versions": {
                n: version(n) for n in ("torch", "transformers", "trl", "peft", "dagster")
            },
        }
    )
)
