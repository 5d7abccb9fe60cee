"""The adapter's parameters as the optimizer sees them: one flat buffer for each parameter group.

AdamW takes one step for each tensor, and an adapter has four hundred. The parameters of the model
become views of the buffer, and so do their gradients. Each begins at a multiple of the 8-bit optimizer's
block, so that every block has the scale it would have alone: the steps are the same to the last bit,
except that none is too small to be kept in 8 bits.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from qwenft_assets.config import TrainingConfig
from qwenft_assets.processes.ranks import Ranks

BLOCK = 256
"""Numbers that share a scale in bitsandbytes' 8-bit optimizers."""


class ParameterGroup(NamedTuple):
    """Parameters that are trained with the same options."""

    parameters: list[Any]
    options: dict[str, float]
    """Options of this group, such as `lr` and `weight_decay`, in place of the optimizer's own."""


def parameter_groups(model: Any, settings: TrainingConfig) -> list[ParameterGroup]:
    """The trainable parameters of a model in groups, each with its own optimizer options.

    LoRA+ (Hayou et al., 2024) trains B at a higher rate than A. The rate that is logged is that of the
    first group.
    """
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    ratio = settings.lora_plus_ratio
    if ratio is None:
        return [ParameterGroup([p for _, p in trainable], {})]
    of_b = [p for name, p in trainable if ".lora_B." in name]
    rest = [p for name, p in trainable if ".lora_B." not in name]
    return [
        ParameterGroup(rest, {}),
        ParameterGroup(of_b, {"lr": ratio * settings.peak_learning_rate}),
    ]


class FlatGroup:
    """The parameters of one group, laid end to end in float32."""

    def __init__(self, group: ParameterGroup) -> None:
        """Move the parameters in; the model goes on using them under their names.

        Args:
            group: Its parameters are on one device. They become float32: in bf16, steps of 1e-4
                are lost.
        """
        import torch

        self.parameters, self.options = group
        starts, end = list[int](), 0
        for parameter in self.parameters:
            starts.append(end)
            end += -(-parameter.numel() // BLOCK) * BLOCK
        device = self.parameters[0].device
        self.flat = torch.nn.Parameter(torch.zeros(end, dtype=torch.float32, device=device))
        self.gradient = torch.zeros_like(self.flat.data)
        self._values, self._gradients = (
            [
                buffer[start : start + p.numel()].view(p.shape)
                for start, p in zip(starts, self.parameters, strict=True)
            ]
            for buffer in (self.flat.data, self.gradient)
        )
        for value, parameter in zip(self._values, self.parameters, strict=True):
            value.copy_(parameter.data)
        self.attach()

    def attach(self) -> None:
        """Point the parameters at the buffer, also after a library has replaced their data."""
        for value, parameter in zip(self._values, self.parameters, strict=True):
            parameter.data = value

    def zero_gradient(self) -> None:
        """Begin an optimizer step: gradients are zero, and accumulate in the buffer."""
        self.gradient.zero_()
        self.flat.grad = self.gradient
        for gradient, parameter in zip(self._gradients, self.parameters, strict=True):
            parameter.grad = gradient


class AdapterBuffers:
    """The trainable parameters of a model, one flat buffer for each group."""

    def __init__(self, model: Any, settings: TrainingConfig) -> None:
        """Move the parameters of the model into buffers."""
        self.groups: Sequence[FlatGroup] = [
            FlatGroup(group) for group in parameter_groups(model, settings)
        ]

    def attach(self) -> None:
        """Point all parameters at their buffers again."""
        for group in self.groups:
            group.attach()

    def optimizer(self, kind: Any, options: dict[str, Any]) -> Any:
        """An optimizer of the buffers.

        Args:
            kind: Its class.
            options: Of every group that has none of its own.
        """
        return kind([{"params": [group.flat], **group.options} for group in self.groups], **options)

    def zero_gradients(self) -> None:
        """Begin an optimizer step."""
        for group in self.groups:
            group.zero_gradient()

    def add_gradients_of(self, ranks: Ranks) -> None:
        """End the passes of a step: add the gradients of the other processes' rows."""
        if ranks.size > 1:
            for group in self.groups:
                group.gradient.copy_(ranks.sum(group.gradient))
