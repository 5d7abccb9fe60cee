"""What a rebuild ends with: figures read from the files of each stage, and drawn as they are."""

import json

import pytest

from qwenft_assets.cli.summary import print_summary, summarize
from qwenft_assets.config import PROJECT_ROOT, Config
from qwenft_assets.errors import AdapterError
from qwenft_assets.records import Champion, HistoryLine
from qwenft_assets.storage.files import append_json_line, write_json
from qwenft_assets.storage.root import Storage
from qwenft_assets_tests.made_up_records import made_up, put

VERSION = "0f1e2d3c4b5a6978"
REASONS = ["better than the base: delta loss -0.1411", "no champion yet"]
CONFIG = Config(name="tiny")
ALL_UNCHANGED = ["mixed_dataset", "lora_adapter", "evaluation", "release"]


def figures(base_loss, loss, base_perplexity, perplexity):
    return {
        "base_eval_loss": base_loss,
        "eval_loss": loss,
        "base_perplexity": base_perplexity,
        "perplexity": perplexity,
    }


EVALUATION = {
    **figures(2.2513, 2.1102, 9.5, 8.25),
    "delta_loss": -0.1411,
    "delta_loss_ci95": [-0.2014, -0.0808],
    "per_source": {
        "local_reports": figures(3.1001, 2.5002, 22.2, 12.18),
        "slimorca": figures(2.0006, 1.9994, 7.39, 7.384),
    },
}
MIXTURE = {
    "version": "1234567890abcdef",
    "sources": {
        "local_reports": {"train": 36, "eval": 4},
        "slimorca": {"train": 72, "eval": 8},
        "pubmedqa": {"train": 37, "eval": 0},
    },
}


@pytest.fixture
def rebuilt(storage):
    """The files that the five stages leave."""
    write_json(storage.mixed_dataset("small") / "manifest.json", MIXTURE)
    write_json(storage.adapters("small") / "latest.json", {"version": VERSION})
    write_json(storage.evaluation("small", VERSION) / "evaluation.json", EVALUATION)
    decision = made_up(HistoryLine, version=VERSION, reasons=REASONS)
    append_json_line(storage.release("small") / HistoryLine.FILE, decision.as_json())
    put(storage.release("small"), Champion, version=VERSION)
    return storage


@pytest.fixture
def printed(capsys, monkeypatch):
    """Draw a summary on a terminal of 120 columns and return its lines."""
    monkeypatch.setenv("COLUMNS", "120")

    def draw(summary):
        print_summary(summary)
        return capsys.readouterr().out.splitlines()

    return draw


def cells(lines, name):
    (line,) = [line for line in lines if line.strip("│ ").startswith(name) and "│" in line]
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_the_summary_holds_what_the_stages_wrote(rebuilt: Storage):
    summary = summarize(CONFIG, "small", rebuilt, 83.26, [])
    assert summary["evaluation"] == EVALUATION
    assert summary["sources"] == MIXTURE["sources"]
    assert (summary["mixture_version"], summary["adapter_version"]) == (MIXTURE["version"], VERSION)
    assert (summary["released"], summary["champion"]) == (True, VERSION)
    assert (summary["reasons"], summary["seconds"]) == (REASONS, 83.3)
    assert json.loads(json.dumps(summary)) == summary


def test_the_table_holds_rows_and_figures_of_each_source(rebuilt, printed):
    lines = printed(summarize(CONFIG, "small", rebuilt, 83.26, []))
    assert cells(lines, "local_reports") == [
        "local_reports", "36", "4", "3.100 → 2.500", "22.20 → 12.18",
    ]  # fmt: skip
    assert cells(lines, "slimorca") == ["slimorca", "72", "8", "2.001 → 1.999", "7.39 → 7.38"]
    assert cells(lines, "all") == ["all", "145", "12", "2.251 → 2.110", "9.50 → 8.25"]


def test_a_source_without_held_out_rows_has_no_figures(rebuilt, printed):
    lines = printed(summarize(CONFIG, "small", rebuilt, 1, []))
    assert cells(lines, "pubmedqa") == ["pubmedqa", "37", "0", "-", "-"]


def test_below_the_table_stand_change_outcome_and_places(rebuilt, printed):
    lines = printed(summarize(CONFIG, "small", rebuilt, 83.26, []))
    assert (
        "held-out perplexity -13.2%; loss -0.141 nats per token "
        "(95 % interval -0.201 to -0.081)" in lines
    )
    assert f"released: {REASONS[0]}; {REASONS[1]}" in lines
    assert f"  adapter  {rebuilt.adapter('small', VERSION)}" in lines
    assert lines[-1].startswith("83 s. Next: qwenft ui")
    assert not any(line.startswith("unchanged") for line in lines)


def test_a_refusal_is_named_with_its_reason(rebuilt, printed):
    refusal = made_up(
        HistoryLine,
        version=VERSION,
        action="refuse",
        released=False,
        reasons=["not better than the champion"],
    )
    append_json_line(rebuilt.release("small") / HistoryLine.FILE, refusal.as_json())
    lines = printed(summarize(CONFIG, "small", rebuilt, 1, []))
    assert "not released: not better than the champion" in lines


def test_a_rerun_says_what_was_not_done_again(rebuilt, printed):
    lines = printed(summarize(CONFIG, "small", rebuilt, 1, ALL_UNCHANGED))
    assert (
        "unchanged, nothing done again: mixed_dataset, lora_adapter, evaluation, release" in lines
    )


def test_paths_inside_the_project_are_shown_from_its_root(rebuilt, printed):
    summary = summarize(CONFIG, "small", rebuilt, 1, [])
    summary["paths"] = {"adapter": f"{PROJECT_ROOT}/data/out/demo/lora_adapter/small"}
    assert "  adapter  data/out/demo/lora_adapter/small" in printed(summary)


def test_text_in_brackets_is_not_taken_for_markup(rebuilt, printed):
    summary = summarize(CONFIG, "small", rebuilt, 1, [])
    summary["paths"] = {"adapter": "/tmp/[bold]/x"}  # noqa: S108  (only shown)
    summary["reasons"] = ["base [/red]"]
    lines = printed(summary)
    assert "  adapter  /tmp/[bold]/x" in lines
    assert "released: base [/red]" in lines


def test_without_any_adapter_the_next_step_is_named(storage):
    with pytest.raises(AdapterError, match=r"no adapter yet\. Run `qwenft run --recipe small`"):
        summarize(CONFIG, "small", storage, 1, [])
