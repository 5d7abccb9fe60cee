"""The runs of a rebuild: how they are requested, and told from others by their tags."""

from collections.abc import Collection, Sequence

import dagster as dg

from qwenft_assets.assets.reporting import LONGEST_TAG, REBUILD_TAG, WHY_TAG
from qwenft_assets.automation.jobs import finetune_job, publish_job, sources_job
from qwenft_assets.rebuilds.upstream import SourceState, contiguous

PARTITION_TAG = "dagster/partition"
FIRST_TAG, LAST_TAG = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def sampling_requests(states: Sequence[SourceState], rebuild: str, why: str) -> list[dg.RunRequest]:
    """One run of `sources_job` for each stretch of neighbouring sources."""
    tags = {REBUILD_TAG: rebuild, WHY_TAG: why[:LONGEST_TAG]}
    return [
        dg.RunRequest(
            run_key=f"{rebuild}/{first}",
            job_name=sources_job.name,
            tags={**tags, FIRST_TAG: first, LAST_TAG: last},
        )
        for first, last in contiguous([state.source for state in states])
    ]


def job_of(run: dg.DagsterRun) -> str:
    """The job that a run is of, or would be of had no automation condition picked its assets."""
    assets = {key.to_user_string() for key in run.asset_selection or ()}
    if "source_sample" in assets:
        return sources_job.name
    if "mixed_dataset" in assets:
        return finetune_job.name
    return publish_job.name if assets == {"published_adapter"} else run.job_name


def partitions_of(run: dg.DagsterRun) -> str:
    """The sources or the recipe that a run is for: a name, or `first...last`."""
    first, last = run.tags.get(FIRST_TAG), run.tags.get(LAST_TAG)
    if first is None or last is None:
        return run.tags.get(PARTITION_TAG, "")
    return first if first == last else f"{first}...{last}"


def run_under_way(instance: dg.DagsterInstance, partitions: Collection[str]) -> str | None:
    """A queued or running run of one of the partitions, in words; None while there is none."""
    for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)):
        if partitions_of(run).split("...")[0] in partitions:
            return f"{job_of(run)} {run.run_id} is {run.status.value}"
    return None
