"""What changed since the build before, by source and cause."""

from dataclasses import replace

import pytest

from qwenft_assets.mixture.build import build_mixture
from qwenft_assets.storage.files import read_json
from qwenft_assets_tests.mixture.sampled_rows import (
    put_sample,
    put_samples,
    row,
    rows_of,
    small_config,
)

ALL = small_config(rows=200)
"""More than there is: every row is taken."""


def changes_of(report):
    return {
        (change["source"], change["change"], change["cause"]): change["rows"]
        for change in report.diff["changes"]
        if change["change"] != "moved"
    }


@pytest.fixture
def built(storage):
    put_samples(ALL, storage)
    return build_mixture(ALL, "small", storage)


def test_first_build_says_so(storage, built):
    assert built.diff == {
        "previous_version": None,
        "version": built.manifest["version"],
        "changes": [],
    }
    assert read_json(storage.mixed_dataset("small") / "diff.json") == built.diff


def test_unchanged_build_has_no_difference_and_rewrites_nothing(storage, built):
    folder = storage.mixed_dataset("small")
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    again = build_mixture(ALL, "small", storage)
    assert again.reused
    assert again.diff["changes"] == []
    assert again.diff["previous_version"] == again.diff["version"] == built.manifest["version"]
    after = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    assert after == before


@pytest.mark.parametrize(
    ("rows", "sample", "expected"),
    [
        pytest.param(
            [row("slimorca", 0, output="Quite another answer."), *rows_of("slimorca", 65)[2:]],
            {"revision": "def", "identity": "rules-2"},
            {
                ("slimorca", "added", "upstream"): 5,
                ("slimorca", "changed", "upstream"): 1,
                ("slimorca", "removed", "upstream"): 1,
            },
            id="new-revision",
        ),
        pytest.param(
            rows_of("slimorca", 50),
            {"identity": "rules-2"},
            {("slimorca", "removed", "rule"): 10},
            id="other-keywords",
        ),
        pytest.param(
            rows_of("slimorca", 70), {}, {("slimorca", "added", "quota"): 10}, id="larger-sample"
        ),
        pytest.param(
            [
                *rows_of("slimorca", 59),
                replace(
                    rows_of("slimorca", 60)[59],
                    output=rows_of("slimorca", 1)[0].output,
                    instruction=rows_of("slimorca", 1)[0].instruction,
                ),
            ],
            {"revision": "def"},
            {("slimorca", "removed", "dedup"): 1},
            id="became-a-copy",
        ),
    ],
)
def test_causes_in_a_sample(storage, built, rows, sample, expected):
    put_sample(ALL, storage, "slimorca", rows, **sample)
    report = build_mixture(ALL, "small", storage)
    assert changes_of(report) == expected
    assert report.diff["previous_version"] == built.manifest["version"]
    assert read_json(storage.mixed_dataset("small") / "diff.json") == report.diff


def test_a_row_left_out_both_times_is_no_difference(storage):
    """A copy that changes, and is as good as the row that it is a copy of both times."""
    put_samples(ALL, storage)
    rows = rows_of("slimorca", 60)
    kept = row("slimorca", "kept", instruction=rows[0].instruction, output=rows[0].output)
    for output in (rows[0].output, rows[0].output + " "):
        rows[0] = row("slimorca", 0, instruction=rows[0].instruction, output=output)
        put_sample(ALL, storage, "slimorca", [*rows, kept], identity="rules-2")
        report = build_mixture(ALL, "small", storage)
    assert not report.reused
    assert report.manifest["dropped_duplicate"] == 1
    assert report.diff["changes"] == []


def test_smaller_recipe_removes_by_quota(storage, built):
    report = build_mixture(small_config(rows=60), "small", storage)
    assert changes_of(report) == {
        ("local_reports", "removed", "quota"): 15,
        ("slimorca", "removed", "quota"): 30,
        ("pubmedqa", "removed", "quota"): 15,
    }


def test_other_seed_moves_rows_between_the_sides(storage, built):
    report = build_mixture(small_config(rows=200, seed=7), "small", storage)
    assert changes_of(report) == {}
    moved = [c["rows"] for c in report.diff["changes"] if c["change"] == "moved"]
    assert 1 <= sum(moved) <= 24


def test_damaged_list_of_candidates_counts_as_a_first_build(storage, built):
    (storage.mixed_dataset("small") / "candidates.parquet").write_bytes(b"x")
    report = build_mixture(ALL, "small", storage)
    assert report.diff["previous_version"] is None
    assert report.manifest == built.manifest
