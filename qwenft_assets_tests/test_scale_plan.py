"""docs/scale.md says nothing that benchmarks/RESULTS.md does not."""

import importlib.util

import pytest

from qwenft_assets.config import PROJECT_ROOT


@pytest.fixture(scope="module")
def plan():
    path = PROJECT_ROOT / "benchmarks" / "scale_plan.py"
    spec = importlib.util.spec_from_file_location("scale_plan", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def texts(plan):
    return plan.PLAN.read_text(encoding="utf-8"), plan.RESULTS.read_text(encoding="utf-8")


def test_its_tables_follow_from_the_measured_figures(plan):
    scale, results = texts(plan)
    assert plan.computed(scale, results) == scale


def test_a_figure_that_results_does_not_hold_is_told(plan):
    scale, results = texts(plan)
    changed = results.replace("16,390", "16,391")
    with pytest.raises(SystemExit, match="train_tokens_a_second 16,390 tokens/s"):
        plan.computed(scale, changed)


def test_figures_are_read_whole(plan):
    table = "| `seconds` | 55 | s | Part |"
    with pytest.raises(SystemExit):
        plan.measured(table, "## Part\n255 s, 55.5 s, 5,500")
    assert plan.measured(table, "## Part\nit took 55 s.") == {"seconds": 55.0}


def test_costs_are_those_of_the_rates(plan):
    scale, results = texts(plan)
    rates = plan.measured(scale, results)
    tokens = rates["mixture_million_tokens"] * 1e6 * 0.9 * 3
    assert plan.time(tokens / rates["train_tokens_a_second"]) in plan.tables(rates)[1]
    assert plan.time(90) == "1.5 min"
    assert plan.time(36 * 3600) == "36 h"
    assert plan.size(2 * 1024**2) == "2 GiB"
    assert plan.count(86_000_000) == "86 million"
