"""Frozen weights sharded over processes by torch's FSDP2: each holds a part of every layer.

A layer is gathered for its forward pass and again for its backward pass, while the layer before is still
computed, and freed after each. Embedding, head, norms, adapter and optimizer are whole in every process,
so that steps, checkpoints and the saved adapter are those of an unsharded run. Gathering is collective:
all processes run the same number of passes, in the same order.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

from qwenft_assets.config import TrainingConfig
from qwenft_assets.errors import ConfigError
from qwenft_assets.model.linear import DenseWeight, LoraLinear

if TYPE_CHECKING:
    import torch

OF_ADAPTER = ".lora_"
"""In the names of parameters that PEFT adds."""
OBSTACLES = (
    ("weights", "nf4", "bf16", "4-bit weights are not cut in parts"),
    ("weights", "fp8", "bf16", "8-bit weights are not cut in parts"),
    ("batching", "padded", "flattened", "padded batches go through a forward pass of their own"),
)
"""A training setting, the value that rules sharding out, the value to take instead, and why."""


def can_shard(settings: TrainingConfig, processes: int) -> bool:
    """Whether so many processes may hold the weights of the layers together."""
    wanted = processes > 1 and settings.shard_base_weights is not False
    return wanted and not obstacles(settings)


def obstacles(settings: TrainingConfig) -> list[tuple[str, str, str, str]]:
    """The settings that rule sharding out: name, value, the value to take instead, and why."""
    found = [each for each in OBSTACLES if getattr(settings, each[0]) == each[1]]
    if settings.engine_traits.one_process:
        name = settings.engine_name
        found.append(("engine", name, "auto", f"{name} runs in one process"))
    return found


def require_shardable(settings: TrainingConfig, processes: int) -> None:
    """See that nothing rules out what the settings ask for.

    Raises:
        ConfigError: `shard_base_weights` is true, and there is one process, or another setting is
            against it.
    """
    if settings.shard_base_weights is not True:
        return
    if processes == 1:
        raise ConfigError(
            "training.shard_base_weights is true, and one process trains. Set launcher.kind to "
            "accelerate or ray and launcher.processes to 2 or more, or training.shard_base_weights "
            "to auto."
        )
    for name, ruled_out, instead, why in obstacles(settings):
        raise ConfigError(
            f"training.shard_base_weights is true, and training.{name} is {ruled_out}: {why}. "
            f"Set training.{name} to {instead}, or training.shard_base_weights to auto."
        )


class Layer(Protocol):
    """A decoder layer as a function of hidden states, (tokens, hidden size), and what goes with them."""

    def __call__(self, x: "torch.Tensor", *arguments: Any, checkpointing: bool) -> "torch.Tensor":
        """The hidden states after it."""
        ...

    @property
    def linears(self) -> Mapping[str, LoraLinear]:
        """The linear layers, by name."""
        ...


def run_layers(
    layers: Iterable[Any], x: "torch.Tensor", *arguments: Any, checkpointing: bool
) -> "torch.Tensor":
    """Pass hidden states through one layer after the other."""
    for layer in layers:
        x = layer(x, *arguments, checkpointing=checkpointing)
    return x


class ShardedWeight:
    """W of shape (out, in), of which this process holds a part; whole while its layer is at work."""

    def __init__(self, holder: Any, name: str, bias: "torch.Tensor | None") -> None:
        """Read the weight from where FSDP2 puts it.

        Args:
            holder: A module with the weight as a parameter.
            name: Of the parameter.
            bias: (out,), whole.
        """
        self.holder, self.name, self.bias = holder, name, bias

    def project(self, x: "torch.Tensor") -> "torch.Tensor":
        """See FrozenWeight."""
        return self._whole().project(x)

    def project_back(self, gradient: "torch.Tensor") -> "torch.Tensor":
        """See FrozenWeight."""
        return self._whole().project_back(gradient)

    def _whole(self) -> DenseWeight:
        return DenseWeight(getattr(self.holder, self.name), self.bias)


def sharded(layers: Iterable[Layer], device: str) -> Any:
    """All layers as one module whose weights are sharded over the processes.

    Args:
        layers: Made one by one, so that no more than one is whole on the device at a time; their
            weights are DenseWeight, without spare columns.
        device: `cuda` or `cpu`: where the parts go.

    Returns:
        A module that does what run_layers does, with its `layers`.
    """
    from torch.distributed.fsdp import fully_shard

    one_layer, all_layers = _modules()
    mesh = _mesh(device)
    held = [
        fully_shard(one_layer(layer), mesh=mesh, reshard_after_forward=True) for layer in layers
    ]
    # Of a common root, so that one layer is gathered while another is computed.
    return fully_shard(all_layers(held), mesh=mesh)


def shard_model(model: Any, device: str) -> None:
    """Shard the layers of a PEFT model that runs by its own forward.

    Args:
        model: On the CPU, with all its adapters.
        device: `cuda` or `cpu`: where the parts go, and everything else.
    """
    from torch.distributed.fsdp import fully_shard

    place_all_but_layers(model, device)
    core, mesh = model.get_base_model().model, _mesh(device)
    for layer in core.layers:
        adapter = {p for name, p in layer.named_parameters() if OF_ADAPTER in name}
        fully_shard(layer, mesh=mesh, ignored_params=adapter, reshard_after_forward=True)
    rest = {p for p in core.parameters() if not _is_part(p)}
    fully_shard(core, mesh=mesh, ignored_params=rest)


def place_all_but_layers(model: Any, device: str) -> None:
    """Move a model to its device, except the weights of its layers, which are sharded there."""
    layers = model.get_base_model().model.layers
    left = {
        id(p) for name, p in layers.named_parameters() if p.dim() > 1 and OF_ADAPTER not in name
    }
    for tensor in chain(model.parameters(), model.buffers()):
        if id(tensor) not in left:
            tensor.data = tensor.data.to(device)


def is_sharded(model: Any) -> bool:
    """Whether the model is sharded, so that this process cannot run it alone."""
    import torch

    return torch.distributed.is_initialized() and any(
        _is_part(parameter) for parameter in model.parameters()
    )


def _is_part(parameter: Any) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(parameter, DTensor)


def _mesh(device: str) -> Any:
    from torch.distributed import GroupMember
    from torch.distributed.device_mesh import DeviceMesh

    everyone: Any = GroupMember.WORLD
    return DeviceMesh.from_group(everyone, device)


@cache
def _modules() -> tuple[Any, Any]:
    """The modules that FSDP2 works on, defined at first use because their base class needs torch."""
    import torch

    class OneLayer(torch.nn.Module):
        """The frozen weights of a layer. Its adapter, norms and biases are not among its parameters."""

        def __init__(self, layer: Layer) -> None:
            super().__init__()
            self.layer = layer
            for name, linear in layer.linears.items():
                dense: Any = linear.weight
                weight = torch.nn.Parameter(dense.with_spare, requires_grad=False)
                self.register_parameter(name, weight)
                linear.weight = ShardedWeight(self, name, dense.bias)

        def forward(self, x: torch.Tensor, *arguments: Any, **mode: bool) -> torch.Tensor:
            return self.layer(x, *arguments, **mode)

    class AllLayers(torch.nn.Module):
        """One after the other."""

        def __init__(self, layers: list[Any]) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList(layers)

        def forward(self, x: torch.Tensor, *arguments: Any, **mode: bool) -> torch.Tensor:
            return run_layers(self.layers, x, *arguments, **mode)

    return OneLayer, AllLayers
