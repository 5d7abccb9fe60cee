"""How long the rows are in tokens of the base model: by source, and what training would cut off."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from qwenft_assets.config import RecipeName
from qwenft_assets.hashing import short_hash
from qwenft_assets.mixture.build import MixedRow, read_mixture
from qwenft_assets.progress import ReportProgress, no_progress
from qwenft_assets.records import MixtureLengths, MixtureManifest
from qwenft_assets.storage.files import atomic_path, read_json, write_json
from qwenft_assets.storage.root import Storage

PICTURE_FILE = "lengths.png"
PERCENTILES = (5, 25, 50, 75, 95, 99)
BINS = 40
COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")
"""Six colours that colour-blind readers can tell apart (Tol, 2021)."""


class MixtureCounter(Protocol):
    """Counts tokens as training will see the rows, before anything is cut off."""

    @property
    def identity(self) -> str:
        """Equal for counters that count the same: tokenizer, template, system prompt."""
        ...

    def count_mixture(
        self, mixed: Sequence[MixedRow], mixture_version: str, report_progress: ReportProgress
    ) -> Sequence[int]:
        """Tokens of each row, prompt and answer together."""
        ...


@dataclass(frozen=True)
class LengthReport:
    """What lengths.json holds."""

    max_length_tokens: int
    by_source: dict[str, dict[str, Any]]
    """Figures of each source, and of `all`."""
    histogram: list[int]
    """Rows of all sources by length, in BINS equal bins up to the longest 1 %."""


def report_lengths(
    storage: Storage,
    recipe: RecipeName,
    counter: MixtureCounter,
    max_length_tokens: int,
    report_progress: ReportProgress = no_progress,
) -> LengthReport:
    """Write lengths.json and lengths.png beside a mixture, unless they are there for the same rows.

    Copies count as the rows they are in training.

    Raises:
        MixtureError: There is no mixture.
    """
    folder = storage.mixed_dataset(recipe)
    manifest = read_json(folder / MixtureManifest.FILE) or {}
    key = short_hash(str(manifest.get("version")), counter.identity, str(max_length_tokens))
    known: dict[str, Any] | None = read_json(folder / MixtureLengths.FILE)
    if known is None or known["key"] != key or not (folder / PICTURE_FILE).is_file():
        mixed = read_mixture(storage, recipe)
        counts = counter.count_mixture(mixed, str(manifest.get("version")), report_progress)
        lengths: defaultdict[str, list[int]] = defaultdict(list)
        for item, count in zip(mixed, counts, strict=True):
            lengths[item.row.source].append(count)
        in_order = {source: lengths[source] for source in manifest["sources"] if lengths[source]}
        with atomic_path(folder / PICTURE_FILE) as part:
            part.write_bytes(draw_lengths(in_order, max_length_tokens))
        known = {
            "key": key,
            "max_length_tokens": max_length_tokens,
            "by_source": length_figures(in_order, max_length_tokens),
            "histogram": _histogram(in_order),
        }
        write_json(folder / MixtureLengths.FILE, known)
    return LengthReport(known["max_length_tokens"], known["by_source"], known["histogram"])


def length_figures(lengths: Mapping[str, Sequence[int]], max_length_tokens: int) -> dict[str, Any]:
    """Percentiles, truncated rows and tokens, for each source and for `all`.

    Args:
        lengths: By source, tokens of each of its rows (copies too) before anything is cut off.
        max_length_tokens: Beyond which training cuts a row.

    Returns:
        `rows`, `tokens` (after the cut), `mean`, `p5` ... `p99`, `max`, `truncated_rows`,
        `truncated_share`, `lost_tokens` and `share_of_tokens` by source.
    """
    by_source = {source: np.asarray(values, np.int64) for source, values in lengths.items()}
    together = np.concatenate([*by_source.values(), np.zeros(0, np.int64)])
    all_tokens = int(np.minimum(together, max_length_tokens).sum())
    return {
        source: _figures(values, max_length_tokens, all_tokens)
        for source, values in {**by_source, "all": together}.items()
        if len(values)
    }


def draw_lengths(lengths: Mapping[str, Sequence[int]], max_length_tokens: int) -> bytes:
    """A histogram as PNG: one stack a source, a line where training cuts."""
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(7, 3.6), dpi=100, layout="constrained")
    axes = figure.subplots()
    edges = _edges(lengths, max_length_tokens)
    axes.hist(
        [np.minimum(values, edges[-1]) for values in lengths.values()],
        bins=edges,
        stacked=True,
        color=COLORS[: len(lengths)],
        label=list(lengths),
    )
    axes.axvline(max_length_tokens, color="black", linewidth=1, linestyle="--")
    axes.annotate(
        f"max_length_tokens {max_length_tokens:,}",
        (max_length_tokens, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-4, -4),
        textcoords="offset points",
        rotation=90,
        ha="right",
        va="top",
        fontsize=8,
    )
    axes.set(
        xlabel="tokens a row (the last bar: this many and more)", ylabel="rows", xlim=(0, None)
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": None})
    return drawn.getvalue()


def draw_small_lengths(histogram: Sequence[int]) -> bytes:
    """A histogram as a PNG of a few hundred bytes: the web UI shows it inside a table cell."""
    from PIL import Image, ImageDraw

    bar_width, height = 5, 60
    picture = Image.new("1", (bar_width * len(histogram), height), 1)
    draw = ImageDraw.Draw(picture)
    highest = max(*histogram, 1)
    for n, rows in enumerate(histogram):
        top = height - round(rows / highest * (height - 2))
        if rows:
            draw.rectangle((n * bar_width, top, (n + 1) * bar_width - 2, height), fill=0)
    small = io.BytesIO()
    picture.save(small, "PNG", optimize=True)
    return small.getvalue()


def _histogram(lengths: Mapping[str, Sequence[int]]) -> list[int]:
    together = np.concatenate([np.asarray(values, np.int64) for values in lengths.values()])
    counts, _ = np.histogram(np.minimum(together, _tail(together)), BINS, (0, _tail(together)))
    return [int(count) for count in counts]


def _figures(values: Any, max_length_tokens: int, all_tokens: int) -> dict[str, Any]:
    tokens = int(np.minimum(values, max_length_tokens).sum())
    truncated = int((values > max_length_tokens).sum())
    percentiles = np.percentile(values, PERCENTILES)
    return {
        "rows": len(values),
        "tokens": tokens,
        "share_of_tokens": round(tokens / max(all_tokens, 1), 4),
        "mean": round(float(values.mean()), 1),
        **{f"p{p}": round(value) for p, value in zip(PERCENTILES, percentiles, strict=True)},
        "max": int(values.max()),
        "truncated_rows": truncated,
        "truncated_share": round(truncated / len(values), 4),
        "lost_tokens": int(values.sum()) - tokens,
    }


def _edges(lengths: Mapping[str, Sequence[int]], max_length_tokens: int) -> Any:
    """Bins up to the longest 1 % or the cut, whichever is further."""
    together = np.concatenate([np.asarray(values, np.int64) for values in lengths.values()])
    return np.linspace(0, max(_tail(together), max_length_tokens * 1.05), BINS + 1)


def _tail(lengths: Any) -> float:
    return float(np.percentile(lengths, PERCENTILES[-1]))
