"""The whole graph, in flow order; nothing else.

source_sample → mixed_dataset → lora_adapter → evaluation → release (→ published_adapter)
"""

import dagster as dg

from qwenft_assets.assets.evaluation import evaluation
from qwenft_assets.assets.mixture import mixed_dataset
from qwenft_assets.assets.publishing import published_adapter
from qwenft_assets.assets.release import release
from qwenft_assets.assets.sources import source_sample
from qwenft_assets.assets.training import lora_adapter
from qwenft_assets.automation.executor import make_executor
from qwenft_assets.automation.failures import make_failure_sensor
from qwenft_assets.automation.jobs import finetune_job, publish_job, sources_job
from qwenft_assets.automation.schedules import make_schedules
from qwenft_assets.automation.sensors import make_sensors
from qwenft_assets.config_file import load_config
from qwenft_assets.resources import (
    GpuResource,
    ProjectResource,
    WorkerResource,
    terminal_logger,
)

_automation = load_config().automation

defs = dg.Definitions(
    # With a link from each asset to the line that defines it.
    assets=dg.with_source_code_references(
        [source_sample, mixed_dataset, lora_adapter, evaluation, release, published_adapter]
    ),
    jobs=[sources_job, finetune_job, publish_job],
    schedules=make_schedules(_automation),
    sensors=[*make_sensors(_automation), make_failure_sensor(_automation)],
    resources={
        "project": ProjectResource(),
        "gpu": GpuResource(),
        "worker": WorkerResource(),
    },
    loggers={"console": dg.colored_console_logger, "terminal": terminal_logger},
    executor=make_executor(_automation),
)
