"""Frozen base weights as a product and its gradient: in bf16 or fp32, in 4 bits, or in 8.

Frozen means that there is no gradient of the weight, so that two functions are all there is. Linear
layers that read the same input (q, k, v; gate, up) are one weight, stacked: one product instead of
three.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

FP8_LARGEST = 448.0
"""Of float8_e4m3fn."""


class FrozenWeight(Protocol):
    """W of shape (out, in), with an optional bias."""

    def project(self, x: "torch.Tensor") -> "torch.Tensor":
        """X W^T + bias: (tokens, in) to (tokens, out)."""
        ...

    def project_back(self, gradient: "torch.Tensor") -> "torch.Tensor":
        """Gradient with respect to x: (tokens, out) to (tokens, in)."""
        ...


class DenseWeight:
    """Weights in the precision they are used in."""

    def __init__(
        self, weight: "torch.Tensor", bias: "torch.Tensor | None", spare_columns: int = 0
    ) -> None:
        """Take the weight.

        Args:
            weight: (out, in + spare_columns).
            bias: (out,).
            spare_columns: Zeros at the right end, where LoRA's B may stand: then its product is part
                of the base's, instead of a second pass over the output.
        """
        self.joined, self.bias = weight, bias
        self.weight = weight[:, : weight.shape[1] - spare_columns]
        self.spare = weight[:, weight.shape[1] - spare_columns :]

    def project(self, x: "torch.Tensor") -> "torch.Tensor":
        """As FrozenWeight says."""
        from torch.nn.functional import linear

        return linear(x, self.weight, self.bias)

    def project_joined(self, x: "torch.Tensor", h: "torch.Tensor") -> "torch.Tensor":
        """X W^T + h S^T + bias, where S is `spare`; h is (tokens, columns of S)."""
        import torch
        from torch.nn.functional import linear

        return linear(torch.cat([x, h], dim=1), self.joined, self.bias)

    def project_back(self, gradient: "torch.Tensor") -> "torch.Tensor":
        """As FrozenWeight says."""
        return gradient @ self.weight


class Nf4Weight:
    """bitsandbytes' 4-bit weights, turned into bf16 for each product and dropped again."""

    def __init__(self, parts: Sequence[Any], bias: "torch.Tensor | None") -> None:
        self.parts, self.bias = parts, bias

    def dense(self, spare_columns: int = 0) -> "torch.Tensor":
        """The weight in bf16: exactly the numbers that bitsandbytes multiplies with.

        Args:
            spare_columns: So many zeros at the end of each row.
        """
        import torch
        from bitsandbytes.functional import dequantize_4bit  # pyright: ignore[reportMissingImports]

        rows = [part.quant_state.shape[0] for part in self.parts]
        first = self.parts[0]
        columns = first.quant_state.shape[1]
        make = torch.zeros if spare_columns else torch.empty
        dense = make(
            sum(rows),
            columns + spare_columns,
            dtype=first.quant_state.dtype,
            device=first.data.device,
        )
        for part, out in zip(self.parts, dense.split(rows), strict=True):
            if spare_columns:
                out[:, :columns] = dequantize_4bit(part.data, quant_state=part.quant_state)
            else:
                dequantize_4bit(part.data, quant_state=part.quant_state, out=out)
        return dense

    def project(self, x: "torch.Tensor") -> "torch.Tensor":
        """As FrozenWeight says."""
        return DenseWeight(self.dense(), self.bias).project(x)

    def project_back(self, gradient: "torch.Tensor") -> "torch.Tensor":
        """As FrozenWeight says."""
        return gradient @ self.dense()


class Fp8Weight:
    """float8 weights with a scale a row; inputs and gradients are rounded to float8 row by row.

    The product runs on the 8-bit matrix units, at twice the rate of bf16. Two copies are held, since
    the gradient runs over the other dimension: together as large as one in bf16.
    """

    def __init__(self, weight: "torch.Tensor", bias: "torch.Tensor | None") -> None:
        self.forward_weight, self.forward_scale = to_fp8(weight)
        self.backward_weight, self.backward_scale = to_fp8(weight.t().contiguous())
        self.bias = bias

    def project(self, x: "torch.Tensor") -> "torch.Tensor":
        """As FrozenWeight says."""
        y = _fp8_product(x, self.forward_weight, self.forward_scale)
        return y if self.bias is None else y.add_(self.bias)

    def project_back(self, gradient: "torch.Tensor") -> "torch.Tensor":
        """As FrozenWeight says."""
        return _fp8_product(gradient, self.backward_weight, self.backward_scale)


def to_fp8(matrix: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
    """A matrix as float8_e4m3fn, and its scales of shape (rows, 1): value = float8 * scale."""
    import torch

    largest = matrix.abs().amax(dim=1, keepdim=True).float()
    scale = torch.clamp(largest, min=1e-12) / FP8_LARGEST
    return (matrix.float() / scale).to(torch.float8_e4m3fn), scale


def _fp8_product(
    x: "torch.Tensor", weight: "torch.Tensor", weight_scale: "torch.Tensor"
) -> "torch.Tensor":
    import torch

    rounded, scale = fused(to_fp8, x.device.type)(x)
    if not x.is_cuda:
        return ((rounded.float() * scale) @ (weight.float() * weight_scale).t()).to(x.dtype)
    return torch._scaled_mm(  # noqa: SLF001  # pyright: ignore[reportPrivateImportUsage]
        rounded,
        weight.t(),
        scale_a=scale,
        scale_b=weight_scale.t(),
        out_dtype=x.dtype,
        use_fast_accum=True,
    )


@cache
def fused(function: Callable[..., Any], device: str, *, apart: bool = False) -> Callable[..., Any]:
    """The function as one kernel on a GPU, as it stands on a CPU.

    Args:
        function: Of tensors.
        device: `cuda` or `cpu`.
        apart: Write the parts of a `cat` each to its place, instead of one kernel over all of it that
            reads the inputs of every part.
    """
    import torch

    if device != "cuda":
        return function
    return torch.compile(function, options={"max_pointwise_cat_inputs": 0} if apart else None)
