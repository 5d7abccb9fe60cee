"""A Ray cluster for one step: an existing one, or one on this machine only."""

import logging
import math
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from qwenft_assets.config import LauncherConfig
from qwenft_assets.errors import ConfigError, WorkerError

OBJECT_STORE_BYTES = 200 * 2**20
"""Object store of a cluster started on this machine. It is small because artifacts go through the storage
root, not through Ray."""
PASSED_ON = ("QWENFT_", "HF_")
"""Prefixes of the environment variables that the cluster's processes need as well."""
PLACES = ("_STAGE", "_HOME", "_CACHE", "_PATH")
"""Suffixes of those that name a place on the disk of this machine."""


@contextmanager
def connected(launcher: LauncherConfig, *, own_disks: bool = False) -> Iterator[None]:
    """Inside the block this process is a driver of the cluster; its tasks and actors end with the block.

    A process that is a driver already stays one, so that a step with several blocks can start Ray once.

    Args:
        launcher: Names the cluster.
        own_disks: Whether its machines may have disks of their own.

    Raises:
        ConfigError: Ray is not installed.
        WorkerError: The cluster cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "launcher.kind: ray needs Ray. Install it with `pip install 'qwenft[ray]'`, or set "
            "launcher.kind to accelerate."
        ) from error
    if ray.is_initialized():
        yield
        return
    with _own_signal_handlers():
        _init(launcher, passed_on(os.environ, own_disks=own_disks))
    try:
        yield
    finally:
        ray.shutdown()


def passed_on(environment: Mapping[str, str], *, own_disks: bool) -> dict[str, str]:
    """The environment variables of this process that the cluster's processes get."""
    kept = PLACES if own_disks else ()
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(PASSED_ON) and not name.endswith(kept)
    }


@contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Keep this process's signal handlers: those of Ray would end it at once."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def _init(launcher: LauncherConfig, environment: dict[str, str]) -> None:
    import ray

    if launcher.ray_address is None:
        needed = math.ceil(launcher.processes * launcher.ray_cpus_per_process)
        ray.init(
            address="local",
            num_cpus=max(needed, os.cpu_count() or 1),
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            logging_level=logging.ERROR,
        )
    else:
        try:
            ray.init(
                address=launcher.ray_address,
                runtime_env={"env_vars": environment},
                logging_level=logging.ERROR,
            )
        except (ConnectionError, TimeoutError, ValueError) as error:
            raise WorkerError(
                f"launcher.ray_address {launcher.ray_address}: no Ray cluster answers "
                f"({str(error).splitlines()[0][:160]}). Start one with `ray start --head`, or set it "
                "to null."
            ) from error
