"""Benchmarks by lm-eval: a task of one's own scored on base and adapter, and what is said without it."""

import importlib.util
import json

import pytest

from qwenft_assets.config import EvaluationConfig
from qwenft_assets.errors import EvaluationError
from qwenft_assets.evaluation.benchmarks import run_benchmarks
from qwenft_assets.inference.load import load_model
from qwenft_assets_tests.evaluation.trained import ignore_line

INSTALLED = importlib.util.find_spec("lm_eval") is not None
TASK = """
task: yes_or_no
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{rows}"}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}} "
doc_to_choice: ["yes", "no"]
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc}}]
"""


@pytest.fixture
def loaded(trained):
    job = trained.job
    return load_model(trained.storage, "small", job.adapter_version, job.base, job.training, "cpu")


def test_no_task_imports_nothing(loaded):
    assert run_benchmarks(loaded, EvaluationConfig(), ignore_line) == {}


@pytest.mark.skipif(INSTALLED, reason="lm-eval is installed")
def test_without_lm_eval_the_extra_to_install_is_named(loaded):
    settings = EvaluationConfig(benchmarks=("yes_or_no",))
    with pytest.raises(EvaluationError, match=r"needs lm-eval\. Install it with .*qwenft\[bench\]"):
        run_benchmarks(loaded, settings, ignore_line)


@pytest.mark.skipif(not INSTALLED, reason="lm-eval is not installed (extra `bench`)")
@pytest.mark.filterwarnings("ignore")
def test_a_task_of_ones_own_is_scored_on_base_and_adapter(loaded, tmp_path):
    rows = [{"question": f"Is {n} even?", "answer": n % 2} for n in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = TASK.format(rows=tmp_path / "rows.jsonl")
    (tmp_path / "yes_or_no.yaml").write_text(task, encoding="utf-8")
    settings = EvaluationConfig(
        benchmarks=("yes_or_no",), benchmark_tasks_path=str(tmp_path), benchmark_rows=4
    )
    scores = run_benchmarks(loaded, settings, ignore_line)
    assert scores["yes_or_no"]["acc,none"].keys() == {"base", "adapter"}
    assert all(0 <= share <= 1 for share in scores["yes_or_no"]["acc,none"].values())
    unknown = settings.model_copy(update={"benchmarks": ("no_such_task",)})
    with pytest.raises(EvaluationError, match="lm-eval has no task 'no_such_task'"):
        run_benchmarks(loaded, unknown, ignore_line)
