"""The whole graph, in flow order; nothing else.

dataset_commits, reports_file → source_sample → mixed_dataset → lora_adapter → evaluation → release
(→ published_adapter)
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from qwenft_assets.assets.evaluation import evaluation
from qwenft_assets.assets.mixture import mixed_dataset
from qwenft_assets.assets.publishing import published_adapter
from qwenft_assets.assets.release import release
from qwenft_assets.assets.sources import source_sample
from qwenft_assets.assets.training import lora_adapter
from qwenft_assets.assets.upstream import dataset_commits, reports_file
from qwenft_assets.automation.failures import make_failure_sensor
from qwenft_assets.automation.jobs import finetune_job, make_executor, publish_job, sources_job
from qwenft_assets.automation.policies import with_policies
from qwenft_assets.automation.schedules import make_schedules
from qwenft_assets.automation.sensors import make_sensors
from qwenft_assets.config import Config, load_config
from qwenft_assets.resources import (
    GpuResource,
    ProjectResource,
    WorkerResource,
    terminal_logger,
)


def build_defs(config: Config, resources: Mapping[str, Any] | None = None) -> dg.Definitions:
    """The graph of a config: its assets, jobs, schedules, sensors and executor.

    Args:
        config: Decides what is automated, how and when.
        resources: Replace those of the same name. `project` is what runs and ticks read the config
            file from, each time anew: `ProjectResource(config_path=...)` for another file than
            `QWENFT_CONFIG` names.
    """
    assets = [source_sample, mixed_dataset, lora_adapter, evaluation, release, published_adapter]
    return dg.Definitions(
        # With a link from each asset to the line that defines it.
        assets=[
            dataset_commits,
            reports_file,
            *dg.with_source_code_references(with_policies(assets, config)),
        ],
        jobs=[sources_job, finetune_job, publish_job],
        schedules=make_schedules(config.automation),
        sensors=[*make_sensors(config.automation), make_failure_sensor(config.automation)],
        resources={
            "project": ProjectResource(),
            "gpu": GpuResource(),
            "worker": WorkerResource(),
            **(resources or {}),
        },
        loggers={"console": dg.colored_console_logger, "terminal": terminal_logger},
        executor=make_executor(config),
    )


defs = build_defs(load_config())
