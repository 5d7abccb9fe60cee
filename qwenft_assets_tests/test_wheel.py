"""The wheel, installed away from the checkout, has all it needs and writes where it is started."""

import json
import os
import subprocess
import sys
import zipfile

import pytest

from qwenft_assets.config import PROJECT_ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=PROJECT_ROOT, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def qwenft(wheel, tmp_path_factory):
    """Runs the installed command in an empty folder; returns what it printed, and the folder."""
    site = tmp_path_factory.mktemp("site")
    command = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target", site]
    subprocess.run([sys.executable, *map(str, command), str(wheel)], check=True)
    here = tmp_path_factory.mktemp("elsewhere")
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("QWENFT_", "DAGSTER_"))
    }

    def run(*words):
        answer = subprocess.run(
            [sys.executable, str(site / "bin" / "qwenft"), *words],
            cwd=here,
            env={**ours, "PYTHONPATH": str(site), "COLUMNS": "100"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr
        return answer.stdout, here

    return run


def test_it_carries_configs_samples_and_the_instances_settings_and_no_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {name.removeprefix("qwenft_assets/shipped/") for name in names if "/shipped/" in name}
    wanted = {"configs/demo.yaml", "configs/qwen2.5-7b.yaml", "data/my_dataset.json",
              "dagster_home/dagster.yaml", "workspace.yaml"}  # fmt: skip
    assert wanted <= shipped
    assert any(name.startswith("data/samples/Open-Orca/SlimOrca/") for name in shipped)
    assert not [name for name in names if "tests" in name or "data/out" in name]
    assert not [name for name in shipped if name.startswith("dagster_home/storage")]


def test_its_help_and_settings_are_those_of_the_checkout(qwenft):
    assert "Several text sources in" in qwenft("--help")[0]
    settings = json.loads(qwenft("config", "--config", "configs/qwen2.5-7b.yaml", "--json")[0])
    assert (settings["name"], settings["sources"]["origin"]) == ("qwen2.5-7b", "hub")


def test_it_samples_what_it_carries_and_writes_where_it_was_started(qwenft):
    for source in ("slimorca", "local_reports"):
        _, here = qwenft("sample", source)
        manifest = here / "data" / "out" / "demo" / "source_sample" / source / "manifest.json"
        assert json.loads(manifest.read_text(encoding="utf-8"))["rows"] > 10
    assert (here / "dagster_home" / "dagster.yaml").is_file()
