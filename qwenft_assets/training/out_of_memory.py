"""When memory runs out in mid-step: smaller passes, the same optimizer step; twice, then a message."""

from collections.abc import Callable
from typing import Any, TypeVar

from qwenft_assets.child_process import Log
from qwenft_assets.config import TrainingConfig
from qwenft_assets.errors import DeviceError
from qwenft_assets.training.device import GIB
from qwenft_assets.training.forward_passes import Passes
from qwenft_assets.training.history import LossHistory
from qwenft_assets.training.memory import (
    MemoryPlan,
    activation_bytes_per_token,
    shape_of,
)

MAX_HALVINGS = 2

Result = TypeVar("Result")


class OutOfMemory:
    """Retries what ran out of memory with passes of half the size."""

    def __init__(
        self,
        passes: Passes,
        settings: TrainingConfig,
        plan: MemoryPlan | None,
        model: Any,
        history: LossHistory,
        log: Log,
    ) -> None:
        self.passes, self.settings, self.plan = passes, settings, plan
        self.model, self.history, self.log = model, history, log

    def retried(self, work: Callable[[], Result], step: int) -> Result:
        """The result of `work`, which is begun anew after each halving.

        Raises:
            DeviceError: It ran out of memory once more; says which settings help, and by how much.
        """
        before = self.history.train_tokens, self.history.padding_tokens
        while True:
            try:
                return work()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                problem = str(error).splitlines()[0]
            # Not in the handler: there the traceback still holds the tensors of the failed pass.
            self.history.train_tokens, self.history.padding_tokens = before
            self._halve(step, problem)

    def _halve(self, step: int, problem: str) -> None:
        if len(self.history.halved_at) >= MAX_HALVINGS:
            raise DeviceError(self._advice(step))
        self.history.halved_at.append(step)
        self.passes.halve()
        self.log(
            f"out of memory at step {step} ({problem}): passes of {self.passes.max_tokens} tokens "
            "from here on; the optimizer step stays as it is"
        )
        free_cached()

    def _advice(self, step: int) -> str:
        shape = shape_of(self.model.get_base_model().config)
        length = self.settings.max_length_tokens
        keeping = activation_bytes_per_token(shape, checkpointing=False) * length / GIB
        again = activation_bytes_per_token(shape, checkpointing=True) * length / GIB
        tokens = self.passes.max_tokens
        where = f"{self.plan.peak_gib:.1f} GiB were planned" if self.plan else "on the CPU"
        return (
            f"out of memory at step {step} with passes of {tokens} tokens, halved "
            f"{MAX_HALVINGS} times already ({where}). What helps: training.gradient_checkpointing: "
            f"true (a row of {length} tokens keeps {again:.1f} GiB instead of {keeping:.1f}); "
            f"training.max_length_tokens: {length // 2} (half of either); training.max_vram_gib below "
            "what other processes leave free (nvidia-smi shows them; the plan then keeps within it). "
            "The same command goes on from the last checkpoint."
        )


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch says that the GPU's or the machine's memory is used up."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def free_cached() -> None:
    """Give back what the allocator keeps in pieces that are too small."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
