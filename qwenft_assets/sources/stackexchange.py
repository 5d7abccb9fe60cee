"""HuggingFaceH4/stack-exchange-preferences: scored answers as HTML, by site (CC BY-SA 4.0).

A domain reads its sites only, then its keywords. The cheap test comes first: the question column is
matched as raw Arrow; answers are read only for row groups with a hit; HTML is converted only for
questions that passed, and the keyword must still stand in the converted text.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files as package_files
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from html_to_markdown.exceptions import ConversionError

from qwenft_assets.config import Config, KeywordRules, SourceName, StackExchangeSource
from qwenft_assets.errors import SourceError
from qwenft_assets.hashing import seeded_order
from qwenft_assets.rows import InstructionRow, make_row, texts_of
from qwenft_assets.sources.origin import Repository, open_repository
from qwenft_assets.sources.parquet import open_parquet, read_ahead
from qwenft_assets.sources.scan import Counts, Scan, Tally
from qwenft_assets.text.html_to_markdown import to_markdown, without_link_targets
from qwenft_assets.text.keywords import KeywordMatcher

REPO_ID = "HuggingFaceH4/stack-exchange-preferences"
LICENSE = "CC BY-SA 4.0"
SITES: dict[SourceName, tuple[str, ...]] = {
    "stackexchange_ai": (
        "ai.stackexchange.com",
        "datascience.stackexchange.com",
        "stats.stackexchange.com",
        "cs.stackexchange.com",
        "robotics.stackexchange.com",
    ),
    "stackexchange_ic": (
        "electronics.stackexchange.com",
        "dsp.stackexchange.com",
        "arduino.stackexchange.com",
        "raspberrypi.stackexchange.com",
    ),
    "stackexchange_biomed": (
        "biology.stackexchange.com",
        "bioinformatics.stackexchange.com",
        "medicalsciences.stackexchange.com",
        "health.stackexchange.com",
        "chemistry.stackexchange.com",
        "psychology.stackexchange.com",
    ),
}
"""The sites that a domain reads unless the config lists others."""
SHAPE = {
    "qid": pa.int64(),
    "question": pa.string(),
    "answers": pa.list_(
        pa.struct(
            [
                ("answer_id", pa.int64()),
                ("author", pa.string()),
                ("author_profile", pa.string()),
                ("pm_score", pa.int64()),
                ("selected", pa.bool_()),
                ("text", pa.string()),
            ]
        )
    ),
    "metadata": pa.list_(pa.string()),
}
MAX_POST_CHARACTERS = 100_000
"""A longer post is a dump of a log or a data set, not an answer to learn from."""
ROWS_AT_ONCE = 256
GROUPS_AT_ONCE = 4
"""Row groups read in one go: each call waits for the GIL, so that few large ones overlap better."""


@dataclass(frozen=True)
class Domain:
    """What turns upstream rows of one domain into instruction rows."""

    source: SourceName
    matcher: KeywordMatcher
    revision: str


def shipped_keywords(source: SourceName) -> KeywordRules:
    """The keyword list that comes with the project for a Stack Exchange source."""
    name = source.removeprefix("stackexchange_")
    listing = package_files("qwenft_assets.sources") / "keywords" / f"{name}.yaml"
    # The C loader reads the same in a tenth of the time.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return KeywordRules.model_validate(yaml.load(listing.read_text(encoding="utf-8"), loader))  # noqa: S506


def scan_stackexchange_ai(config: Config) -> Scan:
    """Questions on artificial intelligence."""
    return _scan(config, "stackexchange_ai")


def scan_stackexchange_ic(config: Config) -> Scan:
    """Questions on integrated circuits."""
    return _scan(config, "stackexchange_ic")


def scan_stackexchange_biomed(config: Config) -> Scan:
    """Questions on biology and medicine."""
    return _scan(config, "stackexchange_biomed")


def _scan(config: Config, source: SourceName) -> Scan:
    settings = _settings(config, source)
    repository = open_repository(config.sources.origin, REPO_ID, settings.revision)
    listed = settings.sites or SITES[source]
    sites = [site for site in listed if "meta" not in site.split(".")]
    files = [path for site in sites for path in repository.files(f"data/{site}", ".parquet")]
    if not files:
        raise SourceError(
            f"{repository.root}/data: none of the sites {', '.join(sites)} has a *.parquet file. "
            f"Correct sources.{source}.sites."
        )
    domain = Domain(source, _matcher(config, source), repository.revision_of(files))

    # Seeded, so that a sample that ends early holds all sites and not the first in the alphabet.
    shards = sorted(files, key=lambda path: seeded_order(settings.seed, path))
    rules = keyword_rules(config, source).model_dump_json()
    return Scan(
        domain.revision,
        tuple(shards),
        partial(_read_shard, repository, domain),
        rules,
        _also_in(config, source),
    )


def _also_in(config: Config, source: SourceName) -> Callable[[pa.Table], Counts]:
    @cache  # compiled once a scan, and not at all where every row is there already
    def matchers() -> dict[str, KeywordMatcher]:
        return {name: _matcher(config, name) for name in SITES if name != source}

    def count(rows: pa.Table) -> Counts:
        shown = [without_link_targets(text) for text in texts_of(rows, "instruction")]
        texts = pa.chunked_array([shown], pa.string())
        masks = {name: matcher.mask(texts) for name, matcher in matchers().items()}
        return Counts({name: mask.to_pylist().count(True) for name, mask in masks.items()})

    return count


def _settings(config: Config, source: SourceName) -> StackExchangeSource:
    settings: StackExchangeSource = getattr(config.sources, source)
    return settings


def _matcher(config: Config, source: SourceName) -> KeywordMatcher:
    return KeywordMatcher(keyword_rules(config, source))


def keyword_rules(config: Config, source: SourceName) -> KeywordRules:
    """The keywords of a domain: the config's, else those shipped."""
    return _settings(config, source).keywords or shipped_keywords(source)


