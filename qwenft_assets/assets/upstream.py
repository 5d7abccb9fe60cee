"""Before stage 1: where sources are read from. Observed, never written.

A sensor reports what it sees here, and each sampling reports what it has read; `Observe` in the web UI
looks at once. https://docs.dagster.io/guides/build/assets/external-assets
"""

from collections.abc import Sequence

import dagster as dg

from qwenft_assets.config import SOURCE_NAMES, SourceName
from qwenft_assets.errors import SourceError
from qwenft_assets.rebuilds.upstream import Commits, upstream_revision
from qwenft_assets.resources import ProjectResource
from qwenft_assets.sources.registry import repositories

IN_REPOSITORIES: tuple[SourceName, ...] = tuple(repositories())
IN_FILES: tuple[SourceName, ...] = tuple(n for n in SOURCE_NAMES if n not in IN_REPOSITORIES)


@dg.observable_source_asset(
    partitions_def=dg.StaticPartitionsDefinition(list(IN_REPOSITORIES)),
    description="The commit of each source's dataset repository, or the hash of its files in a folder. "
    "A commit concerns the sources that are read from its repository, and no other.",
    group_name="sources",
    tags={"dagster/kind/huggingface": ""},
)
def dataset_commits(
    context: dg.OpExecutionContext, project: ProjectResource
) -> dg.DataVersionsByPartition:
    """Look at each repository once."""
    return _look_at(context, project, IN_REPOSITORIES)


@dg.observable_source_asset(
    partitions_def=dg.StaticPartitionsDefinition(list(IN_FILES)),
    description="The sha256 of the user's own file, which is what `local_reports` is read from.",
    group_name="sources",
    tags={"dagster/kind/file": ""},
)
def reports_file(
    context: dg.OpExecutionContext, project: ProjectResource
) -> dg.DataVersionsByPartition:
    """Hash the file."""
    return _look_at(context, project, IN_FILES)


def upstream_key(source: SourceName) -> dg.AssetKey:
    """The asset that stands for what a source is read from."""
    return (dataset_commits if source in IN_REPOSITORIES else reports_file).key


def observation(source: SourceName, revision: str) -> dg.AssetObservation:
    """What was seen upstream of a source, as its asset's data version."""
    return dg.AssetObservation(
        asset_key=upstream_key(source), partition=source, tags={"dagster/data_version": revision}
    )


def upstream_deps() -> list[dg.AssetDep]:
    """What `source_sample` is read from: each of its partitions from the one of the same name."""
    return [
        dg.AssetDep(
            asset,
            partition_mapping=dg.StaticPartitionMapping({source: source for source in sources}),
        )
        for asset, sources in ((dataset_commits, IN_REPOSITORIES), (reports_file, IN_FILES))
    ]


def _look_at(
    context: dg.OpExecutionContext, project: ProjectResource, sources: Sequence[SourceName]
) -> dg.DataVersionsByPartition:
    """One look at each place; one that cannot be asked is logged and left out."""
    config, seen = project.config(), Commits()
    found = dict[str, str | dg.DataVersion]()
    for source in sources:
        try:
            found[source] = upstream_revision(config, source, seen)
        except SourceError as error:
            context.log.warning("%s: upstream cannot be asked: %s", source, error)
    return dg.DataVersionsByPartition(found)
