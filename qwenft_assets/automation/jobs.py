"""The jobs, and where their steps are executed.

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