class _Groups(NamedTuple):
    """Some row groups of a file: what was met, and the rows whose question matched."""

    questions: int
    without_question: int
    bytes_read: int
    matched: pa.Table | None


def _read_shard(
    repository: Repository, domain: Domain, path: str, tally: Tally
) -> Iterator[InstructionRow]:
    with open_parquet(repository, path, SHAPE) as parquet:
        groups = list(range(parquet.num_row_groups))
        starts = range(1, len(groups), GROUPS_AT_ONCE)
        # The first step is small: nothing can be done until it is there.
        steps = [groups[:1], *(groups[n : n + GROUPS_AT_ONCE] for n in starts)]
        for number, group in enumerate(read_ahead(partial(_match, parquet, domain), steps)):
            tally.share_read = number / len(steps)
            on_topic = group.matched.num_rows if group.matched else 0
            tally.scanned += group.questions
            tally.bytes_read += group.bytes_read
            tally.dropped["no_question"] += group.without_question
            tally.dropped["off_topic"] += group.questions - group.without_question - on_topic
            batches = group.matched.to_batches(max_chunksize=ROWS_AT_ONCE) if group.matched else []
            for upstream in (row for batch in batches for row in batch.to_pylist()):
                row = to_row(upstream, path.split("/")[1], domain, tally.keyword_hits)
                if isinstance(row, str):
                    tally.dropped[row] += 1
                else:
                    yield row


def _match(parquet: pq.ParquetFile, domain: Domain, numbers: list[int]) -> _Groups:
    """Read the questions of some row groups; everything else only where one of them matches."""
    # This is a thread of its own: more of them would take turns with the one that uses the rows.
    questions = parquet.read_row_groups(numbers, columns=["question"], use_threads=False)[
        "question"
    ]
    hits: Any = domain.matcher.mask(questions)  # null for a question that is: filter() drops it
    if not (pc.sum(pc.cast(hits, pa.int64())).as_py() or 0):
        return _Groups(len(questions), questions.null_count, questions.nbytes, None)
    others = [name for name in SHAPE if name != "question"]
    matched = parquet.read_row_groups(numbers, columns=others, use_threads=False).filter(hits)
    matched = matched.append_column("question", questions.filter(hits))
    read = questions.nbytes + matched.nbytes
    return _Groups(len(questions), questions.null_count, read, matched)


def to_row(
    upstream: dict[str, Any], site: str, domain: Domain, keyword_hits: Counts
) -> InstructionRow | str:
    """One question with its best answer as a row, or the reason why it is none.

    Args:
        upstream: A row of the dataset.
        site: Its folder.
        domain: What admits it.
        keyword_hits: Counts that the keywords of an admitted question are added to.
    """
    if upstream["qid"] is None:
        return "no_id"
    answer = best_answer(upstream["answers"] or [])
    if answer is None:
        return "no_answer"
    if max(len(upstream["question"]), len(answer["text"])) > MAX_POST_CHARACTERS:
        return "too_long"
    try:
        question, output = to_markdown(upstream["question"]), to_markdown(answer["text"])
    except ConversionError:
        return "unreadable_html"
    keywords = domain.matcher.hits(without_link_targets(question))
    if not keywords:
        return "keyword_in_markup_only"
    if not output:
        return "empty_after_cleaning"
    keyword_hits.update(keywords)
    url, _, asker, *_ = [*(upstream["metadata"] or []), None, None, None]
    return make_row(
        source=domain.source,
        upstream_id=f"{site}/{upstream['qid']}",
        instruction=question,
        output=output,
        url=url or f"https://{site}/questions/{upstream['qid']}",
        # CC BY-SA asks for both: who asked, and who answered.
        author=f"question: {asker or 'unknown'}; answer: {answer['author'] or 'unknown'} "
        f"{answer['author_profile'] or ''}".rstrip(),
        license=LICENSE,
        revision=domain.revision,
        admitted_by=keywords[0],
    )


def best_answer(answers: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The accepted answer, else the highest scored, else the oldest; None without any text."""
    with_text = [answer for answer in answers if answer and (answer["text"] or "").strip()]
    return max(
        with_text,
        key=lambda answer: (
            bool(answer["selected"]),
            answer["pm_score"] or 0,
            -(answer["answer_id"] or 0),
        ),
        default=None,
    )
