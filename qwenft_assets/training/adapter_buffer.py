"""All adapter parameters in one buffer: the optimizer takes one step instead of four hundred.

The parameters of the model become views of the buffer, and so do their gradients. Each begins at a
multiple of the 8-bit optimizer's block, so that every block has the scale it would have alone: the
steps are the same to the last bit, except that none is too small to be kept in 8 bits.
"""

from typing import Any

from qwenft_assets.processes.ranks import Ranks

BLOCK = 256
"""Numbers that share a scale in bitsandbytes' 8-bit optimizers."""


class AdapterBuffer:
    """The trainable parameters of a model, laid end to end in float32."""

    def __init__(self, model: Any) -> None:
        """Move the parameters in; the model goes on using them under their names.

        Args:
            model: Its trainable parameters stand on one device. They become float32: in bf16, steps
                of 1e-4 get lost.
        """
        import torch

        self.parameters = [p for p in model.parameters() if p.requires_grad]
        starts, end = list[int](), 0
        for parameter in self.parameters:
            starts.append(end)
            end += -(-parameter.numel() // BLOCK) * BLOCK
        device = self.parameters[0].device
        self.flat = torch.nn.Parameter(torch.zeros(end, dtype=torch.float32, device=device))
        self._gradient = torch.zeros_like(self.flat.data)
        self._gradients = [
            self._gradient[start : start + p.numel()].view(p.shape)
            for start, p in zip(starts, self.parameters, strict=True)
        ]
        for start, parameter in zip(starts, self.parameters, strict=True):
            place = self.flat.data[start : start + parameter.numel()].view(parameter.shape)
            parameter.data = place.copy_(parameter.data)

    def zero_gradients(self) -> None:
        """Begin an optimizer step: gradients are zero, and accumulate in the buffer."""
        self._gradient.zero_()
        self.flat.grad = self._gradient
        for parameter, gradient in zip(self.parameters, self._gradients, strict=True):
            parameter.grad = gradient

    def add_gradients_of(self, ranks: Ranks) -> None:
        """End an optimizer step's passes: add the gradients of the other processes' rows."""
        if ranks.size > 1:
            self._gradient.copy_(ranks.sum(self._gradient))
