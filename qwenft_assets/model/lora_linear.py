"""Linear layers with LoRA whose base is frozen: y = x W^T + s (x A^T) B^T, as one autograd step.

What autograd would keep of each part is not needed: the base has no gradient, and x A^T is small.
"""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from qwenft_assets.model.frozen_weight import DenseWeight, FrozenWeight

if TYPE_CHECKING:
    import torch

COLUMNS_ALIGNED = 8
"""Numbers of 2 bytes."""


class LoraPart(NamedTuple):
    """The adapter of one of the stacked layers."""

    start: int
    """First of the layer's columns in the output."""
    size: int
    a: "torch.nn.Parameter"
    """(rank, in)."""
    b: "torch.nn.Parameter"
    """(size, rank)."""


class LoraLinear:
    """Stacked layers that read the same input."""

    def __init__(
        self, weight: FrozenWeight, parts: Sequence[LoraPart], scale: float, dropout: float = 0.0
    ) -> None:
        """Stack them.

        Args:
            weight: Of the base layers.
            parts: The layers that have an adapter, in the order of their columns.
            scale: alpha / rank.
            dropout: Share of the adapter's inputs that training drops.
        """
        self.weight = weight
        self.use_adapter(parts, scale, dropout)

    def use_adapter(self, parts: Sequence[LoraPart], scale: float, dropout: float) -> None:
        """Put on another adapter; the arguments are those of the constructor."""
        self.parts, self.scale, self.dropout = tuple(parts), scale, dropout
        self.a: torch.Tensor | None = None
        """All A, (ranks, in), in the precision of the products."""
        self.b: tuple[torch.Tensor, ...] = ()
        """Each B, (size, rank), likewise."""

    @property
    def joined(self) -> DenseWeight | None:
        """The weight, where B stands beside it, so that one product adds both."""
        if isinstance(self.weight, DenseWeight) and self.weight.spare.shape[1]:
            return self.weight
        return None

    def room_for_b(self, dtype: "torch.dtype") -> "tuple[torch.Tensor, ...]":
        """Where the rounded copy of each B goes."""
        import torch

        if self.joined is None:
            return tuple(torch.empty_like(part.b, dtype=dtype) for part in self.parts)
        self.joined.spare.zero_()  # another adapter may have stood there, cut otherwise
        ranks = [part.a.shape[0] for part in self.parts]
        columns = self.joined.spare[:, : sum(ranks)].split(ranks, dim=1)
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
    """Bring every layer's rounded copy of its adapter up to date, in a few launches for all of them.

    The parameters are float32; products are in `dtype`. Rounding each where it is used would take
    two thousand launches a step.
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
    # One copy that is no whole matrix would make it a launch for each of them.
    whole = [n for n, copy in enumerate(copies) if copy.is_contiguous()]
    with torch.no_grad():
        torch._foreach_copy_(  # pyright: ignore[reportPrivateImportUsage]
            [copies[n] for n in whole], [parameters[n] for n in whole]
        )
        for copy, parameter in zip(copies, parameters, strict=True):
            if not copy.is_contiguous():
                copy.copy_(parameter)


def spare_columns(parts: Sequence[LoraPart], out: int, into: int) -> int:
    """Columns beside W for all B, where that pays: for outputs much wider than inputs.

    A product with B beside W copies the input, the other way reads and writes the output again. Rows
    of the weight stay aligned to 16 bytes.
    """
    ranks = sum(part.a.shape[0] for part in parts)
    return -(-ranks // COLUMNS_ALIGNED) * COLUMNS_ALIGNED if out >= 2 * into else 0


def by_part(
    stacked: "torch.Tensor", parts: Sequence[LoraPart], dim: int = 1
) -> "tuple[torch.Tensor, ...]":
    """A tensor cut along its ranks, a piece for each part."""
    return stacked.split([part.a.shape[0] for part in parts], dim=dim)


@cache
def _function() -> Any:
    """The autograd function; made at first use, because its base class is torch's."""
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
            if joined := layer.joined:
                return joined.project_joined(x, pad(h, (0, joined.spare.shape[1] - h.shape[1])))
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
