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
from qwenft_assets.automation import finetune_job, publish_job, sources_job
from qwenft_assets.resources import (
    GpuResource,
    ProjectResource,
    WorkerResource,
    terminal_logger,
)

defs = dg.Definitions(
    assets=[source_sample, mixed_dataset, lora_adapter, evaluation, release, published_adapter],
    jobs=[sources_job, finetune_job, publish_job],
    resources={
        "project": ProjectResource(),
        "gpu": GpuResource(),
        "worker": WorkerResource(),
    },
    loggers={"console": dg.colored_console_logger, "terminal": terminal_logger},
    # A chain has nothing to run side by side, and the heavy steps are processes of their own: a
    # process for each step would only add two seconds to it.
    executor=dg.in_process_executor,
)
