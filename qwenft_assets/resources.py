"""What assets are given: the project's config and storage, the device, and worker processes.

Asset logic does not belong here. https://docs.dagster.io/guides/build/external-resources
"""

import logging
import os
import sys
from collections.abc import Callable
from typing import Any, get_args

import dagster as dg
from pydantic import BaseModel, Field

from qwenft_assets.config import (
    PROJECT_ROOT,
    SOURCE_NAMES,
    Config,
    LauncherConfig,
    RecipeName,
    SourceName,
    TrainingConfig,
    load_config,
)
from qwenft_assets.errors import error_by_name
from qwenft_assets.model.device import Device, find_gpus, resolve_device
from qwenft_assets.processes.parent import WorkerProcess
from qwenft_assets.storage.locking import hold_gpu
from qwenft_assets.storage.root import Storage


class ProjectResource(dg.ConfigurableResource):
    """The config file and the storage root that it names."""

    config_path: str = Field(
        default="",
        description="A file of configs/. Empty: the one QWENFT_CONFIG names, else the demo's.",
    )

    def config(self) -> Config:
        """The settings, read anew for each run."""
        return load_config(self.config_path or None)

    def storage(self, config: Config) -> Storage:
        """The storage root, checked to be writable, and what killed runs left there mended."""
        storage = Storage(config.storage_path(), config.storage_url())
        storage.ensure_writable()
        storage.recover()
        return storage


class GpuResource(dg.ConfigurableResource):
    """The device of training and evaluation."""

    device: str = Field(
        default="", description="auto, cuda or cpu. Empty: what the config file says."
    )

    def resolve(self, settings: TrainingConfig, say: Callable[[str], None] | None = None) -> Device:
        """The device to use; refuses when the config needs one that is not there.

        Args:
            settings: What the config needs.
            say: Given by what will use the GPU's memory: waits for other work of this user to leave
                it, whatever its Dagster instance, and tells who that is.
        """
        gpus = find_gpus()
        if gpus and say is not None:
            with hold_gpu(say):
                gpus = find_gpus()
        return resolve_device(settings, self.device or settings.device, gpus)


class WorkerResource(dg.ConfigurableResource):
    """Runs a worker module in a process of its own, with live log, and returns its result."""

    def run(
        self,
        context: dg.AssetExecutionContext,
        module: str,
        job: BaseModel,
        launcher: LauncherConfig = LauncherConfig(),  # noqa: B008  (frozen)
    ) -> dict[str, Any]:
        """Send `job` to `python -m module` and wait; when this run is cancelled, so is the worker.

        Args:
            context: Of the asset.
            module: The worker.
            job: What it does.
            launcher: One process of it, or several.

        Raises:
            QwenftError: What the worker reported, as if it had been raised here.
            WorkerError: The worker was killed or stopped from outside.
        """
        paths = [str(PROJECT_ROOT), os.environ.get("PYTHONPATH", "")]
        with dg.open_pipes_session(
            context=context.op_execution_context,
            extras={"job": job.model_dump(mode="json")},
            context_injector=dg.PipesTempFileContextInjector(),
            message_reader=dg.PipesTempFileMessageReader(),
        ) as session:
            worker = WorkerProcess(
                module,
                {
                    "PYTHONPATH": os.pathsep.join(path for path in paths if path),
                    "TOKENIZERS_PARALLELISM": "false",
                    "HF_HUB_DISABLE_TELEMETRY": "1",
                    "TQDM_DISABLE": "1",  # one bar a worker, its own
                    **session.get_bootstrap_env_vars(),
                },
                launcher,
            )
            worker.wait()
        for message in session.get_custom_messages():
            if "error" in message:
                raise error_by_name(message["error"]["kind"])(message["error"]["message"])
            if "result" in message:
                return message["result"]
        raise RuntimeError(f"{module} ended without a result")


class _AssetLinesHandler(logging.Handler):
    """Prints the lines that assets write about themselves; they begin with the asset's name."""

    def emit(self, record: logging.LogRecord) -> None:
        meta = getattr(record, "dagster_meta", {})
        message, step = str(meta.get("orig_message", "")), meta.get("step_key")
        # What a worker says in between is drawn by the worker itself, as a progress bar.
        if step and message.startswith(f"{step} ") and not meta.get("dagster_event"):
            mark = "!" if record.levelno >= logging.WARNING else "·"
            print(f"{mark} {message}", file=sys.stderr, flush=True)  # noqa: T201


@dg.logger
def terminal_logger(context: dg.InitLoggerContext) -> logging.Logger:  # noqa: ARG001
    """The logger of runs that the `qwenft` command starts."""
    logger = logging.Logger("qwenft", logging.INFO)  # noqa: LOG001  (of this run, not of the process)
    logger.addHandler(_AssetLinesHandler())
    return logger


def recipe_of_partition(context: dg.AssetExecutionContext) -> RecipeName:
    """The recipe that a run is for."""
    return next(name for name in get_args(RecipeName) if name == context.partition_key)


def sources_of_partitions(context: dg.AssetExecutionContext) -> list[SourceName]:
    """The sources that a run is for, in the order of the partition set."""
    wanted = set(context.partition_keys)
    return [name for name in SOURCE_NAMES if name in wanted]
