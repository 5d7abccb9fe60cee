"""After stage 5, where a config asks for it: the champion shared. Off by default."""

import dagster as dg

from qwenft_assets.assets.release import release
from qwenft_assets.assets.reporting import OWNERS, one_line_failures, record_table
from qwenft_assets.errors import PublishingError
from qwenft_assets.partitions import RECIPES
from qwenft_assets.publishing.publish import prepare
from qwenft_assets.records import MANIFEST_FILE
from qwenft_assets.resources import ProjectResource, recipe_of_partition

CODE_VERSION = "1"


@dg.asset(
    partitions_def=RECIPES,
    deps=[release],
    group_name="release",
    kinds={"huggingface", "github", "git"},
    owners=OWNERS,
    code_version=CODE_VERSION,
)
def published_adapter(
    context: dg.AssetExecutionContext, project: ProjectResource
) -> dg.MaterializeResult:
    """The champion where `publishing.target` says, scanned first, with its card and manifest.

    No part of a rebuild while that setting is null. Sends nothing that is there already.
    """
    recipe = recipe_of_partition(context)
    with one_line_failures():
        config = project.config()
        target = config.publishing.target
        if target is None:
            raise PublishingError(
                "publishing.target is null: publishing is off. Set it to publish each new champion, "
                f"or run `qwenft publish --recipe {recipe}` by hand."
            )
        publication = prepare(config, recipe, target, project.storage(config))
        outcome = publication.publish()
    version, bundle = publication.subject.version, publication.bundle
    again = " (unchanged)" if outcome.unchanged else ""
    context.log.info("published_adapter %s: %s at %s%s", recipe, version, outcome.where, again)
    files = [file.as_json() for file in bundle.manifest.files]
    return dg.MaterializeResult(
        data_version=dg.DataVersion(version),
        metadata={
            "dagster/uri": outcome.where,
            "unchanged": outcome.unchanged,
            "adapter_version": version,
            "target": target,
            "bytes": sum(bundle.files.values()),
            "files": record_table(
                files, [("path", "string"), ("bytes", "int"), ("sha256", "string")]
            ),
            "manifest": dg.MetadataValue.path(bundle.folder / MANIFEST_FILE),
        },
    )
