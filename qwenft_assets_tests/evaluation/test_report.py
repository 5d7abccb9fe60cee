"""The page: its figures, and rows that cannot break out of their fence."""

import pytest

from qwenft_assets.evaluation.report import fenced, render_report

OWN = {
    "eval_rows": 3,
    "eval_tokens": 900,
    "base_perplexity": 9.5,
    "perplexity": 8.25,
    "delta_loss": -0.1411,
    "delta_loss_ci95": [-0.2, -0.08],
}
RESULT = {
    **OWN,
    "recipe": "small",
    "adapter_version": "0f1e2d3c4b5a6978",
    "base_model": "Qwen/Qwen2.5-7B-Instruct",
    "base_revision": "a09a354",
    "mixture_version": "1234567890abcdef",
    "truncated_rows": 1,
    "max_length_tokens": 2048,
    "base_eval_loss": 2.2513,
    "eval_loss": 2.1102,
    "eval_questions": 3,
    "eval_set": "split",
    "per_source": {"pubmedqa": OWN},
    "per_length": {"0129-0256": OWN},
    "per_span": {"answer": OWN},
    "canaries": {"base": {"stops": 0.5}, "adapter": {"stops": 1.0}},
    "benchmarks": {},
}
CHAMPION = {
    "champion_version": "aaaaaaaaaaaaaaaa",
    "champion_rows": 2,
    "champion_perplexity": 8.5,
    "champion_delta_loss": -0.03,
    "champion_delta_loss_ci95": [-0.05, -0.01],
}
PICTURES = {"Loss by source": "loss_by_source.png"}
HOSTILE = [
    pytest.param("```\n# Not a heading\n```", id="fence-of-three"),
    pytest.param("```````python\nx\n```````", id="fence-of-seven"),
    pytest.param("text\n```", id="fence-at-the-end"),
    pytest.param("~~~\n<script>alert(1)</script>", id="tildes-and-script"),
    pytest.param("<script>alert(1)</script>", id="script"),
    pytest.param("| a | b |\n|---|---|\n\n## Sample 9: fake", id="table-and-heading"),
]


def sample(**parts):
    texts = {"instruction": "Q", "input": "", "reference": "A", "base": "B", "adapter": "C"}
    return {"row_id": "1", "source": "pubmedqa", **texts, **parts}


def page_of(samples, **changed):
    return render_report({**RESULT, **changed}, samples, PICTURES)


def outside_fences(page):
    """What Markdown would render, as CommonMark closes fences: not shorter than they opened."""
    shown, fence = [], None
    for line in page.split("\n"):
        run = len(line) - len(line.lstrip("`"))
        if fence is None and run >= 3:
            fence = run
        elif fence is not None and run >= fence and not line.strip("` "):
            fence = None
        elif fence is None:
            shown.append(line)
    assert fence is None, "a fence was left open"
    return "\n".join(shown)


@pytest.mark.parametrize(
    "part", ["instruction", "input", "reference", "base", "champion", "adapter"]
)
@pytest.mark.parametrize("text", HOSTILE)
def test_untrusted_text_stays_inside_its_fence(text, part):
    harmless = outside_fences(page_of([sample(**{"input": "I", part: "harmless"})]))
    page = page_of([sample(**{"input": "I", part: text})])
    assert text in page
    assert outside_fences(page) == harmless


@pytest.mark.parametrize(
    ("text", "fence"),
    [
        pytest.param("plain", "```", id="none"),
        pytest.param("a `b` c", "```", id="inline"),
        pytest.param("```x```", "````", id="three"),
        pytest.param("`````", "``````", id="five"),
    ],
)
def test_a_fence_is_just_longer_than_the_longest_run_inside(text, fence):
    assert fenced(text) == [f"{fence}text", text, fence]


def test_the_page_holds_the_figures():
    page = page_of([])
    assert "Loss 2.2513 → 2.1102 nats per token (difference -0.1411" in page
    assert "95 % interval -0.2000 to -0.0800" in page
    assert "perplexity 9.50 → 8.25" in page
    assert "| pubmedqa | 3 | 900 | 9.50 | 8.25 | -0.1411 | -0.2000 to -0.0800 | - |" in page
    assert "| 0129-0256 | 3 | 900 |" in page
    assert "| answer | 3 | 900 |" in page
    assert "| stops | 50% | 100% |" in page
    assert "![Loss by source](loss_by_source.png)" in page
    assert "champion a" not in page
    assert "1 rows cut at 2048 tokens" in page


def test_empty_parts_are_left_out():
    page = page_of([sample(adapter="")])
    assert "input:" not in page
    assert "adapter:" not in page
    assert page.count("```text") == 3


def test_a_champion_is_compared_in_words_and_in_the_table():
    page = page_of([], **CHAMPION, per_source={"pubmedqa": {**OWN, **CHAMPION}})
    assert "Against champion aaaaaaaaaaaaaaaa, on 2 rows" in page
    assert "difference -0.0300, 95 % interval -0.0500 to -0.0100; its perplexity 8.50" in page
    assert "-0.2000 to -0.0800 | -0.0300 |" in page


def test_benchmarks_have_a_line_a_metric():
    scores = {"pubmedqa": {"acc,none": {"base": 0.5, "adapter": 0.625}}}
    assert "| pubmedqa | acc,none | 0.5000 | 0.6250 |" in page_of([], benchmarks=scores)
