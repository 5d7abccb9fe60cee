"""SwiGLU and its gradient, one kernel each on a GPU.

Autograd would make the gradient of the two halves apart, each as a full matrix of zeros with one half
filled in: three times the memory traffic of the widest tensors of a layer.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

from qwenft_assets.model.frozen_weight import fused

if TYPE_CHECKING:
    import torch


def swiglu(gate_up: "torch.Tensor") -> "torch.Tensor":
    """silu(gate) * up (Shazeer, 2020): (tokens, 2 width) to (tokens, width)."""
    return _function().apply(gate_up)


def _value(gate_up: "torch.Tensor") -> "torch.Tensor":
    from torch.nn.functional import silu

    gate, up = gate_up.chunk(2, dim=-1)
    return silu(gate) * up


def _gradient(gate_up: "torch.Tensor", of_value: "torch.Tensor") -> "torch.Tensor":
    """With respect to gate and up, side by side; computed in float32 at least."""
    import torch

    precision = torch.promote_types(gate_up.dtype, torch.float32)
    gate, up = (half.to(precision) for half in gate_up.chunk(2, dim=-1))
    of_value = of_value.to(precision)
    sigmoid = torch.sigmoid(gate)
    of_gate = of_value * up * sigmoid * (1 + gate * (1 - sigmoid))
    of_up = of_value * gate * sigmoid
    return torch.cat([half.to(gate_up.dtype) for half in (of_gate, of_up)], dim=-1)


@cache
def _function() -> Any:
    """The autograd function; made at first use, because its base class is torch's."""
    import torch

    class Swiglu(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, gate_up: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(gate_up)
            return fused(_value, gate_up.device.type)(gate_up)

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
            (gate_up,) = ctx.saved_tensors
            return fused(_gradient, gate_up.device.type, apart=True)(gate_up, gradients[0])

    return Swiglu
