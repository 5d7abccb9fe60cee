"""Abstracts become inputs, and the official test set stays out."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwenft_assets.config import Config, PubMedQaSource, SourcesConfig
from qwenft_assets.errors import SourceError
from qwenft_assets.rows import InstructionRow
from qwenft_assets.sources.pubmedqa import official_test_ids, scan_pubmedqa, to_row
from qwenft_assets.sources.scan import Scan, Tally

UPSTREAM: dict[str, Any] = {
    "pubid": 7,
    "question": "Does drug X lower blood pressure?",
    "context": {
        "contexts": ["80 adults took X.", "It fell by 9 mmHg."],
        "labels": ["METHODS", "RESULTS"],
        "meshes": ["Hypertension"],
        "reasoning_required_pred": ["y"],
        "reasoning_free_pred": ["y"],
    },
    "long_answer": "X lowered blood pressure.",
    "final_decision": "yes",
}
TEXTS = pa.list_(pa.string())
SCHEMA = pa.schema(
    {
        "pubid": pa.int32(),
        "question": pa.string(),
        "context": pa.struct(
            [
                ("contexts", TEXTS),
                ("labels", TEXTS),
                ("meshes", TEXTS),
                ("reasoning_required_pred", TEXTS),
                ("reasoning_free_pred", TEXTS),
            ]
        ),
        "long_answer": pa.string(),
        "final_decision": pa.string(),
    }
)
NOBODY: frozenset[int] = frozenset()


def context(**changes: object) -> dict[str, Any]:
    return UPSTREAM | {"context": UPSTREAM["context"] | changes}


def write_table(folder: Path, table: pa.Table) -> Path:
    path = folder / "qiaojin" / "PubMedQA" / "pqa_labeled" / "train-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(table, path)
    return path


def scan_folder(folder: Path, **settings: Any) -> Scan:
    sources = SourcesConfig(origin=str(folder), pubmedqa=PubMedQaSource(**settings))
    return scan_pubmedqa(Config(name="test", sources=sources))


def test_question_becomes_a_row_with_its_sections_as_input():
    row = to_row(UPSTREAM, "abc", NOBODY)
    assert isinstance(row, InstructionRow)
    assert row.instruction == "Does drug X lower blood pressure?"
    assert row.input == "METHODS: 80 adults took X.\nRESULTS: It fell by 9 mmHg."
    assert row.output == "X lowered blood pressure.\n\nDecision: yes"
    assert row.system is None
    assert row.upstream_id == "7"
    assert row.url == "https://pubmed.ncbi.nlm.nih.gov/7/"
    assert (row.source, row.license, row.revision) == ("pubmedqa", "MIT", "abc")


def test_fields_of_the_annotators_are_not_used():
    changed = context(reasoning_required_pred=["n"], reasoning_free_pred=None, meshes=["Other"])
    assert to_row(changed, "abc", NOBODY) == to_row(UPSTREAM, "abc", NOBODY)


@pytest.mark.parametrize(
    ("upstream", "reason"),
    [
        pytest.param(context(labels=["METHODS"]), "malformed", id="fewer-labels-than-texts"),
        pytest.param(context(contexts=["a"]), "malformed", id="fewer-texts-than-labels"),
        pytest.param(context(labels=None), "malformed", id="null-labels"),
        pytest.param(UPSTREAM | {"pubid": None}, "malformed", id="null-id"),
        pytest.param(UPSTREAM | {"final_decision": None}, "malformed", id="null-decision"),
        pytest.param(UPSTREAM | {"final_decision": "perhaps"}, "malformed", id="no-decision"),
        pytest.param(UPSTREAM | {"context": None}, "empty_text", id="null-context"),
        pytest.param(context(contexts=[], labels=[]), "empty_text", id="no-section"),
        pytest.param(context(contexts=None, labels=None), "empty_text", id="null-sections"),
        pytest.param(UPSTREAM | {"question": None}, "empty_text", id="null-question"),
        pytest.param(UPSTREAM | {"question": " \n"}, "empty_text", id="blank-question"),
        pytest.param(UPSTREAM | {"long_answer": ""}, "empty_text", id="empty-answer"),
        pytest.param(UPSTREAM | {"long_answer": "  "}, "empty_text", id="blank-answer"),
    ],
)
def test_row_that_is_not_whole_is_left_out_with_the_reason(upstream, reason):
    assert to_row(upstream, "abc", NOBODY) == reason


def test_official_test_set_has_500_ids():
    ids = official_test_ids()
    assert len(ids) == 500
    assert {12377809, 26163474} <= ids


def test_official_test_set_is_held_out_by_default(tmp_path):
    in_test_set = min(official_test_ids())
    upstream = [UPSTREAM, UPSTREAM | {"pubid": in_test_set}, UPSTREAM | {"pubid": 8}]
    write_table(tmp_path, pa.Table.from_pylist(upstream, SCHEMA))
    tally = Tally()
    assert [row.upstream_id for row in scan_folder(tmp_path).rows(tally)] == ["7", "8"]
    assert tally.scanned == 3
    assert tally.dropped == {"official_test": 1}


def test_official_test_set_is_kept_when_asked_for(tmp_path):
    in_test_set = min(official_test_ids())
    write_table(tmp_path, pa.Table.from_pylist([UPSTREAM | {"pubid": in_test_set}], SCHEMA))
    tally = Tally()
    scan = scan_folder(tmp_path, holdout_official_test=False)
    assert [row.upstream_id for row in scan.rows(tally)] == [str(in_test_set)]
    assert tally.dropped == {}


@pytest.mark.parametrize("column", ["pubid", "question", "context", "final_decision"])
def test_missing_column_is_named(tmp_path, column):
    table = pa.Table.from_pylist([UPSTREAM], SCHEMA).drop_columns([column])
    path = write_table(tmp_path, table)
    scan = scan_folder(tmp_path)
    with pytest.raises(SourceError, match=rf"^{path}: column '{column}' is missing"):
        list(scan.rows(Tally()))


def test_broken_file_is_named(tmp_path):
    path = write_table(tmp_path, pa.Table.from_pylist([UPSTREAM], SCHEMA))
    path.write_bytes(path.read_bytes()[:-20])
    scan = scan_folder(tmp_path)
    with pytest.raises(SourceError, match=rf"^{path}: cannot be read: "):
        list(scan.rows(Tally()))
