"""Where rows come from, and which of them are wanted."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from qwenft_assets.config.section import Section


class Source(Section):
    """Settings of one source."""

    module: ClassVar[str | None] = None
    """The file of `sources/` that reads it; None: the one named like the source."""


class HubSource(Source):
    """A dataset repository on the Hub, or a folder laid out as one."""

    revision: str | None = Field(default=None, description="Commit or tag; null: the newest.")
    max_rows: int | None = Field(
        default=None, gt=0, description="Rows kept of this source; null: all that are usable."
    )
    seed: int = Field(default=42, description="Decides which rows a sample of max_rows holds.")


class PubMedQaSource(HubSource):
    """PubMedQA's expert-labelled questions."""

    holdout_official_test: bool = Field(
        default=True,
        description="Leave out the 500 ids of the official test set, so that scores stay valid.",
    )


class KeywordRules(Section):
    """What makes a Stack Exchange question belong to a domain; one keyword of any kind is enough."""

    words: tuple[str, ...] = Field(
        default=(), description="Whole words or phrases, any case; a blank is any whitespace."
    )
    acronyms: tuple[str, ...] = Field(default=(), description="Whole words in exactly this case.")
    patterns: dict[str, str] = Field(
        default_factory=dict[str, str],
        description="RE2 patterns for terms with symbols, by the name to report; exact case unless "
        "they begin with (?i).",
    )
    with_context: dict[str, tuple[str, ...]] = Field(
        default_factory=dict[str, tuple[str, ...]],
        description="Ambiguous words, any case: each counts only where one of its context words "
        "stands in the text too.",
    )


class StackExchangeSource(HubSource):
    """One domain of Stack Exchange: first its sites, then its keywords."""

    module = "stackexchange"

    sites: tuple[str, ...] = Field(
        default=(), description="Site folders; `.meta` ones never. Empty: those of the domain."
    )
    keywords: KeywordRules | None = Field(
        default=None, description="null: the list shipped for the domain."
    )


class LocalReportsSource(Source):
    """The user's own rows."""

    path: str = Field(
        default="data/my_dataset.json",
        description="A JSON list or JSON lines of {instruction, input, output, system}.",
    )
    license: str = Field(default="private", description="Licence recorded with each of these rows.")
    author: str = Field(default="", description="Author recorded with each of these rows.")
    personal_data: Literal["report", "fail", "ignore"] = Field(
        default="report",
        description="What to do about e-mail addresses, phone numbers, keys and tokens in the rows.",
    )


class SourcesConfig(Section):
    """Where rows come from. A field registers a source; their order is that of the partitions."""

    origin: str = Field(
        default="samples",
        description="`samples` (bundled), `hub`, or a folder laid out as the Hub repositories.",
    )
    local_reports: LocalReportsSource = LocalReportsSource()
    slimorca: HubSource = HubSource()
    pubmedqa: PubMedQaSource = PubMedQaSource()
    stackexchange_ai: StackExchangeSource = StackExchangeSource()
    stackexchange_ic: StackExchangeSource = StackExchangeSource()
    stackexchange_biomed: StackExchangeSource = StackExchangeSource()


SOURCE_NAMES: tuple[str, ...] = tuple(
    name
    for name, field in SourcesConfig.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Source)
)


def _is_source(name: str) -> str:
    if name not in SOURCE_NAMES:
        raise ValueError(f"{name!r} is no source; there is: {', '.join(SOURCE_NAMES)}")
    return name


SourceName = Annotated[
    str,
    AfterValidator(_is_source),
    WithJsonSchema({"type": "string", "enum": SOURCE_NAMES}),
]
"""One of SOURCE_NAMES."""
