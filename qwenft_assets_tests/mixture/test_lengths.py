"""Figures, pictures and rules of length, with a tokenizer of one token a word."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from qwenft_assets.config import Config
from qwenft_assets.errors import MixtureError
from qwenft_assets.mixture.build import build_mixture, read_mixture
from qwenft_assets.mixture.lengths import (
    _edges,
    _histogram,
    draw_small_lengths,
    length_figures,
    report_lengths,
)
from qwenft_assets_tests.mixture.sampled_rows import (
    put_sample,
    put_samples,
    row,
    rows_of,
    small_config,
    words,
)


class WordCounter:
    """A token a word; counts how many rows it was asked for."""

    identity = "words"

    def __init__(self):
        self.asked = 0

    def count(self, rows, report_progress):
        self.asked += len(rows)
        return [len(f"{r.instruction} {r.input} {r.output}".split()) for r in rows]

    def count_mixture(self, mixed, mixture_version, report_progress):
        assert mixture_version
        return self.count([item.row for item in mixed], report_progress)


def limited(rows: int, over_long: str, max_length_tokens: int = 40) -> Config:
    values = small_config(rows=rows, over_long=over_long).model_dump()
    return Config.model_validate(values | {"training": {"max_length_tokens": max_length_tokens}})


@pytest.fixture
def long_rows(storage):
    """Half of slimorca's 60 rows have 52 words, all other rows 32."""
    put_samples(small_config(), storage)
    long = [row("slimorca", f"long-{n}", output=words(("long", n), 40)) for n in range(30)]
    put_sample(small_config(), storage, "slimorca", [*rows_of("slimorca", 30), *long])
    return {r.row_id for r in long}


def test_figures_of_lengths():
    report = length_figures({"a": [10, 20, 30], "b": [100] * 5}, max_length_tokens=50)
    assert report["a"] == {
        "rows": 3, "tokens": 60, "share_of_tokens": round(60 / 310, 4), "mean": 20.0, "p5": 11,
        "p25": 15, "p50": 20, "p75": 25, "p95": 29, "p99": 30, "max": 30, "truncated_rows": 0,
        "truncated_share": 0.0, "lost_tokens": 0,
    }  # fmt: skip
    assert (report["b"]["tokens"], report["b"]["lost_tokens"]) == (250, 250)
    assert report["all"]["truncated_rows"] == 5
    assert report["all"]["truncated_share"] == 5 / 8


def test_report_is_written_once_and_again_when_the_limit_changes(storage, long_rows):
    build_mixture(small_config(rows=120), "small", storage)
    counter = WordCounter()
    report = report_lengths(storage, "small", counter, 40)
    folder = storage.mixed_dataset("small")
    assert report.by_source["slimorca"]["truncated_rows"] == 30
    assert report.by_source["all"]["tokens"] == 90 * 32 + 30 * 40
    assert sum(report.histogram) == 120
    assert json.loads((folder / "lengths.json").read_text())["by_source"] == report.by_source
    with Image.open(folder / "lengths.png") as picture:
        assert picture.size == (700, 360)
    assert report_lengths(storage, "small", counter, 40) == report
    assert counter.asked == 120
    assert report_lengths(storage, "small", counter, 60).by_source["all"]["truncated_rows"] == 0


def test_report_does_not_make_the_mixture_look_harmed(storage, long_rows):
    build_mixture(small_config(rows=120), "small", storage)
    report_lengths(storage, "small", WordCounter(), 40)
    assert build_mixture(small_config(rows=120), "small", storage).reused


def test_small_histogram_fits_into_a_table_cell():
    picture = draw_small_lengths([(n * 37) % 101 for n in range(40)])
    assert len(picture) <= 700
    assert Image.open(io.BytesIO(picture)).size == (200, 60)
    assert draw_small_lengths([0] * 40)


def test_over_long_rows_are_dropped_and_replaced(storage, long_rows):
    config = limited(rows=40, over_long="drop")
    counter = WordCounter()
    manifest = build_mixture(config, "small", storage, counter).manifest
    mixed = read_mixture(storage, "small")
    assert manifest["sources"]["slimorca"]["rows"] == 20
    assert long_rows.isdisjoint(row.row_id for row, _, _ in mixed)
    assert 0 < manifest["dropped_over_long"] <= 30
    assert counter.asked <= 120
    assert build_mixture(config, "small", storage, counter).reused
    assert not build_mixture(limited(40, "drop", 60), "small", storage, counter).reused


def test_over_long_rows_stop_the_build(storage, long_rows):
    with pytest.raises(MixtureError, match=r"^slimorca: \d+ rows are longer than .* 40; the first"):
        build_mixture(limited(rows=120, over_long="fail"), "small", storage, WordCounter())
    assert not storage.mixed_dataset("small").exists()


def test_over_long_rows_cannot_be_told_without_a_tokenizer(storage, long_rows):
    with pytest.raises(MixtureError, match=r"over_long: drop needs the tokenizer of Qwen/Qwen2"):
        build_mixture(limited(rows=40, over_long="drop"), "small", storage)


@pytest.mark.parametrize(
    ("longest", "end"),
    [pytest.param(40, 105, id="to-beyond-the-cut"), pytest.param(400, 400, id="to-the-longest")],
)
def test_the_picture_ends_a_little_beyond_the_cut_or_at_the_longest_rows(longest, end):
    edges = _edges({"slimorca": [10, 20], "pubmedqa": [longest] * 200}, 100)
    assert (edges[0], edges[-1]) == (0, pytest.approx(end))


def test_the_small_picture_counts_equal_bins_from_nothing_to_the_longest():
    histogram = _histogram({"slimorca": [1, 1, 50], "pubmedqa": [100] * 97})
    assert sum(histogram) == 100
    assert (histogram[0], histogram[-1]) == (2, 97)
    assert histogram[len(histogram) // 2] == 1


def test_bars_of_the_small_picture_stand_apart_and_as_high_as_their_share():
    drawn = np.asarray(Image.open(io.BytesIO(draw_small_lengths([4, 0, 2]))).convert("L")) == 0
    assert drawn.shape == (60, 15)
    heights = drawn.sum(axis=0).tolist()
    assert heights[:4] == [58] * 4
    assert heights[4:10] == [0] * 6
    assert heights[10:14] == [29] * 4
    assert heights[14] == 0
