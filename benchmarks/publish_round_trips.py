"""Every way out and back with the champion of a deployment: sizes, seconds, and what a copy answers.

    QWENFT_STORAGE=data/out/demo python benchmarks/publish_round_trips.py

Publishes `small` to a Hub and a GitHub on loopback, to bare git repositories and to a folder, all
below a temporary one; nothing leaves the machine. Runs the demo first where nothing was released.
Needs git-lfs. Prints one JSON line.
"""

import json
import os
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from qwenft_assets.config import load_config
from qwenft_assets.inference.load import resolve_adapter
from qwenft_assets.model.base import fetch_base_model, find_base_model
from qwenft_assets.release.registry import read_champion
from qwenft_assets.storage.root import Storage
from qwenft_assets_tests.publishing.round_trips import (
    answers,
    places,
    round_trip,
    run,
    run_card,
)

config = load_config()
storage = Storage(config.storage_path())
environment: dict[str, str] = {}
command = str(Path(sys.executable).with_name("qwenft"))


def qwenft(*arguments: str) -> dict[str, Any]:
    """What `qwenft ... --json` prints."""
    return json.loads(run(environment, command, *arguments))


if read_champion(storage, "small") is None:
    run(environment, command, "demo")
adapter = storage.adapter("small", str(resolve_adapter(storage, "small", "champion")))
base_ref = find_base_model(config.training, storage)
base = fetch_base_model(base_ref, storage)
with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    trips, seconds = {}, {}
    with places(folder, environment, base_ref.name, base) as ways:
        for target, place in ways.items():
            started = time.monotonic()
            trips[target] = round_trip(target, place, folder, qwenft)
            seconds[target] = time.monotonic() - started
        card = (trips["hub"].copy / "README.md").read_text(encoding="utf-8")
        card_prints = run_card(card, environment)
    models = {target: trip.copy for target, trip in trips.items() if target != "code-only"}
    local, *copies = answers(base, [adapter, *models.values()])
print(
    json.dumps(
        {
            "version": adapter.name,
            "targets": {
                target: {
                    "files": len(trip.dry_run["files"]),
                    "bytes": trip.dry_run["bytes"],
                    "dry_run_asked": trip.asked_by_dry_run,
                    "verified_files": trip.verified["verified_files"],
                    "again_unchanged": trip.again["unchanged"],
                    "seconds": round(seconds[target], 1),
                }
                for target, trip in trips.items()
            },
            "local_answers": local,
            "same_answers": {
                target: said == local for target, said in zip(models, copies, strict=True)
            },
            "card_prints": card_prints,
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "versions": {n: version(n) for n in ("torch", "transformers", "peft")},
        },
        ensure_ascii=False,
    )
)
