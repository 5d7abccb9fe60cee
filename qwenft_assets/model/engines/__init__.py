"""What loads base weights, puts LoRA on them and runs them: `peft` everywhere, `unsloth` on a GPU.

An engine is a module of this package, registered in config/engines.py. The optimizer step, the loss,
checkpoints and evaluation are the same for all engines; none of their libraries is imported before an
engine is asked to do something.
"""

import importlib
import importlib.metadata
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from qwenft_assets.config import LoraConfig, TrainingConfig
from qwenft_assets.config.engines import DEFAULT_ENGINE
from qwenft_assets.errors import DeviceError
from qwenft_assets.model.batches import FlatBatch
from qwenft_assets.model.memory import MemoryPlan

if TYPE_CHECKING:
    import torch

ON_CPU_VARIABLE = "QWENFT_UNSLOTH_ON_CPU"
"""Set to 1, tests may run Unsloth without a GPU; it is many times slower than peft there."""


class FlatForward(Protocol):
    """A model as a function of flat batches; FlatDecoder is one."""

    @property
    def head(self) -> "torch.Tensor":
        """The language head, (vocabulary, hidden size)."""
        ...

    def hidden_states(
        self,
        batch: FlatBatch,
        *,
        noise_alpha: float | None = None,
        training: bool = False,
        checkpointing: bool = False,
    ) -> "torch.Tensor":
        """Hidden states after the last norm, (tokens, hidden size)."""
        ...


class Engine(Protocol):
    """The functions of an engine's module."""

    def start(self, device: str) -> None:
        """Make ready, first of all in the training process."""
        ...

    def load_base(self, folder: Path, weights: str, device: str) -> Any:
        """The frozen base model on its device."""
        ...

    def add_lora(self, model: Any, settings: LoraConfig) -> Any:
        """A PeftModel with fresh adapters in fp32."""
        ...

    def flat_forward(
        self, model: Any, settings: TrainingConfig, plan: MemoryPlan | None, shards: int
    ) -> FlatForward:
        """The model as a function of flat batches; of `shards` processes each holds a part of it."""
        ...

    def for_training(self, model: Any) -> None:
        """Put a model into training mode, whatever mode a trainer has left it in."""
        ...

    def attention(self, settings: TrainingConfig, device: str) -> str:
        """The attention kernel of the run, as training.json names it."""
        ...


def engine_named(name: str) -> Engine:
    """The module of an engine."""
    return cast("Engine", importlib.import_module(f"{__name__}.{name}"))


def require_engine(settings: TrainingConfig, device: str) -> str:
    """See that the config's engine is installed and can run on a device, without importing it.

    Returns:
        The engine and its version, as `qwenft doctor` shows them.

    Raises:
        DeviceError: It is not installed, or needs a GPU.
    """
    name, traits = settings.engine_name, settings.engine_traits
    if traits.distribution is None:
        return name
    if importlib.util.find_spec(name) is None:
        raise DeviceError(
            f"training.engine: {name} is not installed here. Install it with `{traits.install}`, or "
            f"set training.engine to {DEFAULT_ENGINE}, this project's own."
        )
    if traits.needs_gpu and device != "cuda" and os.environ.get(ON_CPU_VARIABLE) != "1":
        raise DeviceError(
            f"training.engine: {name} needs a CUDA GPU, and this run is on the CPU. Set "
            f"training.engine to {DEFAULT_ENGINE}, or run it on a GPU host."
        )
    try:
        return f"{name} {importlib.metadata.version(traits.distribution)}"
    except importlib.metadata.PackageNotFoundError:
        return name
