"""The data behind a model or a dataset, by source, with licences and attribution."""

from qwenft_assets.publishing.subject import SourceShare, Subject
from qwenft_assets.sources.registry import repositories

BUNDLED = "samples"
"""The origin whose rows were written for this project."""


def data_table(subject: Subject, *, public_only: bool = False) -> str:
    """Rows by source and licence, as Markdown; private sources by number only."""
    if not subject.shares:
        lines = ["| source | held-out rows |", "|---|---:|"]
        per_source = subject.evaluation["per_source"].items()
        lines += [
            f"| {_linked(subject, source)} | {own['eval_rows']} |" for source, own in per_source
        ]
        lines += ["", "The mixture was rebuilt since, so its other counts are not at hand."]
        return "\n".join(lines)
    lines = [
        "| source | licence | train rows | held-out rows | revision |",
        "|---|---|---:|---:|---|",
    ]
    for share in subject.shares:
        if share.private and public_only:
            continue
        revision = _revision(subject, share)
        lines.append(
            f"| {_linked(subject, share.source)} | {share.license} | {share.train_rows} | "
            f"{share.eval_rows} | {revision} |"
        )
    return "\n".join(lines)


def _revision(subject: Subject, share: SourceShare) -> str:
    if share.private:
        return "not published"
    if share.source in repositories() and share.source not in hub_datasets(subject):
        return "bundled"
    return f"`{share.revision}`"


def attribution(subject: Subject) -> str:
    """The attribution that a licence asks for, as text."""
    lines = _bundled() if subject.config.sources.origin == BUNDLED else _authors(subject)
    if any(share.private for share in subject.shares):
        lines.append("Private rows are part of the training data and are not published.")
    return "\n\n".join(lines)


def _bundled() -> list[str]:
    return [
        "The stand-ins were written for the qwenft project, in the layout of those datasets and "
        "under their licences; no text of theirs is in them, and nobody behind them is real."
    ]


def _authors(subject: Subject) -> list[str]:
    sources = sources_of(subject)
    lines: list[str] = []
    if any(source.startswith("stackexchange") for source in sources):
        lines.append(
            "Stack Exchange rows are questions and answers of the [Stack Exchange network]"
            "(https://stackexchange.com) by their authors, under "
            "[CC BY-SA 4.0](https://creativecommons.org/licenses/by-sa/4.0/); each row of the "
            "dataset carries the link to the question and the author's name."
        )
    if "slimorca" in sources:
        lines.append("SlimOrca holds answers of GPT-4; OpenAI's terms may apply to their use.")
    if "pubmedqa" in sources:
        lines.append(
            "PubMedQA: Jin et al., [PubMedQA: A Dataset for Biomedical Research Question "
            "Answering](https://aclanthology.org/D19-1259/), 2019."
        )
    return lines


def hub_datasets(subject: Subject) -> dict[str, str]:
    """The public dataset that each source of this adapter really read, by source."""
    if subject.config.sources.origin == BUNDLED:
        return {}
    public = repositories()
    return {name: public[name] for name in sources_of(subject) if name in public}


def sources_of(subject: Subject) -> list[str]:
    """Names of the sources in the mixture, as far as they are known."""
    return sorted({s.source for s in subject.shares} or set(subject.evaluation["per_source"]))


def _linked(subject: Subject, source: str) -> str:
    hub_id = repositories().get(source)
    if hub_id is None:
        return source
    link = f"[{hub_id}](https://huggingface.co/datasets/{hub_id})"
    if source not in hub_datasets(subject):
        return f"{source} (bundled stand-in for {link})"
    return f"{source} ({link})"
