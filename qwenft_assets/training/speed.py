"""How many tokens a second a machine trains: as measured here before, else as assumed."""

import os
from dataclasses import dataclass
from typing import Any

from qwenft_assets.config import TrainingConfig
from qwenft_assets.errors import StorageError
from qwenft_assets.model.device import Device
from qwenft_assets.model.memory import MemoryPlan, ModelShape
from qwenft_assets.records import TrainingRecord
from qwenft_assets.storage.files import read_json
from qwenft_assets.storage.root import Storage

GPU_TFLOPS = {
    "B200": 1600.0,
    "H200": 757.0,
    "H100": 700.0,
    "A100": 260.0,
    "L40S": 300.0,
    "L4": 100.0,
    "RTX 5090": 200.0,
    "RTX 4090": 160.0,
    "RTX 3090": 70.0,
    "A10": 110.0,
    "T4": 40.0,
}
"""bf16 matrix products as such cards reach them; H200: measured, benchmarks/RESULTS.md."""
UNKNOWN_GPU_TFLOPS = 100.0
CORE_GFLOPS = 40.0
"""fp32 matrix products of one CPU core, as two cores of the demo's machine reach them."""
SHARE_OF_PRODUCTS = {"flattened": 0.49, "packed": 0.66, "padded": 0.10}
"""Share of a card's rate of matrix products that training reaches without checkpointing, measured on one
H200."""
CHECKPOINTING_SHARE = 0.72
KEEP_4BIT_SHARE = 0.75


@dataclass(frozen=True)
class Speed:
    """Real tokens a second, padding not counted, and how that is known."""

    tokens_per_second: float
    known_from: str


def speed_of(
    base_model: str,
    shape: ModelShape,
    settings: TrainingConfig,
    storage: Storage,
    device: Device,
    memory: MemoryPlan | None,
) -> Speed:
    """The speed of the last run of this base model here, else an estimate from the card's name."""
    measured = _measured(base_model, settings, storage, device)
    if measured is not None:
        return measured
    # Forward and the gradient of activations; the frozen base has no gradient of weights.
    flop_a_token = 4 * (shape.linear_weights + shape.vocabulary * shape.hidden)
    if device.type == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        rate = cores * CORE_GFLOPS * 1e9 / flop_a_token
        return Speed(rate, f"assumed: {cores} cores of {CORE_GFLOPS:.0f} GFLOP/s")
    name = next((name for name in GPU_TFLOPS if name in device.name), None)
    tflops = GPU_TFLOPS[name] if name else UNKNOWN_GPU_TFLOPS
    share = SHARE_OF_PRODUCTS[settings.batching]
    if memory is not None and memory.checkpointing:
        share *= CHECKPOINTING_SHARE
    if memory is not None and memory.keep_4bit:
        share *= KEEP_4BIT_SHARE
    about = f"assumed: {tflops:.0f} TFLOP/s, of which {share:.0%}"
    if memory is not None and memory.shards > 1:
        about += "; the time to gather layers is not known and not counted"
    return Speed(tflops * 1e12 * share / flop_a_token, about)


def _measured(
    base_model: str, settings: TrainingConfig, storage: Storage, device: Device
) -> Speed | None:
    found: list[tuple[float, dict[str, Any]]] = []
    for path in storage.root.glob(f"lora_adapter/*/*/{TrainingRecord.FILE}"):
        try:
            record = read_json(path) or {}
        except StorageError:
            continue
        same_device = record.get("memory_plan") is None
        if device.type == "cuda":
            same_device = record.get("device") == device.name
        if (
            same_device
            and record.get("base_model") == base_model
            and record.get("batching") == settings.batching
            and record.get("engine", "peft") == settings.engine_name
            and record.get("tokens_per_second")
        ):
            found.append((path.stat().st_mtime, record))
    if not found:
        return None
    record = max(found, key=lambda item: item[0])[1]
    return Speed(record["tokens_per_second"], f"measured: run {record['version']}")
