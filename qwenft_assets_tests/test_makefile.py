"""`make install` brings what a GPU needs where there is one, and nothing of it elsewhere."""

import subprocess
from pathlib import Path

import pytest

from qwenft_assets.config import PROJECT_ROOT

DRIVER = Path("/proc/driver/nvidia/version")


def printed(*arguments, **environment) -> str:
    """What `make install` would run, on a machine where it has not run yet."""
    command = ["make", "--no-print-directory", "-n", "-B", "install", *arguments]
    answer = subprocess.run(
        command, cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return answer.stdout


def test_a_gpu_brings_unsloth_with_its_requirements():
    commands = printed("GPU=1")
    assert "-e '.[dev,serve,unsloth]'" in commands
    assert "--no-deps unsloth==2026.10.9 unsloth_zoo==2026.10.9" in commands


def test_without_a_gpu_neither_comes():
    commands = printed("GPU=")
    assert "-e '.[dev,serve]'" in commands
    assert "unsloth" not in commands


@pytest.mark.skipif(DRIVER.exists(), reason="this machine has a driver")
@pytest.mark.parametrize(("answers", "found"), [(0, True), (9, False)], ids=["driver", "no-driver"])
def test_nvidia_smi_answers_where_there_is_a_driver(tmp_path, answers, found):
    """Without /proc/driver/nvidia, as under WSL; nvidia-smi may be there without its driver."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nexit {answers}\n", encoding="utf-8")
    program.chmod(0o755)
    assert ("unsloth" in printed(PATH=f"{tmp_path}:/usr/bin:/bin")) is found
