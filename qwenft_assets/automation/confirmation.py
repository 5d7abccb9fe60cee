"""What a tick without news tells the instance: what stands was looked at, and is still right."""

from collections.abc import Sequence

import dagster as dg

from qwenft_assets.config import RecipeName, SourceName


def confirm_unchanged(
    instance: dg.DagsterInstance, sources: Sequence[SourceName], recipe: RecipeName
) -> None:
    """Report samples and champion again, as they are, so that they do not count as overdue.

    The same as a run that finds everything unchanged would leave, without the run.
    """
    for asset, partition in [*(("source_sample", name) for name in sources), ("release", recipe)]:
        filters = dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[partition])
        for record in instance.fetch_materializations(filters, limit=1).records:
            last = record.asset_materialization
            if last is not None:
                instance.report_runless_asset_event(
                    dg.AssetMaterialization(
                        asset_key=asset,
                        partition=partition,
                        description="looked at by a schedule: unchanged",
                        metadata={**last.metadata, "unchanged": True},
                        tags=_own_tags(last),
                    )
                )


def _own_tags(last: dg.AssetMaterialization) -> dict[str, str]:
    version = (last.tags or {}).get("dagster/data_version")
    return {"dagster/data_version": version} if version else {}
