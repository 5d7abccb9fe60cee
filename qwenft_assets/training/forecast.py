"""What a training run will take, told before it begins and without torch: steps, memory, disk, hours.

Figures of the mixture at hand where there is one, of the recipe otherwise; what is assumed is said.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from qwenft_assets.config import Config, LoraConfig, RecipeName, TrainingConfig
from qwenft_assets.errors import BaseModelError, DeviceError
from qwenft_assets.model.base import BaseModelRef, find_base_model
from qwenft_assets.model.device import Device
from qwenft_assets.model.memory import (
    CONTEXT_GIB,
    MemoryPlan,
    ModelShape,
    plan_memory,
    shape_of,
)
from qwenft_assets.records import MixtureLengths, MixtureManifest
from qwenft_assets.storage.files import read_json
from qwenft_assets.storage.root import GIB, Storage
from qwenft_assets.training.run import evaluation_interval, optimizer_steps
from qwenft_assets.training.speed import Speed, speed_of

ASSUMED_TOKENS_A_ROW = 406
"""Measured mean over the original recipe's sources, with Qwen2.5's tokenizer."""
PACKED_SHARE = 0.97
"""What best-fit packing fills of a sequence."""
KEPT_CHECKPOINTS = 3
"""The best, the last, and the one being written."""
TOKEN_BYTES = 8
"""Disk for a token in all forms that its row takes: sample, mixture, token cache."""
SHAPES = {
    "Qwen/Qwen2.5-7B-Instruct": ModelShape(28, 3584, 18_944, 3584, 512, 152_064, tied=False),
    "HuggingFaceTB/SmolLM2-135M-Instruct": ModelShape(30, 576, 1536, 576, 192, 49_152, tied=True),
}
"""Shapes of the shipped configs' models, for when their config.json has not been fetched yet."""


@dataclass(frozen=True)
class Work:
    """What there is to do, whatever the machine."""

    base: BaseModelRef
    shape: ModelShape
    trainable_parameters: int
    train_rows: int
    eval_rows: int
    tokens_a_row: float
    longest_row_tokens: int
    steps: int
    step_tokens: float
    """Tokens of an average step."""
    evaluations: int
    rows_an_evaluation: int
    assumptions: tuple[str, ...]

    @property
    def train_tokens(self) -> int:
        """Through the model in all epochs together."""
        return round(self.steps * self.step_tokens)

    @property
    def evaluation_tokens(self) -> int:
        """Through the model in all evaluations while training together."""
        return round(self.evaluations * self.rows_an_evaluation * self.tokens_a_row)

    @property
    def largest_step_tokens(self) -> int:
        """Tokens of a step with the longest rows; steps of many rows are closer to the mean."""
        return math.ceil(1.25 * self.step_tokens + self.longest_row_tokens)


@dataclass(frozen=True)
class Forecast:
    """The same on one machine."""

    where: str
    memory: MemoryPlan | None
    """None on a CPU."""
    speed: Speed
    hours: float


def work_of(config: Config, recipe: RecipeName, storage: Storage) -> Work:
    """What training a recipe is.

    Raises:
        BaseModelError: The base model cannot be found.
    """
    settings = config.training
    assumptions: list[str] = []
    try:
        base = find_base_model(settings, storage)
    except BaseModelError as error:
        if settings.base_model not in SHAPES:
            raise
        base = BaseModelRef(name=settings.base_model, revision="unknown", kind="hub", path="")
        assumptions.append(f"the base model's sizes: {error}")
    shape = base_shape(base)
    manifest = read_json(storage.mixed_dataset(recipe) / MixtureManifest.FILE)
    lengths = read_json(storage.mixed_dataset(recipe) / MixtureLengths.FILE)
    if manifest:
        train_rows, eval_rows = manifest["train_rows"], manifest["eval_rows"]
    else:
        rows = config.mixture.recipes[recipe].rows
        eval_rows = max(round(rows * config.mixture.eval_fraction), 1)
        train_rows = rows - eval_rows
        assumptions.append(f"{rows} rows, as the recipe asks: there is no mixture yet")
    longest = settings.max_length_tokens
    if lengths and lengths["max_length_tokens"] == longest:
        figures = lengths["by_source"]["all"]
        tokens_a_row = figures["tokens"] / figures["rows"]
        longest = min(longest, figures["max"])
    else:
        tokens_a_row = float(min(ASSUMED_TOKENS_A_ROW, longest))
        assumptions.append(f"{tokens_a_row:.0f} tokens a row: none is counted yet")
    if settings.batching == "packed":
        of_sequence = PACKED_SHARE * settings.max_length_tokens
        sequence_count = math.ceil(train_rows * tokens_a_row / of_sequence)
    else:
        of_sequence, sequence_count = tokens_a_row, train_rows
    steps = optimizer_steps(sequence_count, settings)
    rows_an_evaluation = min(eval_rows, settings.max_eval_rows or eval_rows)
    return Work(
        base=base,
        shape=shape,
        trainable_parameters=lora_parameters(shape, settings.lora),
        train_rows=train_rows,
        eval_rows=eval_rows,
        tokens_a_row=tokens_a_row,
        longest_row_tokens=longest,
        steps=steps,
        step_tokens=sequence_count * of_sequence * settings.epochs / steps,
        evaluations=math.ceil(steps / evaluation_interval(settings, steps)),
        rows_an_evaluation=rows_an_evaluation,
        assumptions=tuple(assumptions),
    )


