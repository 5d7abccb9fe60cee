"""Planted leaks do not cross; with the rule switched off they do, and the check says so."""

import json

import pytest

from qwenft_assets.errors import MixtureError
from qwenft_assets.mixture.build import build_mixture, read_mixture
from qwenft_assets.mixture.verification import verify_mixture
from qwenft_assets_tests.mixture.sampled_rows import (
    put_sample,
    put_samples,
    row,
    rows_of,
    small_config,
    words,
)

CLUSTERS, MEMBERS = 12, 4


def paraphrase(text: str, number: int) -> str:
    """The same words, cut at another place and put together again, with one word changed."""
    parts = text.split()
    turned = [*parts[number:], *parts[:number]]
    return " ".join([*turned[:-1], words(("changed", number), 1)] if number else turned)


@pytest.fixture
def planted(storage):
    """Questions asked again with other answers, and paraphrases of them, over three sources."""
    put_samples(small_config(), storage)
    asked = [words(("asked", n), 16) for n in range(CLUSTERS)]
    same = [
        row("slimorca", f"same-{n}-{m}", question, words((n, m, "other answer"), 25))
        for n, question in enumerate(asked)
        for m in range(MEMBERS)
    ]
    alike = [
        row("pubmedqa", f"alike-{n}-{m}", paraphrase(question, m), words((n, m, "third"), 25))
        for n, question in enumerate(asked)
        for m in range(MEMBERS)
    ]
    put_sample(small_config(), storage, "slimorca", [*rows_of("slimorca", 60), *same])
    put_sample(small_config(), storage, "pubmedqa", [*rows_of("pubmedqa", 30), *alike])
    return [
        {r.row_id for r in same[n * MEMBERS :][:MEMBERS] + alike[n * MEMBERS :][:MEMBERS]}
        for n in range(CLUSTERS)
    ]


def test_no_planted_cluster_stands_on_both_sides(storage, planted):
    config = small_config(rows=200, eval_fraction=0.3)
    build_mixture(config, "small", storage)
    side_of = {row.row_id: side for row, side, _ in read_mixture(storage, "small")}
    sides = [{side_of[row_id] for row_id in cluster if row_id in side_of} for cluster in planted]
    assert all(len(side) == 1 for side in sides)
    assert {side for cluster in sides for side in cluster} == {"train", "eval"}
    assert verify_mixture(config, storage, "small")["no_leakage"].passed


def test_with_the_grouping_switched_off_the_check_fails(storage, planted):
    config = small_config(rows=200, eval_fraction=0.3, split_by="row")
    build_mixture(config, "small", storage)
    finding = verify_mixture(config, storage, "small")["no_leakage"]
    assert not finding.passed
    assert finding.details["leaked_rows"] > 10
    clustered = set().union(*planted)
    assert all(leak["eval_row"] in clustered for leak in finding.details["first"])


@pytest.fixture
def evaluation_file(storage, tmp_path):
    """A file of rows that also stand in a source, as questions or inside an answer."""
    put_samples(small_config(), storage)
    leaked = rows_of("slimorca", 5)
    quoting = row("slimorca", "quoting", output=f"As they say: {leaked[0].output}, and so on.")
    put_sample(small_config(), storage, "slimorca", [*rows_of("slimorca", 60), quoting])
    path = tmp_path / "exam.jsonl"
    lines = [json.dumps({"q": r.instruction, "a": r.output}) for r in leaked]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path, {r.row_id for r in [*leaked, quoting]}


def test_rows_of_an_evaluation_file_are_left_out(storage, evaluation_file):
    path, planted = evaluation_file
    config = small_config(rows=120, decontaminate=[str(path)])
    manifest = build_mixture(config, "small", storage).manifest
    assert manifest["dropped_contaminated"] == 6
    assert planted.isdisjoint(row.row_id for row, _, _ in read_mixture(storage, "small"))
    assert verify_mixture(config, storage, "small")["no_contamination"].passed


def test_with_the_rule_switched_off_contamination_fails_the_check(storage, evaluation_file):
    path, _ = evaluation_file
    config = small_config(rows=200, decontaminate=[str(path)], contaminated="keep")
    build_mixture(config, "small", storage)
    finding = verify_mixture(config, storage, "small")["no_contamination"]
    assert not finding.passed
    assert finding.details["contaminated_rows"] == 6
    assert finding.details["first"][0]["file"] == str(path)


def test_changed_evaluation_file_rebuilds(storage, evaluation_file):
    path, _ = evaluation_file
    config = small_config(rows=120, decontaminate=[str(path)])
    build_mixture(config, "small", storage)
    assert build_mixture(config, "small", storage).reused
    path.write_text(path.read_text(encoding="utf-8").splitlines()[0], encoding="utf-8")
    report = build_mixture(config, "small", storage)
    assert report.manifest["dropped_contaminated"] == 2
    assert ("slimorca", "added", "rule", 4) in {
        (c["source"], c["change"], c["cause"], c["rows"]) for c in report.diff["changes"]
    }
    path.unlink()
    with pytest.raises(MixtureError, match=r"exam\.jsonl: cannot be read"):
        build_mixture(config, "small", storage)


def test_rows_of_pubmedqa_test_set_fail_the_check_while_it_is_held_out(storage):
    put_samples(small_config(), storage)
    tested = row("pubmedqa", "12377809")
    put_sample(small_config(), storage, "pubmedqa", [*rows_of("pubmedqa", 30), tested])
    config = small_config(rows=121)
    build_mixture(config, "small", storage)
    finding = verify_mixture(config, storage, "small")["no_contamination"]
    assert not finding.passed
    assert finding.details["pubmedqa_test_rows"] == 1
