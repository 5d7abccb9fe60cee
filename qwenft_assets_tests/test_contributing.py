"""What CONTRIBUTING says about changes, followed to the letter in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from qwenft_assets.config import PROJECT_ROOT

BLOCK = re.compile(r"```python\n# (\S+)\n(.*?)```", re.DOTALL)
COPIED = ("qwenft_assets", "qwenft_assets_tests", "configs", "data", "pyproject.toml")
TESTS = "qwenft_assets_tests"


@pytest.fixture
def copy(tmp_path):
    for name in COPIED:
        of = PROJECT_ROOT / name
        if of.is_dir():
            shutil.copytree(
                of, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "out")
            )
        else:
            shutil.copy(of, tmp_path / name)
    return tmp_path


def blocks_of(heading):
    """Code by file name, as the section of CONTRIBUTING.md shows it."""
    text = (PROJECT_ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (section,) = re.findall(rf"^## {heading}.*?(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return dict(BLOCK.findall(section))


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


def check_style(followed, *files):
    run(followed, "-m", "ruff", "check", "--no-cache", *files)
    run(followed, "-m", "ruff", "format", "--check", "--no-cache", *files)


def test_a_new_source_takes_one_file_one_test_and_one_line(copy):
    blocks = blocks_of("A new source")
    assert len(blocks) == 3
    for path, content in blocks.items():
        file = copy / path
        if file.exists():
            assert content.count("\n") == 1, "one line registers a source"
            after = "    stackexchange_biomed: StackExchangeSource = StackExchangeSource()\n"
            text = file.read_text(encoding="utf-8")
            assert text.count(after) == 1
            file.write_text(text.replace(after, after + content), encoding="utf-8")
        else:
            file.write_text(content, encoding="utf-8")
    run(
        copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{TESTS}/sources/test_dolly.py",
        f"{TESTS}/sources/test_registry.py", f"{TESTS}/rebuilds/test_upstream.py",
        f"{TESTS}/test_config.py",
    )  # fmt: skip
    check_style(copy, "qwenft_assets/sources/dolly.py", f"{TESTS}/sources/test_dolly.py")
    code = "from qwenft_assets.partitions import SOURCES; print(SOURCES.get_partition_keys()[-1])"
    assert run(copy, "-c", code).strip() == "dolly"


def test_a_new_metric_takes_one_function_and_its_test(copy):
    function, test = blocks_of("A new metric").items()
    module = copy / function[0]
    text = module.read_text(encoding="utf-8")
    module.write_text(f"{text}\n\n{function[1]}", encoding="utf-8")
    (copy / test[0]).write_text(test[1], encoding="utf-8")
    # The tests that were there hold as they are, and it is in the file, the report and the web UI.
    run(
        copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", test[0],
        f"{TESTS}/evaluation/test_metrics.py", f"{TESTS}/evaluation/test_report.py",
    )  # fmt: skip
    check_style(copy, function[0], test[0])
    shown = run(copy, "-c", SHOW_A_METRIC)
    assert "overall 0.5 champion 1.0" in shown
    assert "source slimorca 0.0" in shown
    assert "| 95 % interval | rows improved | Δ to champion |" in shown
    assert "| slimorca | 1 | 10 |" in shown
    assert "to +0.1000 | 0% | -0.1000 |" in shown
    assert "UI overall 0.5 champion 1.0 pubmedqa 1.0" in shown


SHOW_A_METRIC = """
from qwenft_assets.assets.evaluation import _champion, _figures, _parts_table
from qwenft_assets.evaluation.metrics import EvaluatedRow, figures_with_parts
from qwenft_assets.evaluation.report import _table
from qwenft_assets.model.loss import RowLoss, SpanLosses

def row(source, *losses):
    spans = [SpanLosses(RowLoss(nll, 10), RowLoss(0.0, 0)) for nll in losses]
    return EvaluatedRow(source, source, source, 11, False, *spans)

rows = [row("slimorca", 20.0, 21.0, 22.0), row("pubmedqa", 20.0, 15.0, 16.0)]
result = figures_with_parts(rows, "full", 100, 0)
name = "improved_rows_share"
print("overall", result[name], "champion", result["champion_" + name])
for source, own in result["per_source"].items():
    print("source", source, own[name])
print("\\n".join(_table("source", result["per_source"])))
champion = _champion({**result, "champion_version": "v"})["champion_" + name]
table = _parts_table("source", result["per_source"]).records[0].data
print("UI overall", _figures(result)[name], "champion", champion, table["source"], table[name])
"""


TRAINS_THE_SAME = """
import pathlib, sys
from qwenft_assets_tests.model.engine_figures import Bench
from qwenft_assets_tests.tiny_model import write_tiny_model
out = pathlib.Path(sys.argv[1])
write_tiny_model(out / "tiny")
plain, peft = (Bench(name, out / "tiny", out / name).run("whole") for name in ("plain", "peft"))
assert plain["steps"] == 20, plain
assert plain["rows_of_steps"] == peft["rows_of_steps"]
for (_, ours), (_, theirs) in zip(plain["train"], peft["train"], strict=True):
    assert abs(ours - theirs) < 2e-4, (ours, theirs)
"""
GROUPS = """
import torch
from qwenft_assets.config import TrainingConfig
from qwenft_assets.training.optimizer import AdapterBuffers
layer = torch.nn.ModuleDict({"lora_A": torch.nn.Linear(4, 2), "lora_B": torch.nn.Linear(2, 4)})
model = torch.nn.ModuleDict({"q_proj": layer})
buffers = AdapterBuffers(model, TrainingConfig(lora_plus_ratio=4))
optimizer = buffers.optimizer(torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 0.01})
print([group["weight_decay"] for group in optimizer.param_groups])
"""


def test_a_new_engine_takes_one_file_and_one_line(copy, tmp_path_factory):
    (file, code), (registry, line) = blocks_of("A new engine").items()
    (copy / file).write_text(code, encoding="utf-8")
    assert line.count("\n") == 1
    after = '    "peft": EngineTraits(),\n'
    text = (copy / registry).read_text(encoding="utf-8")
    assert text.count(after) == 1
    (copy / registry).write_text(text.replace(after, after + line), encoding="utf-8")
    out = tmp_path_factory.mktemp("engines")
    for name in ("plain", "peft"):
        (out / name).mkdir()
    run(copy, "-c", TRAINS_THE_SAME, str(out))
    check_style(copy, file)
    assert run(copy, "-c", ENGINE_FOUND).strip() == "plain"


ENGINE_FOUND = """
from qwenft_assets.config import TrainingConfig
from qwenft_assets.model.engines import require_engine
print(require_engine(TrainingConfig(engine="plain"), "cpu"))
"""


def test_another_parameter_group_takes_one_line(copy):
    ((file, line),) = blocks_of("Another parameter group").items()
    before = '        ParameterGroup(of_b, {"lr": ratio * settings.peak_learning_rate}),\n'
    text = (copy / file).read_text(encoding="utf-8")
    assert text.count(before) == 1
    (copy / file).write_text(text.replace(before, line), encoding="utf-8")
    check_style(copy, file)
    assert run(copy, "-c", GROUPS).strip() == "[0.01, 0.0]"
