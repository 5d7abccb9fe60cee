"""The jobs, where their steps are executed, and which job and partitions a run is for.

A rebuild is two jobs, because assets with different partition sets cannot share a run.
https://docs.dagster.io/guides/build/jobs/asset-jobs
"""

import dagster as dg

from qwenft_assets.config import Config
from qwenft_assets.errors import ConfigError

sources_job = dg.define_asset_job(
    "sources_job",
    selection=dg.AssetSelection.assets("source_sample"),
    description="Sample every source.",
)
finetune_job = dg.define_asset_job(
    "finetune_job",
    selection=dg.AssetSelection.assets("mixed_dataset").downstream()
    - dg.AssetSelection.assets("published_adapter"),
    description="Mixture, adapter, evaluation and release of one recipe.",
)
publish_job = dg.define_asset_job(
    "publish_job",
    selection=dg.AssetSelection.assets("published_adapter"),
    description="Publish the champion of one recipe where publishing.target says.",
)

PARTITION_TAG = "dagster/partition"
FIRST_TAG, LAST_TAG = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def job_of(run: dg.DagsterRun) -> str:
    """The job that a run executes, also when an automation condition picked its assets."""
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


def make_executor(config: Config) -> dg.ExecutorDefinition:
    """The executor that the config asks for; on Kubernetes, training and evaluation get a GPU.

    https://docs.dagster.io/guides/operate/run-executors

    Raises:
        ConfigError: It is not installed.
    """
    if config.automation.executor == "in_process":
        # A chain has nothing to run side by side, and the heavy steps are processes of their own: a
        # process for each step would only add two seconds to it.
        return dg.in_process_executor
    try:
        from dagster_k8s import k8s_job_executor
    except ImportError as error:
        raise ConfigError(
            "automation.executor: k8s needs dagster-k8s. Run `pip install -c constraints.txt -e "
            "'.[k8s]'`, or set it to in_process."
        ) from error
    if config.training.device == "cpu":
        return k8s_job_executor
    gpu = {"container_config": {"resources": {"limits": {"nvidia.com/gpu": "1"}}}}
    return k8s_job_executor.configured(
        {"per_step_k8s_config": {"lora_adapter": gpu, "evaluation": gpu}}, name="k8s"
    )
