"""Linear layers whose base is frozen, with LoRA: y = x W^T + s (x A^T) B^T, as one autograd step.

The frozen weight has no gradient, so that a product and its gradient with respect to the input are all
it needs: in bf16 or fp32, in 4 bits, or in 8. Layers that read the same input (q, k, v; gate, up) are
stacked into one weight: one product instead of three. Autograd keeps only x and x A^T.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch

FP8_LARGEST = 448.0
"""Largest value of float8_e4m3fn."""
COLUMNS_ALIGNED = 8
"""Numbers of 2 bytes in 16 bytes, to which rows of a weight are aligned."""


class FrozenWeight(Protocol):
    """W of shape (out, in), with an optional bias."""

    def project(self, x: "torch.Tensor") -> "torch.Tensor":
        """X W^T + bias: (tokens, in) to (tokens, out)."""
        ...

    def project_back(self, gradient: "torch.Tensor") -> "torch.Tensor":
        """Gradient with respect to x: (tokens, out) to (tokens, in)."""
        ...


class DenseWeight:
    """A weight in the precision of the products."""

    def __init__(
        self, weight: "torch.Tensor", bias: "torch.Tensor | None", spare_columns: int = 0
    ) -> None:
        """Take the weight.

        Args:
            weight: (out, in + spare_columns).
            bias: (out,).
            spare_columns: Zeros at the right end, which may hold LoRA's B: its product is then part of
                the base's, instead of a second pass over the output.
        """
        self.with_spare, self.bias = weight, bias
        self.weight = weight[:, : weight.shape[1] - spare_columns]
        self.spare = weight[:, weight.shape[1] - spare_columns :]

    def project(self, x: "torch.Tensor") -> "torch.Tensor":
        """See FrozenWeight."""
        from torch.nn.functional import linear

        return linear(x, self.weight, self.bias)

    def project_with_spare(self, x: "torch.Tensor", h: "torch.Tensor") -> "torch.Tensor":
        """X W^T + h S^T + bias, where S is `spare`; h is (tokens, columns of S)."""
        import torch
        from torch.nn.functional import linear

        return linear(torch.cat([x, h], dim=1), self.with_spare, self.bias)

    def project_back(self, gradient: "torch.Tensor") -> "torch.Tensor":
        """See FrozenWeight."""
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
        """See FrozenWeight."""
        return DenseWeight(self.dense(), self.bias).project(x)

    def project_back(self, gradient: "torch.Tensor") -> "torch.Tensor":
        """See FrozenWeight."""
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
        """See FrozenWeight."""
        y = _fp8_product(x, self.forward_weight, self.forward_scale)
        return y if self.bias is None else y.add_(self.bias)

    def project_back(self, gradient: "torch.Tensor") -> "torch.Tensor":
        """See FrozenWeight."""
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
    """The function compiled to one kernel on a GPU, unchanged on a CPU.

    Args:
        function: Of tensors.
        device: `cuda` or `cpu`.
        apart: Write each part of a `cat` separately, instead of by one kernel that reads the inputs
            of every part for each element.
    """
    import torch

    if device != "cuda":
        return function
    return torch.compile(function, options={"max_pointwise_cat_inputs": 0} if apart else None)


class LoraPart(NamedTuple):
    """The adapter of one of the stacked layers."""

    start: int
    """The layer's first column in the output."""
    size: int
    a: "torch.nn.Parameter"
    """(rank, in)."""
    b: "torch.nn.Parameter"
    """(size, rank)."""


class LoraLinear:
    """Stacked layers that read the same input, with their adapters."""

    def __init__(
        self, weight: FrozenWeight, parts: Sequence[LoraPart], scale: float, dropout: float = 0.0
    ) -> None:
        """Combine a stacked weight with adapters.

        Args:
            weight: The stacked base layers.
            parts: Adapters of the layers that have one, in the order of their columns.
            scale: alpha / rank.
            dropout: Share of the adapter's inputs that training drops.
        """
        self.weight = weight
        self.use_adapter(parts, scale, dropout)

    def use_adapter(self, parts: Sequence[LoraPart], scale: float, dropout: float) -> None:
        """Replace the adapter; the arguments are those of the constructor."""
        self.parts, self.scale, self.dropout = tuple(parts), scale, dropout
        self.a: torch.Tensor | None = None
        """All A, (ranks, in), in the precision of the products."""
        self.b: tuple[torch.Tensor, ...] = ()
        """Each B, (size, rank), likewise."""

    @property
    def weight_with_b(self) -> DenseWeight | None:
        """The weight if B is stored in its spare columns, so that one product computes both."""
        if isinstance(self.weight, DenseWeight) and self.weight.spare.shape[1]:
            return self.weight
        return None

    def room_for_b(self, dtype: "torch.dtype") -> "tuple[torch.Tensor, ...]":
        """Uninitialised memory for the rounded copy of each B."""
        import torch

        if self.weight_with_b is None:
            return tuple(torch.empty_like(part.b, dtype=dtype) for part in self.parts)
        self.weight_with_b.spare.zero_()  # another adapter of other ranks may have been there
        ranks = [part.a.shape[0] for part in self.parts]
        columns = self.weight_with_b.spare[:, : sum(ranks)].split(ranks, dim=1)
        return tuple(
            place[part.start : part.start + part.size]
            for part, place in zip(self.parts, columns, strict=True)
        )

    def __call__(
        self, x: "torch.Tensor", *, training: bool = False, adapted: bool = True
    ) -> "torch.Tensor":
        """(tokens, in) to (tokens, out).

        Args:
            x: The input.
            training: Drop inputs of the adapter, where the settings say so.
            adapted: False for the base alone.
        """
        from torch.nn.functional import dropout

        if not (adapted and self.parts):
            return _function().apply(x, None, self, False)
        branch = dropout(x, self.dropout) if training and self.dropout else None
        parameters = [parameter for part in self.parts for parameter in (part.a, part.b)]
        return _function().apply(x, branch, self, True, *parameters)


