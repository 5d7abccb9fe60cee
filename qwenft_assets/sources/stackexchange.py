"""HuggingFaceH4/stack-exchange-preferences: scored answers as HTML, by site (CC BY-SA 4.0).

A domain reads its sites only, then its keywords. The cheap test comes first: the question column is
matched as raw Arrow; answers are read only for row groups with a hit; HTML is converted only for
questions that passed, and the keyword must still stand in the converted text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files as package_files
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from qwenft_assets.config import Config, KeywordRules, SourceName, StackExchangeSource
from qwenft_assets.errors import SourceError
from qwenft_assets.rows import InstructionRow, make_row
from qwenft_assets.sources.origin import Repository, open_repository
from qwenft_assets.sources.scan import Scan, Tally
from qwenft_assets.text.html_to_markdown import to_markdown
from qwenft_assets.text.keywords import KeywordMatcher, compile_rules

REPO_ID = "HuggingFaceH4/stack-exchange-preferences"
LICENSE = "CC BY-SA 4.0"
COLUMNS = ("qid", "question", "answers", "metadata")
LINK_TARGET = re.compile(r"\]\([^()\s]*\)")
"""Where a Markdown link leads: a keyword there says nothing about the question."""


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
    return KeywordRules.model_validate(yaml.safe_load(listing.read_text(encoding="utf-8")))


def scan_stackexchange_ai(config: Config) -> Scan:
    """Questions on artificial intelligence."""
    return _scan(config.sources.origin, "stackexchange_ai", config.sources.stackexchange_ai)


def scan_stackexchange_ic(config: Config) -> Scan:
    """Questions on integrated circuits."""
    return _scan(config.sources.origin, "stackexchange_ic", config.sources.stackexchange_ic)


def scan_stackexchange_biomed(config: Config) -> Scan:
    """Questions on biology and medicine."""
    return _scan(config.sources.origin, "stackexchange_biomed", config.sources.stackexchange_biomed)


def _scan(origin: str, source: SourceName, settings: StackExchangeSource) -> Scan:
    repository = open_repository(origin, REPO_ID, settings.revision)
    sites = [site for site in settings.sites if "meta" not in site.split(".")]
    files = [path for site in sites for path in repository.files(f"data/{site}", ".parquet")]
    if not files:
        raise SourceError(
            f"{repository.root}/data: none of the sites {', '.join(sites)} has a *.parquet file. "
            f"Correct sources.{source}.sites."
        )
    revision = repository.revision_of(files)
    rules = settings.keywords or shipped_keywords(source)
    domain = Domain(source, compile_rules(rules), revision)

    def read(tally: Tally) -> Iterator[InstructionRow]:
        for path in files:
            yield from _read_file(repository, path, domain, tally)

    return Scan(revision, read)


def _read_file(
    repository: Repository, path: str, domain: Domain, tally: Tally
) -> Iterator[InstructionRow]:
    with repository.open(path) as file:
        parquet = pq.ParquetFile(file)
        missing = sorted(set(COLUMNS) - set(parquet.schema_arrow.names))
        if missing:
            raise SourceError(
                f"{repository.root}/{path}: column {missing[0]!r} is missing. Pin "
                f"sources.{domain.source}.revision to a revision that has it."
            )
        for group in range(parquet.num_row_groups):
            questions = parquet.read_row_group(group, columns=["question"]).column("question")
            tally.scanned += len(questions)
            hits: Any = pc.fill_null(domain.matcher.mask(questions), cast("Any", False))
            on_topic = pc.sum(pc.cast(hits, pa.int64())).as_py() or 0
            tally.dropped["off_topic"] += len(questions) - on_topic
            if not on_topic:
                continue
            matched = parquet.read_row_group(group, columns=list(COLUMNS)).filter(hits)
            for upstream in matched.to_pylist():
                row = to_row(upstream, path.split("/")[1], domain)
                if isinstance(row, str):
                    tally.dropped[row] += 1
                else:
                    yield row


def to_row(upstream: dict[str, Any], site: str, domain: Domain) -> InstructionRow | str:
    """One question with its best answer as a row, or the reason why it is none."""
    question = to_markdown(upstream["question"])
    keyword = domain.matcher.first_keyword(LINK_TARGET.sub("]", question))
    if keyword is None:
        return "keyword_in_markup_only"
    answer = best_answer(upstream["answers"] or [])
    if answer is None:
        return "no_answer"
    output = to_markdown(answer["text"])
    if not output:
        return "empty_after_cleaning"
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
        admitted_by=keyword,
    )


def best_answer(answers: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The accepted answer, else the highest scored, else the oldest; None without any text."""
    with_text = [answer for answer in answers if answer and (answer["text"] or "").strip()]
    return max(
        with_text,
        key=lambda answer: (
            bool(answer["selected"]),
            answer["pm_score"] or 0,
            -answer["answer_id"],
        ),
        default=None,
    )
