"""benchmarks/evaluation_throughput.py measures what it says: the same losses on both sides, medians."""

import json
import subprocess
import sys

import pytest

from qwenft_assets.config import PROJECT_ROOT


def test_both_sides_read_the_same_rows_and_the_median_round_counts():
    script = PROJECT_ROOT / "benchmarks" / "evaluation_throughput.py"
    command = [sys.executable, script, "--rows", "12", "--rounds", "3"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout.splitlines()[-1])
    theirs, ours = found["trainer_evaluate"], found["qwenft"]
    for side in (theirs, ours):
        assert side["rows"] == 12
        assert side["tokens_per_second"] == sorted(side["of_each_round"])[1]
    # Theirs is a mean over batches, ours over tokens.
    assert ours["adapter_loss"] == pytest.approx(theirs["adapter_loss"], rel=1e-3)
    assert found["times_faster"] == pytest.approx(
        ours["tokens_per_second"] / theirs["tokens_per_second"], abs=0.01
    )
    assert found["common_start_tokens"] > 0
    assert 0 < found["relative_difference_from_own_forward"] < 1e-5