def forecast(
    work: Work, settings: TrainingConfig, storage: Storage, device: Device, processes: int = 1
) -> Forecast:
    """What the work takes on a machine.

    Args:
        work: What there is to do.
        settings: Of the run.
        storage: Where earlier runs may say how fast this machine is.
        device: The machine; one that is not here is a `Device` as well.
        processes: That train together, each on such a device.

    Raises:
        DeviceError: It does not fit; says what would help, and by how much.
    """
    memory = None
    if device.type == "cuda":
        memory = memory_on(work, settings, device.free_vram_gib, processes)
    speed = speed_of(work.base.name, work.shape, settings, storage, device, memory)
    # An evaluation is a forward pass, which is a third of the products of a training pass and more.
    tokens = work.train_tokens + work.evaluation_tokens / 2
    return Forecast(device.name, memory, speed, tokens / speed.tokens_per_second / 3600)


def memory_on(
    work: Work, settings: TrainingConfig, free_gib: float, processes: int = 1
) -> MemoryPlan:
    """The plan of memory that the run itself will make.

    Raises:
        DeviceError: Nothing fits.
    """
    available = min(free_gib, settings.max_vram_gib or free_gib)
    return plan_memory(
        work.shape,
        settings,
        work.trainable_parameters,
        max(work.largest_step_tokens, work.longest_row_tokens),
        work.longest_row_tokens,
        available,
        processes,
    )


def disk_gib(work: Work, settings: TrainingConfig, storage: Storage) -> dict[str, float]:
    """What is still to be written, in GiB by part."""
    moments = 2 if settings.optimizer == "adamw_8bit" and settings.device != "cpu" else 8
    weights = work.shape.linear_weights + work.shape.vocabulary_weights
    rows = work.train_rows + work.eval_rows
    parts = {
        "adapter": 4 * work.trainable_parameters,
        "checkpoints": KEPT_CHECKPOINTS * (4 + moments) * work.trainable_parameters,
        "rows": TOKEN_BYTES * rows * work.tokens_a_row,
        "base model": 0 if _is_here(work.base, storage) else 2 * weights,
    }
    return {name: size / GIB for name, size in parts.items()}


def lora_parameters(shape: ModelShape, lora: LoraConfig) -> int:
    """Trainable parameters of LoRA on a shape: rank x (in + out) for each target."""
    sizes = {
        "q_proj": (shape.hidden, shape.query_width),
        "k_proj": (shape.hidden, shape.key_width),
        "v_proj": (shape.hidden, shape.key_width),
        "o_proj": (shape.query_width, shape.hidden),
        "gate_proj": (shape.hidden, shape.intermediate),
        "up_proj": (shape.hidden, shape.intermediate),
        "down_proj": (shape.intermediate, shape.hidden),
    }
    of_layer = sum(sum(sizes[name]) for name in lora.target_modules if name in sizes)
    return shape.layers * lora.rank * of_layer


def base_shape(base: BaseModelRef) -> ModelShape:
    """A base model's shape, from its config.json, wherever that is.

    Raises:
        BaseModelError: It cannot be had, or is of no decoder that this project trains.
    """
    if base.kind != "folder" and base.name in SHAPES:
        return SHAPES[base.name]
    return shape_in(Path(base.path) if base.kind == "folder" else _fetch_config(base).parent)


def shape_in(folder: Path) -> ModelShape:
    """The shape of the model in a folder, from its config.json.

    Raises:
        BaseModelError: It is of no decoder that this project trains.
    """
    path = folder / "config.json"
    values: dict[str, Any] = {"head_dim": None, "tie_word_embeddings": False}
    try:
        values |= json.loads(path.read_text("utf-8"))
        values.setdefault("num_key_value_heads", values.get("num_attention_heads"))
        return shape_of(SimpleNamespace(**values))
    except (AttributeError, TypeError, ValueError, OSError) as error:
        raise BaseModelError(
            f"{path}: names no sizes of a decoder ({error}). Use a Qwen2.5 or Llama-like base model."
        ) from error


def smallest_card_gib(work: Work, settings: TrainingConfig, processes: int = 1) -> float | None:
    """GPU memory below which the run is refused, to a tenth of a GiB; None above 1 TiB."""
    uncapped = settings.model_copy(update={"max_vram_gib": None})
    low, high = CONTEXT_GIB, 1024.0
    while high - low > 0.05:  # noqa: PLR2004  (a tenth of a GiB, halved)
        middle = (low + high) / 2
        try:
            memory_on(work, uncapped, middle, processes)
        except DeviceError:
            low = middle
        else:
            high = middle
    return None if high >= 1023 else math.ceil(high * 10) / 10  # noqa: PLR2004


def _fetch_config(base: BaseModelRef) -> Path:
    from httpx import HTTPError
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(hf_hub_download(base.name, "config.json", revision=base.revision))
    except (HfHubHTTPError, HTTPError, OSError, ValueError) as error:
        raise BaseModelError(
            f"{base.name}: its config.json cannot be had ({type(error).__name__}). Check the "
            "network, or set training.base_model to a local folder."
        ) from error


def _is_here(base: BaseModelRef, storage: Storage) -> bool:
    if base.kind == "folder":
        return True
    if base.kind == "gguf":
        return any(storage.cache("base_models").glob("*/model.safetensors"))
    from huggingface_hub import snapshot_download

    try:
        found: Any = snapshot_download(base.name, revision=base.revision, local_files_only=True)
    except (OSError, ValueError):
        return False
    return any(Path(found).glob("*.safetensors"))
