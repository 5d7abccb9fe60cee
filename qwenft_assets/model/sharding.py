"""When the processes of a run hold the base model's frozen weights together, and what rules that out.

How it is done is in fsdp.py.
"""

from qwenft_assets.config import TrainingConfig
from qwenft_assets.errors import ConfigError

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
