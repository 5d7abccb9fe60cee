"""Blocking checks: a flaw in the mixture stops the run before training.

A flaw is planted in a finished mixture, its hashes brought up to date, so that the builder takes it
for intact: what is checked is what lies on disk.
"""

import json

import pytest

from qwenft_assets.storage.files import read_json, sha256_of_file, write_json, write_text
from qwenft_assets.storage.root import MIXTURE_FILE
from qwenft_assets_tests.assets.mixture_graph import (
    checks_of,
    lines_of,
    metadata_of,
    replace_lines,
    replace_rows,
    steps_started,
)
from qwenft_assets_tests.mixture.sampled_rows import words


def test_a_leak_between_train_and_eval_stops_the_run_before_training(mixed):
    def leak(rows):
        held_out = next(row for row in rows if row["split"] == "eval")
        trained = next(row for row in rows if row["split"] == "train")
        # Asked in other letters and spaces, which is the same question still.
        trained["instruction"] = "  " + held_out["instruction"].upper() + "\n"
        trained["input"] = held_out["input"]
        leaked.append({"eval_row": held_out["row_id"], "train_row": trained["row_id"]})

    leaked: list[dict[str, str]] = []
    replace_rows(mixed.storage, leak)
    result = mixed.mix()
    checks, passed = checks_of(result)
    assert metadata_of(result, "mixed_dataset")["unchanged"].value is True
    assert passed == {
        "schema_valid": True,
        "ratios_kept_or_shortfall_named": True,
        "no_leakage": False,
        "no_contamination": True,
    }
    check = checks["no_leakage"]
    assert check.blocking
    assert check.partition == "small"
    assert check.metadata["leaked_rows"].value == 1
    assert check.metadata["first"].value == leaked
    assert "lora_adapter" not in steps_started(result)
    assert not result.success


def repeated_questions(path):
    """Reports that answer each of ten questions four times."""
    reports = [
        {
            "instruction": f"Why does circuit {q * 37} of {words(q, 8)} oscillate?",
            "output": words((q, n), 20),
        }
        for q in range(10)
        for n in range(4)
    ]
    path.write_text(json.dumps(reports), encoding="utf-8")
    return path


@pytest.mark.parametrize(("split_by", "passes"), [("question_cluster", True), ("row", False)])
def test_the_check_of_leaks_fails_the_run_when_rows_are_split_one_by_one(
    make_graph, tmp_path, split_by, passes
):
    reports = repeated_questions(tmp_path / "reports.json")
    mixture = f"eval_fraction: 0.3\n  split_by: {split_by}"
    graph = make_graph(rows=80, reports=reports, mixture=mixture)
    assert graph.sample().success
    result = graph.mix()
    _, passed = checks_of(result)
    assert passed["no_leakage"] is passes
    assert ("lora_adapter" in steps_started(result)) is passes


@pytest.mark.parametrize(("contaminated", "passes"), [("drop", True), ("keep", False)])
def test_the_check_of_contamination_fails_the_run_when_such_rows_are_kept(
    make_graph, tmp_path, contaminated, passes
):
    reports = repeated_questions(tmp_path / "reports.json")
    exam = tmp_path / "exam.jsonl"
    exam.write_text(json.dumps({"question": words((0, 0), 20)}), encoding="utf-8")
    mixture = f"contaminated: {contaminated}\n  decontaminate: ['{exam}']"
    graph = make_graph(rows=200, reports=reports, mixture=mixture)
    assert graph.sample().success
    result = graph.mix()
    _, passed = checks_of(result)
    assert passed["no_contamination"] is passes
    assert ("lora_adapter" in steps_started(result)) is passes


@pytest.mark.parametrize(
    ("change", "first_wrong"),
    [
        pytest.param(lambda lines: lines[2].update(source="slimorca"), [3], id="extra-key"),
        pytest.param(lambda lines: lines[0].pop("input"), [1], id="key-missing"),
        pytest.param(lambda lines: lines[1].update(output=5), [2], id="not-text"),
        pytest.param(lambda lines: lines[4].update(output="other"), [5], id="other-than-the-row"),
        pytest.param(
            lambda lines: lines[3].update(input=lines[3].pop("input")), [4], id="other-order"
        ),
        pytest.param(lambda lines: lines.pop(), [], id="line-missing"),
        pytest.param(lambda lines: lines.append(lines[0]), [], id="line-too-many"),
    ],
)
def test_lines_of_another_format_stop_the_run_before_training(mixed, change, first_wrong):
    lines = lines_of(mixed.storage)
    change(lines)
    replace_lines(mixed.storage, lines)
    result = mixed.mix()
    checks, passed = checks_of(result)
    assert passed["schema_valid"] is False
    assert checks["schema_valid"].metadata["lines"].value == len(lines)
    assert checks["schema_valid"].metadata["first_wrong"].value == first_wrong
    assert "lora_adapter" not in steps_started(result)


@pytest.mark.parametrize(
    "separator",
    [
        pytest.param("\u2028", id="line-separator"),
        pytest.param("\u2029", id="paragraph-separator"),
        pytest.param("\x85", id="next-line"),
        pytest.param("\r", id="carriage-return"),
        pytest.param("\x0b", id="vertical-tab"),
    ],
)
def test_line_separators_inside_a_text_do_not_break_a_line(mixed, separator):
    """JSON leaves them as they are, and only a newline ends a line of JSONL."""

    def put(rows):
        rows[0]["output"] = f"before{separator}after"

    replace_rows(mixed.storage, put)
    _, passed = checks_of(mixed.mix())
    assert passed["schema_valid"] is True


def test_a_line_that_is_no_json_is_a_finding(mixed):
    path = mixed.storage.mixed_dataset("small") / MIXTURE_FILE
    lines = path.read_text(encoding="utf-8").split("\n")
    write_text(path, "\n".join(["{oops", *lines[1:]]))
    manifest = read_json(path.with_name("manifest.json")) or {}
    files = {**manifest["files"], MIXTURE_FILE: sha256_of_file(path)}
    write_json(path.with_name("manifest.json"), {**manifest, "files": files})
    checks, passed = checks_of(mixed.mix())
    assert passed["schema_valid"] is False
    assert checks["schema_valid"].metadata["first_wrong"].value == [1]


def test_a_damaged_mixture_is_built_again(mixed):
    path = mixed.storage.mixed_dataset("small") / MIXTURE_FILE
    intact = path.read_bytes()
    path.write_bytes(intact[:-100])
    result = mixed.mix()
    assert metadata_of(result, "mixed_dataset")["unchanged"].value is False
    assert path.read_bytes() == intact


def test_ratios_that_are_off_without_a_shortfall_stop_the_run(mixed):
    path = mixed.storage.mixed_dataset("small") / "manifest.json"
    manifest = read_json(path) or {}
    got = {**manifest["ratios_got"], "slimorca": 0.6, "pubmedqa": 0.15}
    write_json(path, {**manifest, "ratios_got": got})
    result = mixed.mix()
    _, passed = checks_of(result)
    assert passed["ratios_kept_or_shortfall_named"] is False
    assert "lora_adapter" not in steps_started(result)
