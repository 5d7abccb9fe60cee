"""CONTRIBUTING's new source, followed to the letter in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from qwenft_assets.config import PROJECT_ROOT

BLOCK = re.compile(r"```python\n# (\S+)\n(.*?)```", re.DOTALL)
COPIED = ("qwenft_assets", "qwenft_assets_tests", "configs", "data", "pyproject.toml")


@pytest.fixture
def followed(tmp_path):
    """A copy with the file, the test and the line of CONTRIBUTING.md in it."""
    for name in COPIED:
        of = PROJECT_ROOT / name
        if of.is_dir():
            shutil.copytree(
                of, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "out")
            )
        else:
            shutil.copy(of, tmp_path / name)
    blocks = dict(BLOCK.findall((PROJECT_ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    assert len(blocks) == 3
    for path, content in blocks.items():
        file = tmp_path / path
        if file.exists():
            assert content.count("\n") == 1, "one line registers a source"
            after = "    stackexchange_biomed: StackExchangeSource = StackExchangeSource()\n"
            text = file.read_text(encoding="utf-8")
            assert text.count(after) == 1
            file.write_text(text.replace(after, after + content), encoding="utf-8")
        else:
            file.write_text(content, encoding="utf-8")
    return tmp_path


def run(followed, *command):
    answer = subprocess.run(
        [sys.executable, *command],
        cwd=followed,
        env={**os.environ, "PYTHONPATH": str(followed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def test_a_new_source_takes_one_file_one_test_and_one_line(followed):
    tests = "qwenft_assets_tests"
    run(
        followed, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{tests}/sources/test_dolly.py",
        f"{tests}/sources/test_registry.py", f"{tests}/rebuilds/test_upstream.py",
        f"{tests}/test_config.py",
    )  # fmt: skip
    new = ["qwenft_assets/sources/dolly.py", f"{tests}/sources/test_dolly.py"]
    run(followed, "-m", "ruff", "check", "--no-cache", *new)
    run(followed, "-m", "ruff", "format", "--check", "--no-cache", *new)
    code = "from qwenft_assets.partitions import SOURCES; print(SOURCES.get_partition_keys()[-1])"
    assert run(followed, "-c", code).strip() == "dolly"
