"""The same bytes whatever the order of the rows, the hash seed, the threads and the process."""

import os
import random
import subprocess
import sys

import pytest

from qwenft_assets.config import PROJECT_ROOT
from qwenft_assets.mixture.build import build_mixture
from qwenft_assets.storage.root import Storage
from qwenft_assets_tests.mixture.sampled_rows import put_sample, row, rows_of, small_config

BUILD = """
import sys
from pathlib import Path
from qwenft_assets.mixture.build import build_mixture
from qwenft_assets.storage.root import Storage
from qwenft_assets_tests.mixture.sampled_rows import small_config
build_mixture(small_config(rows=400), "small", Storage(Path(sys.argv[1])))
"""


def put_shuffled(storage: Storage, seed: int) -> None:
    """Samples with copies and near-copies, in an order that the seed decides."""
    for source in ("local_reports", "slimorca", "pubmedqa"):
        rows = rows_of(source, 150)
        for n in range(20):
            original = rows_of("slimorca", 20)[n]
            near = f"{original.output} indeed"
            rows.append(row(source, f"copy-{n}", original.instruction.upper(), original.output))
            rows.append(row(source, f"near-{n}", original.instruction, near))
        random.Random(seed).shuffle(rows)
        put_sample(small_config(), storage, source, rows, version="the same rows")


def files_of(storage: Storage) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in storage.mixed_dataset("small").iterdir()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    storage = Storage(tmp_path_factory.mktemp("expected"))
    put_shuffled(storage, seed=0)
    report = build_mixture(small_config(rows=400), "small", storage)
    assert report.manifest["dropped_duplicate"] > 0
    assert report.manifest["dropped_near_duplicate"] > 0
    return files_of(storage)


def test_order_of_the_samples_does_not_matter(storage, expected):
    put_shuffled(storage, seed=1)
    build_mixture(small_config(rows=400), "small", storage)
    assert files_of(storage) == expected


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({"PYTHONHASHSEED": "1", "RAYON_NUM_THREADS": "1"}, id="one-thread"),
        pytest.param(
            {"PYTHONHASHSEED": "2", "RAYON_NUM_THREADS": "4", "OMP_NUM_THREADS": "4"},
            id="four-threads",
        ),
    ],
)
def test_process_hash_seed_and_threads_do_not_matter(storage, expected, environment):
    put_shuffled(storage, seed=2)
    environment = {**os.environ, **environment, "PYTHONPATH": str(PROJECT_ROOT)}
    command = [sys.executable, "-c", BUILD, str(storage.root)]
    subprocess.run(command, env=environment, check=True, cwd=PROJECT_ROOT)
    assert files_of(storage) == expected
