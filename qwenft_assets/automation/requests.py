"""The runs of a rebuild: what is requested, and how they are told from others by their tags."""

from collections.abc import Sequence

import dagster as dg

from qwenft_assets.automation.jobs import finetune_job, publish_job, sources_job
from qwenft_assets.config import RecipeName
from qwenft_assets.rebuilds.upstream import SourceState, contiguous

REBUILD_TAG = "qwenft/rebuild"
"""The same for all runs of one rebuild: what started it, and when."""
RECIPES_TAG = "qwenft/recipes"
"""What is mixed and trained once the sources are sampled."""
SAMPLINGS_TAG = "qwenft/sampling_runs"
"""How many runs of `sources_job` this rebuild has."""
WHY_TAG = "qwenft/why"
LONGEST_TAG = 400
PARTITION_TAG = "dagster/partition"
FIRST_TAG, LAST_TAG = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def sampling_requests(
    states: Sequence[SourceState], recipes: Sequence[RecipeName], rebuild: str, why: str
) -> list[dg.RunRequest]:
    """One run of `sources_job` for each stretch of neighbouring sources."""
    stretches = list(contiguous([state.source for state in states]))
    tags = {
        REBUILD_TAG: rebuild,
        RECIPES_TAG: ",".join(recipes),
        SAMPLINGS_TAG: str(len(stretches)),
        WHY_TAG: why[:LONGEST_TAG],
    }
    return [
        dg.RunRequest(
            run_key=f"{rebuild}/{first}",
            job_name=sources_job.name,
            tags={**tags, FIRST_TAG: first, LAST_TAG: last},
        )
        for first, last in stretches
    ]


def following_request(run: dg.DagsterRun, job_name: str, recipe: str) -> dg.RunRequest:
    """A run for `recipe` that continues the rebuild which `run` is part of."""
    tags = {name: run.tags[name] for name in (REBUILD_TAG, WHY_TAG) if name in run.tags}
    return dg.RunRequest(
        run_key=f"{run.tags[REBUILD_TAG]}/{job_name}/{recipe}",
        job_name=job_name,
        partition_key=recipe,
        tags=tags,
    )


def sampled_in(run: dg.DagsterRun) -> str:
    """The sources that a run of `sources_job` is for: a name, or `first...last`."""
    first, last = run.tags.get(FIRST_TAG), run.tags.get(LAST_TAG)
    if first is None or last is None:
        return run.tags.get(PARTITION_TAG, "")
    return first if first == last else f"{first}...{last}"


def what_waits(instance: dg.DagsterInstance, rebuild: str) -> str | None:
    """Why the mixture of a rebuild cannot be made yet; None when all its sources are sampled.

    Of a stretch that was run again by hand, the newest run counts.
    """
    filters = dg.RunsFilter(job_name=sources_job.name, tags={REBUILD_TAG: rebuild})
    newest = dict[str, dg.DagsterRun]()
    for run in instance.get_runs(filters):  # the newest first
        newest.setdefault(sampled_in(run), run)
    wanted = int(next(iter(newest.values())).tags[SAMPLINGS_TAG])
    if len(newest) < wanted:
        return f"{len(newest)} of {wanted} sampling runs are there"
    for stretch, run in newest.items():
        if run.status != dg.DagsterRunStatus.SUCCESS:
            return f"the run that samples {stretch} is {run.status.value}"
    return None


def run_under_way(instance: dg.DagsterInstance, recipe: RecipeName) -> dg.DagsterRun | None:
    """A queued or running part of a rebuild of `recipe`; None while nothing of it runs."""
    for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)):
        if run.job_name == sources_job.name and recipe in run.tags.get(RECIPES_TAG, "").split(","):
            return run
        of_recipe = run.tags.get(PARTITION_TAG) == recipe
        if of_recipe and run.job_name in {finetune_job.name, publish_job.name}:
            return run
    return None
