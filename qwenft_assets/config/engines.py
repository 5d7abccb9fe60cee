"""The engines that train: what each needs and can do, known without importing it.

An engine is a module `model/engines/<name>.py` with the functions of `model.engines.Engine`, and a line of
ENGINES.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineTraits:
    """What the config, `qwenft doctor` and the plan of memory need to know of an engine."""

    distribution: str | None = None
    """The package that has to be installed; None if qwenft itself suffices."""
    install: str = ""
    """The command that installs it."""
    needs_gpu: bool = False
    one_process: bool = False
    """Several processes cannot train together."""
    fp8: bool = True
    """It runs `weights: fp8`."""
    nf4_as_bf16: bool = True
    """It may hold 4-bit weights in bf16, as the same numbers, where memory allows."""
    libraries: tuple[str, ...] = ()
    """Packages beside torch, transformers, TRL and peft that decide what a step computes."""


ENGINES = {
    "peft": EngineTraits(),
    "unsloth": EngineTraits(
        distribution="unsloth",
        install="pip install 'qwenft[unsloth]' && pip install --no-deps unsloth==2026.10.9 "
        "unsloth_zoo==2026.10.9",
        needs_gpu=True,
        one_process=True,
        fp8=False,
        nf4_as_bf16=False,
        libraries=("unsloth", "unsloth_zoo", "triton"),
    ),
}
DEFAULT_ENGINE = "peft"
"""What `auto` stands for: never a matter of what happens to be installed."""
