"""The bundled rows have the schemas of the real ones, all hard cases, and were not stamped out."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwenft_assets.config import PROJECT_ROOT, SourceName
from qwenft_assets.sources.pubmedqa import official_test_ids
from qwenft_assets.sources.registry import scan_source
from qwenft_assets.sources.scan import Tally

SAMPLES = PROJECT_ROOT / "data" / "samples"
SITES = SAMPLES / "HuggingFaceH4" / "stack-exchange-preferences" / "data"
PUBMEDQA = SAMPLES / "qiaojin" / "PubMedQA" / "pqa_labeled"
SLIMORCA = SAMPLES / "Open-Orca" / "SlimOrca" / "oo-labeled_correct.gpt4.sharegpt.jsonl"
DOMAINS: tuple[SourceName, ...] = (
    "stackexchange_ai",
    "stackexchange_ic",
    "stackexchange_biomed",
)
TEXTS = pa.list_(pa.string())
STACK_EXCHANGE_SCHEMA = pa.schema(
    {
        "qid": pa.int64(),
        "question": pa.string(),
        "answers": pa.list_(
            pa.struct(
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
        ),
        "date": pa.string(),
        "metadata": TEXTS,
    }
)
PUBMEDQA_SCHEMA = pa.schema(
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


def site_folders() -> list[str]:
    return sorted(path.name for path in SITES.iterdir())


def read_site(site: str) -> pa.Table:
    (path,) = (SITES / site).glob("*.parquet")
    return pq.read_table(path)


def conversations() -> list[list[dict[str, object]]]:
    lines = SLIMORCA.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["conversations"] for line in lines]


def reports() -> list[dict[str, str]]:
    return json.loads((PROJECT_ROOT / "data" / "my_dataset.json").read_text(encoding="utf-8"))


def repeated_phrases(texts: Iterable[str], words_in_a_row: int = 8) -> list[str]:
    """Sequences of words that stand in more than three of the texts."""
    texts_with: defaultdict[str, set[int]] = defaultdict(set)
    for number, text in enumerate(texts):
        words = re.findall(r"\w+", text.lower())
        for start in range(len(words) - words_in_a_row + 1):
            texts_with[" ".join(words[start : start + words_in_a_row])].add(number)
    return sorted(phrase for phrase, found in texts_with.items() if len(found) > 3)


def test_files_are_named_as_upstream():
    assert sorted(path.name for path in SAMPLES.iterdir()) == [
        "HuggingFaceH4",
        "Open-Orca",
        "qiaojin",
    ]
    parquet = [*SITES.rglob("*.parquet"), *PUBMEDQA.rglob("*.parquet")]
    assert {path.name for path in parquet} == {"train-00000-of-00001.parquet"}


@pytest.mark.parametrize("site", site_folders())
def test_site_has_the_upstream_schema_and_dates(site):
    table = read_site(site)
    assert table.schema.remove_metadata().equals(STACK_EXCHANGE_SCHEMA)
    for row in table.to_pylist():
        assert re.fullmatch(r"20\d\d/[01]\d/[0-3]\d", row["date"])
        assert len(row["metadata"]) == 3
        # Made-up rows say so: their links lead to no real question.
        assert row["metadata"][0] == f"https://example.org/{site}/questions/{row['qid']}"
        assert len(row["answers"]) >= 2
        assert len({answer["answer_id"] for answer in row["answers"]}) == len(row["answers"])


def test_sites_cover_three_domains_and_one_meta_site():
    sites = site_folders()
    assert len([site for site in sites if ".meta." not in site]) >= 8
    assert any(".meta." in site for site in sites)


def test_questions_are_numbered_once_a_site():
    for site in site_folders():
        qids = read_site(site).column("qid").to_pylist()
        assert len(set(qids)) == len(qids)


@pytest.mark.parametrize("source", DOMAINS)
def test_domain_keeps_enough_questions(demo_config, source):
    tally = Tally()
    rows = list(scan_source(demo_config, source).rows(tally))
    assert len(rows) >= 24
    assert len({row.row_id for row in rows}) == len(rows)
    assert all(row.admitted_by and row.url.startswith("https://") for row in rows)
    assert len({row.upstream_id.split("/")[0] for row in rows}) >= 3


def test_off_topic_questions_are_there_to_be_dropped(demo_config):
    dropped: Counter[str] = Counter()
    for source in DOMAINS:
        tally = Tally()
        list(scan_source(demo_config, source).rows(tally))
        dropped += tally.dropped
    assert dropped["off_topic"] >= 24


def test_slimorca_has_the_upstream_keys_with_and_without_a_system_prompt():
    rows = conversations()
    roles = Counter(tuple(turn["from"] for turn in row) for row in rows)
    assert len(rows) >= 48
    assert set(roles) == {("system", "human", "gpt"), ("human", "gpt")}
    assert min(roles.values()) >= 10
    assert {tuple(turn) for row in rows for turn in row} == {("from", "value", "weight")}
    assert {turn["weight"] for row in rows for turn in row} == {None, 0.0, 1.0}


def test_pubmedqa_has_the_upstream_schema_and_all_decisions():
    table = pa.concat_tables([pq.read_table(path) for path in PUBMEDQA.glob("*.parquet")])
    assert table.schema.remove_metadata().equals(PUBMEDQA_SCHEMA)
    assert table.num_rows >= 40
    rows = table.to_pylist()
    assert {row["final_decision"] for row in rows} == {"yes", "no", "maybe"}
    assert len({row["pubid"] for row in rows}) == len(rows)
    for row in rows:
        assert len(row["context"]["contexts"]) == len(row["context"]["labels"]) >= 2


def test_pubmedqa_keeps_enough_rows_outside_the_official_test_set(demo_config):
    tally = Tally()
    rows = list(scan_source(demo_config, "pubmedqa").rows(tally))
    assert len(rows) >= 40
    assert official_test_ids().isdisjoint(int(row.upstream_id) for row in rows)
    assert set(tally.dropped) <= {"official_test"}


def test_local_reports_are_english_and_chinese():
    rows = reports()
    chinese = [row for row in rows if re.search(r"[\u4e00-\u9fff]", row["instruction"])]
    assert len(rows) >= 40
    assert len(chinese) >= 5
    assert len(rows) - len(chinese) >= 20
    assert {key for row in rows for key in row} == {"instruction", "input", "output"}
    assert any(row["input"] for row in rows)
    assert any(not row["input"] for row in rows)


def test_no_text_is_stamped_out():
    texts: dict[str, list[str]] = {
        "reports": [f"{row['instruction']}\n{row['input']}\n{row['output']}" for row in reports()],
        # System prompts repeat upstream, too: a few stand before most of its conversations.
        "slimorca": [
            "\n".join(str(turn["value"]) for turn in row if turn["from"] != "system")
            for row in conversations()
        ],
        "pubmedqa": [
            "\n".join([row["question"], *row["context"]["contexts"], row["long_answer"]])
            for path in PUBMEDQA.glob("*.parquet")
            for row in pq.read_table(path).to_pylist()
        ],
        "stack exchange": [
            re.sub(
                r"<[^>]+>", " ", "\n".join([row["question"], *(a["text"] for a in row["answers"])])
            )
            for site in site_folders()
            for row in read_site(site).to_pylist()
        ],
    }
    assert {name: repeated_phrases(of_source) for name, of_source in texts.items()} == {
        name: [] for name in texts
    }
    everything = [text for of_source in texts.values() for text in of_source]
    assert repeated_phrases(everything) == []
