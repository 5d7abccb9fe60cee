"""What starts the processes of training and evaluation, and on how many machines."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qwenft_assets.config.section import Section


class LauncherConfig(Section):
    """One process, several on this machine, or several on a Ray cluster; the results are the same."""

    kind: Literal["local", "accelerate", "ray"] = Field(
        default="local",
        description="local: one process. accelerate: several on this machine. ray: several on a "
        "cluster. An optimizer step is training.step_sequences in all, however many they are.",
    )
    processes: int = Field(
        default=2,
        ge=1,
        description="Of accelerate and ray; each takes its share of every step's rows, and a GPU of "
        "its own where training runs on GPUs.",
    )
    ray_address: str | None = Field(
        default=None,
        description="host:port or ray://host:port of a cluster that runs, whose machines share the "
        "storage root as a folder, or reach it in an object store (docs/storage.md); auto: as "
        "RAY_ADDRESS says. null: one of this machine, for the step alone.",
    )
    ray_cpus_per_process: float = Field(
        default=1, gt=0, description="Cores that Ray sets aside for each process."
    )

    def size(self) -> int:
        """How many processes there are."""
        return 1 if self.kind == "local" else self.processes
