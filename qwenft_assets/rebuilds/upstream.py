"""What changed upstream since a source was sampled, found by one cheap look at each place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from qwenft_assets.config import SOURCE_NAMES, Config, HubSource, RecipeName, SourceName
from qwenft_assets.errors import SourceError
from qwenft_assets.mixture.build import recipe_of
from qwenft_assets.mixture.samples import sources_of
from qwenft_assets.records import SampleManifest
from qwenft_assets.sources.hub import resolve_commit
from qwenft_assets.sources.local_reports import reports_path
from qwenft_assets.sources.registry import repositories, scan_source
from qwenft_assets.sources.sample import why_stale
from qwenft_assets.storage.files import is_intact, read_json, sha256_of_file
from qwenft_assets.storage.root import Storage

HUB_ATTEMPTS = 2
HUB_TIMEOUT_SECONDS = 10.0
"""Few and short: Dagster ends a tick after a minute. Sampling itself is more patient."""
SHOWN_DIGITS = 12

Commits = dict[tuple[str, str | None], str]
"""What the Hub has answered so far, by repository and the revision asked for."""


@dataclass(frozen=True)
class SourceState:
    """A source's sample beside what upstream holds now."""

    source: SourceName
    version: str | None
    """The sample's version; None if there is no sample."""
    sampled: str | None
    """The revision that was sampled."""
    upstream: str | None
    """The revision that is there now; None if it cannot be asked."""
    change: str | None
    """A phrase that says why it must be sampled; None if it need not be."""

    def __str__(self) -> str:
        if self.change:
            return f"{self.source}: {self.change}"
        return f"{self.source} {self.version} (revision {short(self.sampled)})"


def survey(config: Config, sources: Iterable[SourceName], storage: Storage) -> list[SourceState]:
    """Each source's sample beside upstream, in the order of the partitions.

    Asks each dataset repository once, and the Hub not at all for a file or folder. A place that cannot
    be asked counts as changed: sampling it will say what is wrong.
    """
    wanted, seen = set(sources), Commits()
    return [_state(config, name, storage, seen) for name in SOURCE_NAMES if name in wanted]


def _state(config: Config, source: SourceName, storage: Storage, seen: Commits) -> SourceState:
    folder = storage.source_sample(source)
    manifest = read_json(folder / SampleManifest.FILE)
    if manifest is None or not is_intact(folder / "rows.parquet", manifest.get("sha256")):
        return SourceState(source, None, None, None, "not sampled yet, or the sample is damaged")
    version, sampled = str(manifest["version"]), str(manifest["revision"])
    try:
        upstream = upstream_revision(config, source, seen)
    except SourceError as error:
        return SourceState(source, version, sampled, None, f"upstream cannot be asked: {error}")
    change = why_stale(config, source, manifest)
    if upstream != sampled:
        change = what_moved(manifest, {"revision": upstream})
    return SourceState(source, version, sampled, upstream, change)


def what_moved(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> str:
    """How the manifest of a sample differs from the one before it, such as by its revision."""
    if before is None:
        return "not sampled yet"
    if before["revision"] == after["revision"]:
        return "sampled with other settings, or further"
    return f"revision {short(before['revision'])} became {short(after['revision'])}"


def upstream_revision(config: Config, source: SourceName, seen: Commits) -> str:
    """The commit on the Hub, the sha256 of the reports file, or the hash of a folder's files.

    Raises:
        SourceError: The Hub does not answer, or the file or folder cannot be read.
    """
    settings = getattr(config.sources, source)
    if not isinstance(settings, HubSource):
        path = reports_path(config)
        try:
            return sha256_of_file(path)
        except OSError as error:
            raise SourceError(f"{path}: cannot be read ({error.strerror}). Put it back.") from error
    if config.sources.origin != "hub":
        return scan_source(config, source).revision
    key = (repositories()[source], settings.revision)
    if key not in seen:
        seen[key] = resolve_commit(*key, HUB_ATTEMPTS, HUB_TIMEOUT_SECONDS)
    return seen[key]


def sources_of_recipe(config: Config, recipe: RecipeName) -> list[SourceName]:
    """The sources that a recipe mixes, in the order of the partitions."""
    named = set(sources_of(config, recipe_of(config, recipe)))
    return [name for name in SOURCE_NAMES if name in named]


def contiguous(sources: Sequence[SourceName]) -> Iterator[tuple[SourceName, SourceName]]:
    """First and last of each stretch of neighbouring partitions: one run serves a stretch."""
    for wanted, stretch in groupby(SOURCE_NAMES, lambda name: name in sources):
        if wanted:
            names = list(stretch)
            yield names[0], names[-1]


def short(revision: str | None) -> str:
    """The first digits of a hash."""
    return revision[:SHOWN_DIGITS] if revision else "none"