def round_adapters(layers: Sequence[LoraLinear], dtype: "torch.dtype") -> None:
    """Update every layer's rounded copy of its adapter, in a few kernel launches for all layers.

    The parameters are float32; products are in `dtype`. Rounding each parameter where it is
    used would take two thousand launches a step.
    """
    import torch

    copies: list[torch.Tensor] = []
    parameters: list[torch.Tensor] = []
    for layer in layers:
        if not layer.parts:
            continue
        if layer.a is None or layer.a.dtype != dtype:
            ranks = sum(part.a.shape[0] for part in layer.parts)
            first = layer.parts[0].a
            layer.a = first.new_empty(ranks, first.shape[1], dtype=dtype)
            layer.b = layer.room_for_b(dtype)
        copies += [*by_part(layer.a, layer.parts, dim=0), *layer.b]
        parameters += [part.a for part in layer.parts] + [part.b for part in layer.parts]
    if not copies:
        return
    # A single destination that is not contiguous would cost a launch for each of them.
    whole = [n for n, copy in enumerate(copies) if copy.is_contiguous()]
    with torch.no_grad():
        torch._foreach_copy_(  # pyright: ignore[reportPrivateImportUsage]
            [copies[n] for n in whole], [parameters[n] for n in whole]
        )
        for copy, parameter in zip(copies, parameters, strict=True):
            if not copy.is_contiguous():
                copy.copy_(parameter)


def spare_columns(parts: Sequence[LoraPart], out: int, into: int) -> int:
    """Spare columns of W for all B, if that is faster: for outputs much wider than inputs.

    One product over W and B copies the input; two products read and write the output once more.
    Rows of the weight stay aligned to 16 bytes.
    """
    ranks = sum(part.a.shape[0] for part in parts)
    return -(-ranks // COLUMNS_ALIGNED) * COLUMNS_ALIGNED if out >= 2 * into else 0


def by_part(
    stacked: "torch.Tensor", parts: Sequence[LoraPart], dim: int = 1
) -> "tuple[torch.Tensor, ...]":
    """Split a tensor along its ranks, a piece for each part."""
    return stacked.split([part.a.shape[0] for part in parts], dim=dim)


@cache
def _function() -> Any:
    """The autograd function, defined at first use because its base class needs torch."""
    import torch
    from torch.nn.functional import pad

    class LoraProduct(torch.autograd.Function):
        """Reads W twice, x and y a few times more; keeps x and x A^T."""

        @staticmethod
        def forward(
            ctx: Any,
            x: torch.Tensor,
            branch: torch.Tensor | None,
            layer: LoraLinear,
            adapted: bool,
            *_parameters: torch.Tensor,
        ) -> torch.Tensor:
            ctx.layer, ctx.adapted, ctx.has_branch = layer, adapted, branch is not None
            if not adapted:
                return layer.weight.project(x)
            assert layer.a is not None  # noqa: S101  (round_adapters comes first)
            source = x if branch is None else branch
            h = (source @ layer.a.t()).mul_(layer.scale)  # (tokens, ranks)
            ctx.save_for_backward(source, h)
            if weight := layer.weight_with_b:
                h = pad(h, (0, weight.spare.shape[1] - h.shape[1]))
                return weight.project_with_spare(x, h)
            y = layer.weight.project(x)
            pieces = zip(layer.parts, by_part(h, layer.parts), layer.b, strict=True)
            for part, h_part, b in pieces:
                y[:, part.start : part.start + part.size].addmm_(h_part, b.t())
            return y

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
            (dy,), layer = gradients, ctx.layer
            dx = layer.weight.project_back(dy) if ctx.needs_input_grad[0] else None
            if not ctx.adapted:
                return dx, None, None, None
            source, h = ctx.saved_tensors
            parts = layer.parts
            slices = [dy[:, part.start : part.start + part.size] for part in parts]
            dh = torch.empty_like(h)  # (tokens, ranks)
            for of_part, dy_part, b in zip(by_part(dh, parts), slices, layer.b, strict=True):
                torch.mm(dy_part, b, out=of_part)
            dh.mul_(layer.scale)
            da = by_part(dh.t() @ source, parts, dim=0)
            db = [
                dy_part.t() @ h_part
                for dy_part, h_part in zip(slices, by_part(h, parts), strict=True)
            ]
            into_branch = None
            if ctx.has_branch:
                into_branch = dh @ layer.a
            elif dx is not None:
                dx.addmm_(dh, layer.a)
            of_parameters = (each for pair in zip(da, db, strict=True) for each in pair)
            return dx, into_branch, None, None, *of_parameters

    return LoraProduct
