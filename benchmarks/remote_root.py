"""A demo run below a folder and one on S3 with failing requests: the same bytes, the same verification.

    .venv/bin/python benchmarks/remote_root.py --failing 0.1

The S3 server is moto's, on loopback, in a process of its own; a share of its requests fails, by an error,
a connection that is cut before or after the work, or half an answer. Afterwards a second stage, empty, is
filled from the server alone and checked: another machine. Takes two demo runs, some ten minutes.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from qwenft_assets.storage.integrity import check_artifacts
from qwenft_assets.storage.root import Storage
from qwenft_assets_tests.faults.random_kills import content_of
from qwenft_assets_tests.loopback_s3 import BUCKET, LoopbackS3, serving_s3

QWENFT = Path(sys.executable).with_name("qwenft")
SHARED = ("source_sample", "mixed_dataset", "lora_adapter", "evaluation", "release")
NOT_SENT = {"shards"}


def run(*command: str, **environment: str) -> str:
    """A command of the project in a Dagster home of its own; its standard output."""
    done = subprocess.run(
        [QWENFT, *command],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def files_of(root: Path) -> dict[str, object]:
    """Content that must be equal, by path: hashes, and JSON without times."""
    found = {}
    for path in (path for kind in SHARED for path in (root / kind).rglob("*") if path.is_file()):
        parts = path.relative_to(root).parts
        if not any(part.startswith(".") or part in NOT_SENT for part in parts):
            found["/".join(parts)] = content_of(path)
    return found


def verified(root: Path) -> list[tuple[str, int, str | None]]:
    """The finding of `qwenft doctor --verify` for each artifact."""
    return [
        (found.folder.relative_to(root).as_posix(), found.files, found.problem)
        for found in check_artifacts(Storage(root))
    ]


def on_s3(folder: Path, server: LoopbackS3) -> dict[str, float]:
    """The demo on the server, then its root filled anew from there; seconds of each."""
    keys = {**server.environment(), "QWENFT_STORAGE": f"s3://{BUCKET}/demo"}
    home = {"DAGSTER_HOME": str(folder / "home")}
    started = time.monotonic()
    run("demo", "--json", **keys, **home, QWENFT_STAGE=str(folder / "here"))
    ran = time.monotonic()
    met = len(server.met)
    run("doctor", "--verify", "--json", **keys, **home, QWENFT_STAGE=str(folder / "there"))
    return {"run": ran - started, "requests": met, "fetch": time.monotonic() - ran}


def main() -> None:
    """Both runs, and what differs."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--failing", type=float, default=0.1)
    options.add_argument("--seed", type=int, default=1)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "home").mkdir()
        settings = Path("dagster_home/dagster.yaml").read_text(encoding="utf-8")
        (folder / "home" / "dagster.yaml").write_text(settings, encoding="utf-8")
        home = {"DAGSTER_HOME": str(folder / "home")}
        started = time.monotonic()
        run("demo", "--json", **home, QWENFT_STORAGE=str(folder / "local"))
        local_seconds = time.monotonic() - started
        with serving_s3(chosen.failing, chosen.seed) as server:
            seconds = on_s3(folder, server)
        local, here, there = (files_of(folder / name) for name in ("local", "here", "there"))
        differing = sorted(
            name for name in local.keys() | there.keys() if local.get(name) != there.get(name)
        )
        print(f"local root: {local_seconds:.0f} s")
        print(
            f"S3, {chosen.failing:.0%} failing: {seconds['run']:.0f} s, {seconds['requests']} requests"
        )
        print(f"requests in all {len(server.met)}, failed {dict(server.faults)}")
        print(
            f"fetched by an empty stage: {len(there)} files in {seconds['fetch']:.0f} s with checks"
        )
        print(f"as sent: {here == there}; other than below the local root: {differing or 'none'}")
        checks = [verified(folder / name) for name in ("local", "there")]
        print(f"verification: {len(checks[1])} artifacts, the same as below the local root: "
              f"{checks[0] == checks[1]}")  # fmt: skip
        versions = re.findall(r"lora_adapter/small/(\w{16})/", " ".join(there))
        print(f"adapter {versions[0]}")
        sys.exit(bool(differing) or here != there or checks[0] != checks[1])


if __name__ == "__main__":
    main()
