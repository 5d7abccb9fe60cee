"""Sampling from a Hub over real HTTP: faults, kills and missing networks change no byte."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from qwenft_assets.config import PROJECT_ROOT
from qwenft_assets_tests.loopback_hub import Faults, LoopbackHub, loopback_hub

SAMPLES = PROJECT_ROOT / "data" / "samples"
SAMPLE = """
import json, sys
from pathlib import Path
from qwenft_assets.config import Config
from qwenft_assets.errors import SourceError
from qwenft_assets.sources.sample import sample_source
from qwenft_assets.storage.root import Storage
source, root, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
config = Config.model_validate({"name": "t", "sources": {"origin": "hub", source: settings}})
try:
    report = sample_source(config, source, Storage(Path(root)),
                           lambda done, total, note="": print(done, total, flush=True))
    print(json.dumps({**report.manifest, "reused": report.reused}))
except SourceError as error:
    print(f"SourceError: {error}")
"""
SITES = {"sites": ["ai.stackexchange.com", "stats.stackexchange.com", "cs.stackexchange.com",
                   "datascience.stackexchange.com", "robotics.stackexchange.com"]}  # fmt: skip


def command(source: str, root: Path, **settings) -> list[str]:
    return [sys.executable, "-c", SAMPLE, source, str(root), json.dumps(settings)]


def sample(hub: LoopbackHub, folder: Path, source: str, environment=None, **settings) -> str:
    """The last line that a sampling process prints; its sample is in `folder`/storage."""
    answer = subprocess.run(
        command(source, folder / "storage", **settings),
        env={**hub.environment(folder / "cache"), **(environment or {})},
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    return answer.stdout.splitlines()[-1]


def rows_bytes(folder: Path, source: str) -> bytes:
    return (folder / "storage" / "source_sample" / source / "rows.parquet").read_bytes()


@pytest.mark.parametrize(
    ("source", "rows"), [("slimorca", 100), ("pubmedqa", 50), ("stackexchange_ai", 42)]
)
def test_the_hub_gives_what_the_folder_gives_with_its_commit(tmp_path, source, rows):
    with loopback_hub(SAMPLES) as hub:
        manifest = json.loads(sample(hub, tmp_path, source))
        repos = {"slimorca": "Open-Orca/SlimOrca", "pubmedqa": "qiaojin/PubMedQA"}
        repo = repos.get(source, "HuggingFaceH4/stack-exchange-preferences")
        assert manifest["rows"] == rows
        assert manifest["revision"] == hub.commit(repo)
        table = pq.read_table(tmp_path / "storage" / "source_sample" / source / "rows.parquet")
        assert set(table.column("revision").to_pylist()) == {hub.commit(repo)}
        assert not any(".meta." in request for request in hub.requests)
        before = len(hub.requests)
        assert json.loads(sample(hub, tmp_path, source))["reused"]
        assert len(hub.requests) - before < 8, "an unchanged source costs a few requests, no files"


def test_a_third_of_all_requests_failing_changes_no_byte(tmp_path):
    with loopback_hub(SAMPLES) as hub:
        sample(hub, tmp_path / "clean", "stackexchange_ai")
    with loopback_hub(SAMPLES, Faults(fraction=0.3)) as hub:
        manifest = json.loads(sample(hub, tmp_path / "faulty", "stackexchange_ai"))
        assert sum(hub.faults.counts.values()) >= 3
    assert manifest["rows"] == 42
    assert rows_bytes(tmp_path / "faulty", "stackexchange_ai") == rows_bytes(
        tmp_path / "clean", "stackexchange_ai"
    )


def test_a_killed_scan_goes_on_and_ends_with_the_same_bytes(tmp_path):
    with loopback_hub(SAMPLES) as hub:
        sample(hub, tmp_path / "clean", "stackexchange_ai", **SITES)
        hub.faults.bytes_per_second = 200_000
        killed = subprocess.Popen(
            command("stackexchange_ai", tmp_path / "killed" / "storage", **SITES),
            env=hub.environment(tmp_path / "killed" / "cache"),
            stdout=subprocess.PIPE,
            text=True,
        )
        with killed:
            assert killed.stdout is not None
            assert "2 5\n" in iter(killed.stdout.readline, "")
            killed.send_signal(signal.SIGKILL)
        folder = tmp_path / "killed" / "storage" / "source_sample" / "stackexchange_ai"
        assert not (folder / "manifest.json").exists()
        kept = {path: path.stat().st_mtime_ns for path in folder.glob("shards/*/*.parquet")}
        assert len(kept) >= 2
        hub.faults.bytes_per_second = 0
        sample(hub, tmp_path / "killed", "stackexchange_ai", **SITES)
        assert {path: path.stat().st_mtime_ns for path in kept} == kept
    for name in ("rows.parquet", "manifest.json"):
        clean = tmp_path / "clean" / "storage" / "source_sample" / "stackexchange_ai" / name
        assert (folder / name).read_bytes() == clean.read_bytes()


def test_a_larger_quota_goes_on_where_the_smaller_stopped(tmp_path):
    with loopback_hub(SAMPLES) as hub:
        small = json.loads(sample(hub, tmp_path, "stackexchange_ai", max_rows=10))
        assert (small["rows"], small["exhausted"]) == (10, False)
        few = [request for request in hub.requests if request.startswith("GET /datasets/")]
        assert len(few) < 5, "shards beyond the quota are not fetched"
        folder = tmp_path / "storage" / "source_sample" / "stackexchange_ai"
        first = pq.read_table(folder / "rows.parquet").column("row_id").to_pylist()
        large = json.loads(sample(hub, tmp_path, "stackexchange_ai", max_rows=40))
        assert large["rows"] == 40
        more = pq.read_table(folder / "rows.parquet").column("row_id").to_pylist()
        assert more[:10] == first
        assert json.loads(sample(hub, tmp_path, "stackexchange_ai", max_rows=10))["reused"]


def test_offline_reads_a_filled_cache_and_names_the_ways_out_of_an_empty_one(tmp_path):
    offline = {"HF_HUB_OFFLINE": "1"}
    with loopback_hub(SAMPLES) as hub:
        sample(hub, tmp_path, "pubmedqa")
        shutil.rmtree(tmp_path / "storage")
    assert json.loads(sample(hub, tmp_path, "pubmedqa", offline))["rows"] == 50
    message = sample(hub, tmp_path / "empty", "pubmedqa", offline)
    assert message.startswith("SourceError: qiaojin/PubMedQA: HF_HUB_OFFLINE is set")
    assert "Unset HF_HUB_OFFLINE" in message
    assert "QWENFT_SOURCES_ORIGIN" in message


def test_a_hub_that_never_answers_well_is_one_clear_error(tmp_path):
    with loopback_hub(SAMPLES, Faults(fraction=1.0, kinds=("dropped",), path="resolve")) as hub:
        message = sample(hub, tmp_path, "pubmedqa")
    assert message.startswith("SourceError: qiaojin/PubMedQA/pqa_labeled/train-00000")
    assert f"{hub.url} failed after 3 attempts" in message
    assert "run the same command again" in message


@pytest.mark.parametrize(
    ("revision", "wanted"), [("no-such-tag", "no-such-tag"), (None, "Repository Not Found")]
)
def test_what_the_hub_does_not_have_is_said_at_once(tmp_path, revision, wanted):
    folder = SAMPLES if revision else tmp_path
    with loopback_hub(folder) as hub:
        message = sample(hub, tmp_path / "x", "pubmedqa", revision=revision)
        assert len(hub.requests) <= 2
    assert message.startswith("SourceError: qiaojin/PubMedQA")
    assert os.linesep not in message.strip()
    assert wanted in message


def test_a_body_cut_off_is_never_taken_for_whole(tmp_path):
    with loopback_hub(SAMPLES, Faults(fraction=0.6, kinds=("cut",), path="resolve")) as hub:
        sample(hub, tmp_path, "pubmedqa")
        assert hub.faults.counts["cut"] >= 1
    original = next((SAMPLES / "qiaojin" / "PubMedQA").rglob("*.parquet")).read_bytes()
    cached = [path.read_bytes() for path in (tmp_path / "cache").rglob("*.parquet")]
    assert cached == [original]
