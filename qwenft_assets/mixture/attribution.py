"""ATTRIBUTION.md: whose texts a mixture holds, under which licences, and what these ask for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from qwenft_assets.rows import InstructionRow, is_private

ATTRIBUTION_FILE = "ATTRIBUTION.md"
SHARE_ALIKE = re.compile(r"CC[ -]BY-SA[ -](\d\.\d)", re.IGNORECASE)
LINKABLE = re.compile(r"https?://[^\s<>]+")
HEADING = """# Whose texts these are

{rows:,} distinct rows. `rows.parquet` names source, URL, authors, licence and revision of each.

| source | licence | rows |
|---|---|---|
{table}
"""
PRIVATE_NOTE = """
## Private rows

{rows:,} rows are marked `private`: they may be trained on here, and no publishing path takes them
along unless the config says so.
"""
SHARE_ALIKE_NOTE = """
## Rows under {license}

<{url}> lets anyone use, change and pass on these
{rows:,} texts, for money too, as long as they

- **name the source**: the list below gives the page and the authors of each row; keep it beside any
  copy of the data,
- **say what was changed**: HTML became Markdown, and of several answers one was taken,
- **share alike**: whoever publishes these rows, or a data set that holds them, must do so under the
  same licence. The code of this project and rows from other sources keep their own licences.

Whether the weights of a model trained on such texts are an adaptation of them is not settled.
The cautious course is to publish an adapter with this list beside it and to name its training data.
Answers of a model that repeat a text at length need the same attribution.

"""


def attribution(rows: Sequence[InstructionRow]) -> Iterator[str]:
    """The lines of ATTRIBUTION.md, one for each row whose licence asks for it."""
    counts = Counter((row.source, row.license) for row in rows)
    table = "\n".join(
        f"| {source} | {plain(license_name)} | {n:,} |"
        for (source, license_name), n in sorted(counts.items())
    )
    yield HEADING.format(rows=len(rows), table=table)
    private = sum(is_private(row.license) for row in rows)
    if private:
        yield PRIVATE_NOTE.format(rows=private)
    for license_name in sorted({license_name for _, license_name in counts}):
        match = SHARE_ALIKE.search(license_name)
        if match is None:
            continue
        url = f"https://creativecommons.org/licenses/by-sa/{match[1]}/"
        shared = [row for row in rows if row.license == license_name]
        yield SHARE_ALIKE_NOTE.format(license=plain(license_name), url=url, rows=len(shared))
        yield from sorted(f"- {_link(row.url)} ({plain(row.author)})\n" for row in shared)


def _link(url: str) -> str:
    return f"<{url}>" if LINKABLE.fullmatch(url) else plain(url)


def plain(text: str) -> str:
    """Text of others as one line in which Markdown and HTML find nothing to act on."""
    line = " ".join(text.split())
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", line)
