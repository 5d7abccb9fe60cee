"""Whether a run makes sense here: refused before it begins where it does not fit, or is absurd."""

import dataclasses

from qwenft_assets.config import Config, LauncherConfig, RecipeName, TrainingConfig
from qwenft_assets.errors import ConfigError, DeviceError
from qwenft_assets.model.device import Device, find_gpus, resolve_device
from qwenft_assets.model.engines import require_engine
from qwenft_assets.model.fsdp import obstacles, require_shardable
from qwenft_assets.storage.root import Storage
from qwenft_assets.training.forecast import (
    Forecast,
    Work,
    disk_gib,
    forecast,
    memory_on,
    work_of,
)

FREE_OF_AN_IDLE_GPU = 0.98


def require_feasible(
    config: Config, recipe: RecipeName, storage: Storage, device: Device
) -> tuple[Work, Forecast]:
    """What a run is and takes on a device.

    Raises:
        DeviceError: It does not fit into the GPU's memory, or there are fewer GPUs than processes.
        ConfigError: It would evaluate more than it trains, or take longer than `max_hours`; or the engine
            runs in one process only; or settings rule out a sharding that they ask for.
        StorageError: The disk has no room for it.
        BaseModelError: The base model cannot be found.
    """
    settings = config.training
    require_engine(settings, device.type)
    _require_one_process(config)
    require_shardable(settings, config.launcher.size())
    _require_gpu_each(config.launcher, device)
    work = work_of(config, recipe, storage)
    _require_sane_evaluations(work)
    try:
        on_device = forecast(work, settings, storage, device, config.launcher.size())
    except DeviceError as error:
        advice = _if_sharded(config, work, device)
        raise DeviceError(f"{error}{advice}") from error
    _require_hours(work, on_device, settings)
    needed = disk_gib(work, settings, storage)
    storage.require_free(sum(needed.values()), f"a {recipe} run")
    return work, on_device


def require_feasible_here(config: Config, recipe: RecipeName, storage: Storage) -> None:
    """The same at the start of a run, for this machine once other work has left its GPU.

    Raises:
        QwenftError: As `require_feasible`; also where the config needs a GPU and there is none.
    """
    gpus = [
        dataclasses.replace(gpu, free_vram_gib=FREE_OF_AN_IDLE_GPU * gpu.total_vram_gib)
        for gpu in find_gpus()
    ]
    device = resolve_device(config.training, config.training.device, gpus)
    require_feasible(config, recipe, storage, device)


def in_one_line(work: Work, on_device: Forecast) -> str:
    """What a run is, for its log."""
    return (
        f"{work.train_rows:,} rows, {work.train_tokens / 1e6:,.2f} M tokens in {work.steps:,} "
        f"steps, {work.evaluations} evaluations of {work.rows_an_evaluation} rows; about "
        f"{format_hours(on_device.hours)} at {on_device.speed.tokens_per_second:,.0f} tokens/s "
        f"({on_device.speed.known_from})"
    )


def format_hours(hours: float) -> str:
    """A time in the unit that people would say it in."""
    if hours < 1:
        return f"{max(hours * 60, 1):.0f} min"
    return f"{hours:,.1f} h" if hours < 100 else f"{hours / 24:,.0f} days"  # noqa: PLR2004


def format_launcher(launcher: LauncherConfig, step_sequences: int) -> str:
    """Who trains together, and what of a step is whose."""
    if launcher.size() == 1:
        return f"{launcher.kind}: one process; {step_sequences} sequences a step"
    where = {
        "accelerate": "on this machine",
        "ray": f"on the Ray cluster {launcher.ray_address or 'of this machine'}",
    }[launcher.kind]
    return (
        f"{launcher.kind}: {launcher.processes} processes {where}; {step_sequences} sequences a step in "
        "all, shared out by tokens (times below are of one process)"
    )


def _require_one_process(config: Config) -> None:
    launcher = config.launcher
    alone = config.training.engine_traits.one_process
    if alone and (launcher.kind == "ray" or launcher.processes > 1):
        raise ConfigError(
            f"training.engine: {config.training.engine_name} runs in one process on this machine, and launcher.kind is "
            f"{launcher.kind} with {launcher.processes} processes. Set launcher.kind to local, or "
            "training.engine to auto."
        )


def _require_gpu_each(launcher: LauncherConfig, device: Device) -> None:
    if launcher.kind != "accelerate" or device.type != "cuda":
        return
    found = len(find_gpus())
    if found < launcher.processes:
        raise DeviceError(
            f"launcher.processes is {launcher.processes}, and nvidia-smi finds {found} GPUs: each process "
            f"takes one of its own. Set launcher.processes to {max(found, 1)}."
        )


def _if_sharded(config: Config, work: Work, device: Device) -> str:
    """What to set so that the GPUs that are there hold the model together; empty where they cannot."""
    settings, launcher = config.training, config.launcher
    gpus = max(launcher.size(), len(find_gpus()))
    if gpus == 1:
        return ""
    wanted = {name: use for name, _, use, _ in obstacles(settings)}
    sharded = settings.model_copy(update={**wanted, "shard_base_weights": True})
    try:
        memory_on(work, sharded, device.free_vram_gib, gpus)
    except DeviceError:
        return ""
    if settings.shard_base_weights is False:
        wanted["shard_base_weights"] = "auto"
    changes = [f"training.{name} to {value}" for name, value in wanted.items()]
    if launcher.size() < gpus:
        changes.append(f"launcher.kind to accelerate and launcher.processes to {gpus}")
    return f" Or have {gpus} GPUs hold the weights together: set {', '.join(changes)}."


def _require_sane_evaluations(work: Work) -> None:
    # An evaluation only reads: half the products of a training token, and less.
    if work.evaluation_tokens <= 2 * work.train_tokens:
        return
    times = work.evaluation_tokens / work.train_tokens
    raise ConfigError(
        f"{work.evaluations:,} evaluations of {work.rows_an_evaluation:,} rows while training would "
        f"read {times:.0f} times as many tokens as are trained on. Set training.max_eval_rows (512 by "
        "default) or training.max_evaluations (20) lower; all rows are evaluated once after training."
    )


def _require_hours(work: Work, on_device: Forecast, settings: TrainingConfig) -> None:
    if on_device.hours <= settings.max_hours:
        return
    raise ConfigError(
        f"training {work.train_tokens / 1e6:,.0f} M tokens on {on_device.where} would take "
        f"{format_hours(on_device.hours)} at {on_device.speed.tokens_per_second:,.1f} tokens/s "
        f"({on_device.speed.known_from}), and training.max_hours is {settings.max_hours:g}. Use a "
        "faster device, fewer mixture.recipes rows or epochs, or raise training.max_hours."
    )
