"""Sites first, keywords second, the best answer last; who asked and who answered is kept."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwenft_assets.config import Config, KeywordRules, SourcesConfig, StackExchangeSource
from qwenft_assets.errors import SourceError
from qwenft_assets.rows import InstructionRow
from qwenft_assets.sources.scan import Scan, Tally
from qwenft_assets.sources.stackexchange import (
    Domain,
    best_answer,
    scan_stackexchange_ai,
    to_row,
)
from qwenft_assets.text.keywords import KeywordMatcher

SITE = "ai.stackexchange.com"
RULES = KeywordRules(words=("neural network", "pytorch"), acronyms=("GAN",))
DOMAIN = Domain("stackexchange_ai", KeywordMatcher(RULES), "abc")
ANSWER_TYPE = pa.struct(
    [
        ("answer_id", pa.int64()),
        ("author", pa.string()),
        ("author_id", pa.int64()),
        ("author_profile", pa.string()),
        ("pm_score", pa.int64()),
        ("selected", pa.bool_()),
        ("text", pa.string()),
    ]
)
SCHEMA = pa.schema(
    {
        "qid": pa.int64(),
        "question": pa.string(),
        "answers": pa.list_(ANSWER_TYPE),
        "date": pa.string(),
        "metadata": pa.list_(pa.string()),
    }
)


def answer(answer_id: int, text: str | None = "<p>Yes.</p>", **fields: Any) -> dict[str, Any]:
    return {
        "answer_id": answer_id,
        "author": "Ada",
        "author_id": 5,
        "author_profile": f"https://{SITE}/users/5",
        "pm_score": 1,
        "selected": False,
        "text": text,
    } | fields


def question(
    html: str | None = "<p>Is a neural network a graph?</p>", **fields: Any
) -> dict[str, Any]:
    return {
        "qid": 12,
        "question": html,
        "answers": [answer(1)],
        "date": "2021/03/04",
        "metadata": [f"https://{SITE}/questions/12", f"https://{SITE}", f"https://{SITE}/users/9"],
    } | fields


def write_site(folder: Path, site: str, rows: list[dict[str, Any]], schema=SCHEMA) -> Path:
    data = folder / "HuggingFaceH4" / "stack-exchange-preferences" / "data"
    path = data / site / "train-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    known = [{name: row[name] for name in schema.names} for row in rows]
    pq.write_table(pa.Table.from_pylist(known, schema), path, row_group_size=2)
    return path


def scan_folder(folder: Path, *sites: str) -> Scan:
    settings = StackExchangeSource(sites=sites or (SITE,), keywords=RULES)
    sources = SourcesConfig(origin=str(folder), stackexchange_ai=settings)
    return scan_stackexchange_ai(Config(name="test", sources=sources))


def test_question_becomes_a_row_that_names_both_authors():
    row = to_row(question(answers=[answer(1, "<p>It <b>is</b>.</p>")]), SITE, DOMAIN, Counter())
    assert isinstance(row, InstructionRow)
    assert row.instruction == "Is a neural network a graph?"
    assert (row.input, row.output, row.system) == ("", "It **is**.", None)
    assert row.upstream_id == "ai.stackexchange.com/12"
    assert row.url == "https://ai.stackexchange.com/questions/12"
    assert row.author == (
        "question: https://ai.stackexchange.com/users/9; "
        "answer: Ada https://ai.stackexchange.com/users/5"
    )
    assert row.license == "CC BY-SA 4.0"
    assert (row.source, row.revision, row.admitted_by) == (
        "stackexchange_ai",
        "abc",
        "neural network",
    )


@pytest.mark.parametrize(
    ("answers", "best"),
    [
        pytest.param([answer(1, pm_score=2), answer(2, pm_score=5)], 2, id="highest-score"),
        pytest.param(
            [answer(1, pm_score=9), answer(2, pm_score=0, selected=True)], 2, id="accepted-first"
        ),
        pytest.param([answer(8), answer(3), answer(5)], 3, id="tie-goes-to-the-oldest"),
        pytest.param(
            [answer(4, selected=True), answer(2, selected=True)], 2, id="tie-of-accepted-ones"
        ),
        pytest.param([answer(1, pm_score=-1), answer(2, pm_score=0)], 2, id="negative-score"),
        pytest.param([answer(1, pm_score=None), answer(2, pm_score=1)], 2, id="null-score"),
        pytest.param([answer(1, selected=None), answer(2, selected=True)], 2, id="null-selected"),
        pytest.param([answer(1, "", selected=True), answer(2)], 2, id="empty-text-is-passed-over"),
        pytest.param([answer(1, " \n", pm_score=9), answer(2)], 2, id="blank-text-too"),
        pytest.param([answer(1, None, pm_score=9), answer(2)], 2, id="null-text-too"),
        pytest.param([None, answer(2)], 2, id="null-answer"),
    ],
)
def test_best_answer_is_accepted_then_highest_then_oldest(answers, best):
    for order in (answers, answers[::-1]):
        found = best_answer(order)
        assert found is not None
        assert found["answer_id"] == best


@pytest.mark.parametrize("answers", [[], [answer(1, "")], [answer(1, None), answer(2, " ")]])
def test_no_answer_with_text_is_none(answers):
    assert best_answer(answers) is None


@pytest.mark.parametrize(
    ("upstream", "reason"),
    [
        pytest.param(
            question('<p>See <a href="https://pytorch.org/docs">this</a>.</p>'),
            "keyword_in_markup_only",
            id="keyword-in-a-link-only",
        ),
        pytest.param(
            question('<p class="pytorch">Why?</p><img alt="GAN" src="a.png">'),
            "keyword_in_markup_only",
            id="keyword-in-attributes-only",
        ),
        pytest.param(
            question('<p>Why? <a href="/GAN.png"><img src="/GAN.png"></a></p>'),
            "keyword_in_markup_only",
            id="keyword-in-an-image-only",
        ),
        pytest.param(
            question("<p>Why?</p><!-- pytorch -->"), "keyword_in_markup_only", id="in-a-comment"
        ),
        pytest.param(question(answers=None), "no_answer", id="null-answers"),
        pytest.param(question(answers=[]), "no_answer", id="no-answers"),
        pytest.param(question(answers=[answer(1, "")]), "no_answer", id="empty-answer"),
        pytest.param(
            question(answers=[answer(1, '<p><img src="https://i.stack.imgur.com/a.png"></p>')]),
            "empty_after_cleaning",
            id="image-only-answer",
        ),
        pytest.param(
            question(
                answers=[
                    answer(1, '<p><a href="https://x/a.png"><img src="https://x/a.png"></a></p>')
                ]
            ),
            "empty_after_cleaning",
            id="linked-image-only-answer",
        ),
        pytest.param(question(qid=None), "no_id", id="null-id"),
        pytest.param(question("pytorch " * 250_000), "too_long", id="post-of-2-MB"),
        pytest.param(question(answers=[answer(1, "x" * 2_000_000)]), "too_long", id="answer-too"),
    ],
)
def test_question_that_gives_no_row_says_why(upstream, reason):
    assert to_row(upstream, SITE, DOMAIN, Counter()) == reason


@pytest.mark.parametrize(
    ("html", "text"),
    [
        pytest.param("pytorch, plain", "pytorch, plain", id="no-tag"),
        pytest.param("<p>pytorch <b>bold<p>never closed", "pytorch **bold**", id="never-closed"),
        pytest.param("</div></p>pytorch</table>", "pytorch", id="closed-only"),
        pytest.param("pytorch &bogus; &#xFFFFFFFF; <3 a<b", "pytorch", id="broken-entities"),
        pytest.param("pytorch \x00\x01 <\x00p>", "pytorch", id="control-characters"),
        pytest.param("<p>" * 5_000 + "pytorch", "pytorch", id="nested-5,000-deep"),
    ],
)
def test_html_that_is_not_html_is_read_as_far_as_it_goes(html, text):
    row = to_row(question(html), SITE, DOMAIN, Counter())
    assert isinstance(row, InstructionRow)
    assert row.instruction.startswith(text)


def test_keyword_in_the_text_of_a_link_counts():
    row = to_row(
        question('<p>See <a href="https://x.org">PyTorch</a>.</p>'), SITE, DOMAIN, Counter()
    )
    assert isinstance(row, InstructionRow)
    assert row.admitted_by == "pytorch"
    assert row.instruction == "See [PyTorch](https://x.org)."


@pytest.mark.parametrize(
    "metadata", [None, [], [f"https://{SITE}/questions/12"], [None, None, None]], ids=str
)
def test_missing_metadata_still_gives_a_link_and_says_unknown(metadata):
    by_nobody = answer(1, author=None, author_profile=None)
    row = to_row(question(metadata=metadata, answers=[by_nobody]), SITE, DOMAIN, Counter())
    assert isinstance(row, InstructionRow)
    assert row.url == "https://ai.stackexchange.com/questions/12"
    assert row.author == "question: unknown; answer: unknown"


def test_scan_counts_every_question_once(tmp_path):
    rows = [
        question(qid=1),
        question("<p>off topic</p>", qid=2),
        question(None, qid=3),
        question("<p>gan in lower case</p>", qid=4),
        question("<p>another GAN</p>", qid=5),
        question("<p>off topic</p>", qid=6),
        question(qid=7, answers=[]),
    ]
    write_site(tmp_path, SITE, rows)
    tally = Tally()
    found = list(scan_folder(tmp_path).rows(tally))
    assert [row.upstream_id for row in found] == [f"{SITE}/1", f"{SITE}/5"]
    assert tally.scanned == 7
    assert tally.dropped == {"off_topic": 3, "no_question": 1, "no_answer": 1}


def test_equal_numbers_on_two_sites_are_two_rows(tmp_path):
    write_site(tmp_path, SITE, [question()])
    write_site(tmp_path, "cs.stackexchange.com", [question()])
    rows = list(scan_folder(tmp_path, SITE, "cs.stackexchange.com").rows(Tally()))
    assert {row.upstream_id for row in rows} == {f"{SITE}/12", "cs.stackexchange.com/12"}
    assert rows[0].row_id != rows[1].row_id


def test_only_listed_sites_are_read_and_meta_ones_never(tmp_path):
    meta_sites = ("ai.meta.stackexchange.com", "meta.stackexchange.com")
    for site in (SITE, "cooking.stackexchange.com", *meta_sites):
        write_site(tmp_path, site, [question()])
    tally = Tally()
    rows = list(scan_folder(tmp_path, SITE, *meta_sites).rows(tally))
    assert [row.upstream_id for row in rows] == [f"{SITE}/12"]
    assert tally.scanned == 1


def test_sites_that_are_not_there_are_named(tmp_path):
    write_site(tmp_path, SITE, [question()])
    with pytest.raises(SourceError, match=r"none of the sites typo\.com has a"):
        scan_folder(tmp_path, "typo.com", "ai.meta.stackexchange.com")


@pytest.mark.parametrize("column", ["question", "answers", "metadata"])
def test_missing_column_is_named(tmp_path, column):
    schema = pa.schema([field for field in SCHEMA if field.name != column])
    path = write_site(tmp_path, SITE, [question()], schema)
    scan = scan_folder(tmp_path)
    with pytest.raises(SourceError, match=rf"^{path}: column '{column}' is missing"):
        list(scan.rows(Tally()))


def test_column_of_another_type_is_named(tmp_path):
    answers = SCHEMA.get_field_index("answers")
    schema = SCHEMA.set(answers, pa.field("answers", pa.string()))
    path = write_site(tmp_path, SITE, [question(answers="none")], schema)
    with pytest.raises(SourceError, match=rf"^{path}: column 'answers' is string, list<") as raised:
        list(scan_folder(tmp_path).rows(Tally()))
    assert str(raised.value).endswith("Pin the source's `revision` to one that has it.")


def test_file_that_is_no_parquet_is_named(tmp_path):
    path = write_site(tmp_path, SITE, [question()])
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    scan = scan_folder(tmp_path)
    with pytest.raises(SourceError, match=rf"^{path}: cannot be read: "):
        list(scan.rows(Tally()))
