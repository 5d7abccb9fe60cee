"""What this machine can train on, found without importing torch."""

import shutil
import subprocess
from dataclasses import dataclass
from typing import Literal

from qwenft_assets.config import TrainingConfig
from qwenft_assets.errors import DeviceError
from qwenft_assets.storage.root import GIB as GIB

GPU_ONLY_WEIGHTS = ("nf4", "fp8")


@dataclass(frozen=True)
class Device:
    """Where training and evaluation run."""

    type: Literal["cuda", "cpu"]
    name: str
    free_vram_gib: float
    total_vram_gib: float


def find_gpus() -> list[Device]:
    """The NVIDIA GPUs that the driver reports; none without a driver."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    query = [command, "--query-gpu=name,memory.free,memory.total", "--format=csv,noheader,nounits"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    if answer.returncode != 0:
        return []
    gpus: list[Device] = []
    for line in answer.stdout.splitlines():
        name, free_mib, total_mib = (field.strip() for field in line.rsplit(",", 2))
        if free_mib.isdigit() and total_mib.isdigit():
            gpus.append(Device("cuda", name, int(free_mib) / 1024, int(total_mib) / 1024))
    return gpus


def resolve_device(settings: TrainingConfig, wanted: str, gpus: list[Device]) -> Device:
    """The device to run on.

    Args:
        settings: What the config needs: 4-bit or 8-bit weights and the memory a GPU must have free.
        wanted: `auto`, `cuda` or `cpu`.
        gpus: What is there.

    Raises:
        DeviceError: The config needs a GPU and there is none, or too little of its memory is free.
    """
    needs_gpu = settings.weights in GPU_ONLY_WEIGHTS
    if wanted == "cpu" or (wanted == "auto" and not gpus):
        if needs_gpu:
            raise DeviceError(
                f"{settings.base_model} with weights: {settings.weights} needs a CUDA GPU with "
                f"{settings.min_vram_gib:.1f} GiB free, and {_found(gpus, wanted)}. Run it on a GPU "
                "host, or use configs/demo.yaml, which needs none."
            )
        return Device("cpu", "cpu", 0.0, 0.0)
    if not gpus:
        raise DeviceError(
            "device: cuda was asked for, and nvidia-smi finds no GPU. Install its driver, or set "
            "training.device to auto or cpu."
        )
    best = max(gpus, key=lambda gpu: gpu.free_vram_gib)
    if best.free_vram_gib < settings.min_vram_gib:
        raise DeviceError(
            f"{best.name}: {best.free_vram_gib:.1f} of {best.total_vram_gib:.1f} GiB free, this "
            f"config needs {settings.min_vram_gib:.1f}. End what holds the memory (nvidia-smi shows "
            "it), or lower max_length_tokens, then min_vram_gib."
        )
    return best


def _found(gpus: list[Device], wanted: str) -> str:
    if not gpus:
        return "nvidia-smi finds no GPU here"
    return f"device {wanted} was asked for although {gpus[0].name} is there"
