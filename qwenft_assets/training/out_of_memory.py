"""When memory runs out in mid-step: smaller passes, the same optimizer step; twice, then a message."""

from collections.abc import Callable
from typing import Any, TypeVar

from qwenft_assets.errors import DeviceError
from qwenft_assets.model.device import GIB
from qwenft_assets.model.memory import (
    MemoryPlan,
    ModelShape,
    activation_bytes_per_token,
    fixed_gib,
    free_cached,
    is_out_of_memory,
    shape_of,
)
from qwenft_assets.training.forward_passes import Passes
from qwenft_assets.training.run import TrainingRun

MAX_HALVINGS = 2

Result = TypeVar("Result")


class OutOfMemory:
    """Retries what ran out of memory with passes of half the size."""

    def __init__(
        self, run: TrainingRun, model: Any, passes: Passes, plan: MemoryPlan | None
    ) -> None:
        self.run, self.model, self.passes, self.plan = run, model, passes, plan
        self.halvings = 0

    def retried(self, work: Callable[[], Result], step: int) -> Result:
        """The result of `work`, which is begun anew after each halving.

        Raises:
            DeviceError: It ran out of memory once more; says which settings help, and by how much.
        """
        history = self.run.history
        before = history.train_tokens, history.padding_tokens
        while True:
            try:
                return work()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                problem = str(error).splitlines()[0]
            # Not in the handler: there the traceback still holds the tensors of the failed pass.
            history.train_tokens, history.padding_tokens = before
            self._halve(step, problem)

    def _halve(self, step: int, problem: str) -> None:
        # Where layers are gathered from all processes, one cannot begin its step anew by itself.
        if self.halvings >= MAX_HALVINGS or self.passes.in_step.size > 1:
            raise DeviceError(self._advice(step))
        self.halvings += 1
        self.run.history.halved_at.append(step)
        self.passes.halve()
        self.run.log(
            f"out of memory at step {step} ({problem}): passes of {self.passes.max_tokens} tokens "
            "from here on; the optimizer step stays as it is"
        )
        free_cached()

    def _advice(self, step: int) -> str:
        shape = shape_of(self.model.get_base_model().config)
        settings = self.run.settings
        length = settings.max_length_tokens
        trainable = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        # By now layers are computed again: that is of no more help.
        of_row = activation_bytes_per_token(shape, checkpointing=True) * length / GIB
        optimizer = fixed_gib(shape, settings, trainable, keep_4bit=False)["optimizer"]
        where = f"{self.plan.peak_gib:.1f} GiB were planned" if self.plan else "on the CPU"
        tokens = self.passes.max_tokens
        tried, helps = f", halved {MAX_HALVINGS} times already", self._lighter_weights(shape)
        if self.passes.in_step.size > 1:
            tried = ", which processes that share a model cannot halve"
            helps = f"training.micro_batch_tokens: {max(tokens // 2, 1)}"
        return (
            f"out of memory at step {step} with passes of {tokens} tokens{tried} ({where}). What helps: "
            f"{helps}; training.max_length_tokens: {length // 2} (a row keeps {of_row / 2:.2f} GiB instead of "
            f"{of_row:.2f}); training.lora.rank: {max(settings.lora.rank // 2, 1)} (the optimizer "
            f"takes {optimizer / 2:.2f} GiB instead of {optimizer:.2f}). The same command goes on "
            "from the last checkpoint where only max_vram_gib changes."
        )

    def _lighter_weights(self, shape: ModelShape) -> str:
        settings = self.run.settings
        lighter = "nf4" if self.plan else "bf16"
        now = fixed_gib(shape, settings, 0, keep_4bit=bool(self.plan and self.plan.keep_4bit))
        if self.plan and self.plan.keep_4bit:
            return (
                "training.max_vram_gib below what other processes leave free, which nvidia-smi "
                f"shows (the weights take {now['weights']:.2f} GiB already)"
            )
        then = fixed_gib(
            shape, settings.model_copy(update={"weights": lighter}), 0, keep_4bit=lighter == "nf4"
        )
        gain = f"the weights take {then['weights']:.2f} GiB instead of {now['weights']:.2f}"
        if settings.weights == "nf4":
            return f"training.max_vram_gib: {now['weights']:.0f} ({gain}: held in 4 bits)"
        return f"training.weights: {lighter} ({gain})"
