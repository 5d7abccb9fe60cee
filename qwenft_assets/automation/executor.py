"""Where the steps of a run are executed.

https://docs.dagster.io/guides/operate/run-executors
"""

import dagster as dg

from qwenft_assets.config import AutomationConfig
from qwenft_assets.errors import ConfigError


def make_executor(settings: AutomationConfig) -> dg.ExecutorDefinition:
    """The executor that the config asks for.

    Raises:
        ConfigError: It is not installed.
    """
    if settings.executor == "in_process":
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
    return k8s_job_executor
