"""A real Ray cluster on loopback whose nodes share no folder with the machine that runs the step.

The head is that machine, and takes no work. Each other node has a stage, a TMPDIR and a HOME of its own.
"""

import os
import socket
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

MEMORY = {"object_store_memory": 80 * 2**20}


@dataclass
class RayNodes:
    """The cluster, and its nodes by name."""

    cluster: Any
    client_port: int
    folder: Path
    nodes: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    @property
    def client_address(self) -> str:
        """For a machine that is not of the cluster."""
        return f"ray://127.0.0.1:{self.client_port}"

    def add(self, name: str, environment: Mapping[str, str]) -> None:
        places = {}
        for variable in ("TMPDIR", "HOME", "QWENFT_STAGE"):
            folder = self.folder / name / variable
            folder.mkdir(parents=True)
            places[variable] = str(folder)
        variables = {**environment, **places}
        self.nodes[name] = self.cluster.add_node(num_cpus=1, env_vars=variables, **MEMORY)

    def stage(self, name: str) -> Path:
        return self.folder / name / "QWENFT_STAGE"

    def name_of_stage_with(self, path: str) -> str:
        """The node that has a file or folder in its stage."""
        (name,) = [name for name in self.nodes if (self.stage(name) / path).exists()]
        return name

    def lose(self, name: str) -> None:
        """As a power cut would."""
        self.cluster.remove_node(self.nodes.pop(name), allow_graceful=False)


@contextmanager
def ray_nodes(folder: Path, names: list[str], environment: Mapping[str, str]) -> Iterator[RayNodes]:
    """The cluster for the length of the block.

    Args:
        folder: Of what the nodes have on their disks.
        names: Of the nodes beside the head.
        environment: Of their processes.
    """
    from ray.cluster_utils import Cluster

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    quick = {"health_check_period_ms": 1000, "health_check_timeout_ms": 5000}
    head = {
        "num_cpus": 0,
        "include_dashboard": False,
        "ray_client_server_port": port,
        "_system_config": quick,
        **MEMORY,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Ray leaves the server's logs open
        found = RayNodes(Cluster(head_node_args=head, initialize_head=True), port, folder)
    try:
        for name in names:
            found.add(name, environment)
        yield found
    finally:
        found.cluster.shutdown()


def workers() -> list[psutil.Process]:
    """The processes of training that run below this one."""
    below = psutil.Process(os.getpid()).children(recursive=True)
    return [process for process in below if "RayTrainWorker" in _command_of(process)]


def _command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # it ended meanwhile
        return ""
