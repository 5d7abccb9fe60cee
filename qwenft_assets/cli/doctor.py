"""`qwenft doctor`: whether this machine can run a config, and what to do where it cannot."""

import importlib.metadata
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from packaging.requirements import Requirement
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qwenft_assets.cli.options import ConfigOption, JsonOption, load, storage_of, use_dagster_home
from qwenft_assets.config import Config
from qwenft_assets.errors import QwenftError
from qwenft_assets.model.device import GIB, find_gpus, resolve_device
from qwenft_assets.progress import progress_bar
from qwenft_assets.storage.integrity import check_artifacts
from qwenft_assets.storage.root import ALL, Storage

MIN_FREE_DISK_GIB = {"demo": 2.0}
MIN_FREE_DISK_GIB_OTHER = 40.0
GPU_PACKAGES = ("bitsandbytes", "unsloth")


class Examined(NamedTuple):
    """One thing that was looked at."""

    name: str
    ok: bool
    found: str


def doctor(
    config: ConfigOption = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every artifact again, against its hashes.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check versions against their caps, config, device, disk, base model, storage, instance.

    Examples: `qwenft doctor --config configs/qwen2.5-7b.yaml`, `qwenft doctor --verify`
    """
    settings = load(config)
    looks: dict[str, Callable[[], str]] = {
        "python": lambda: f"{platform.python_version()} on {platform.platform()}",
        "packages": _packages,
        "config": lambda: _config(settings),
        "device": lambda: _device(settings),
        "GPU packages": _gpu_packages,
        "engine": lambda: _engine(settings),
        "base model": lambda: _base_model(settings),
        "storage": lambda: _storage(settings),
        "disk": lambda: _disk(settings),
        "dagster": _dagster,
    }
    results = [_examine(name, look) for name, look in looks.items()]
    if verify:
        results += _artifacts(storage_of(settings))
    if as_json:
        print(json.dumps([result._asdict() for result in results], indent=2))
    else:
        table = Table(show_header=False, box=None)
        for result in results:
            mark = "[green]ok[/]" if result.ok else "[red]no[/]"
            table.add_row(mark, result.name, escape(result.found))
        Console(highlight=False).print(table)
    if not all(result.ok for result in results):
        raise typer.Exit(2)


def _examine(name: str, look: Callable[[], str]) -> Examined:
    try:
        return Examined(name, True, look())
    except QwenftError as error:
        return Examined(name, False, str(error))


def _artifacts(storage: Storage) -> list[Examined]:
    """Each artifact by its place below the root, with the hashes of its files."""
    with progress_bar("reading artifacts") as report_progress:
        storage.fetch(storage.root / ALL)
        results: list[Examined] = []
        for checked in check_artifacts(storage):
            name = str(checked.folder.relative_to(storage.root))
            found = checked.problem or f"{checked.files} files as recorded"
            results.append(Examined(name, checked.problem is None, found))
            report_progress(len(results), 0, name)
    return results or [Examined("artifacts", True, f"none below {storage.where} yet")]


def _packages() -> str:
    """Every requirement of this project, as installed."""
    wrong: list[str] = []
    requirements = [Requirement(line) for line in importlib.metadata.requires("qwenft") or []]
    needed = [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    for requirement in needed:
        version = _version_of(requirement.name)
        if version is None:
            wrong.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} is not {requirement.specifier}")
    if wrong:
        raise QwenftError(f"{'; '.join(wrong)}. Run `make install`.")
    shown = ("torch", "transformers", "peft", "datasets", "dagster")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in shown)
    return f"{len(needed)} within their caps: {versions}"


def _config(config: Config) -> str:
    recipes = ", ".join(
        f"{name} {recipe.rows} rows" for name, recipe in config.mixture.recipes.items()
    )
    return f"{config.name}: sources from {config.sources.origin}; {recipes}"


def _device(config: Config) -> str:
    gpus = find_gpus()
    device = resolve_device(config.training, config.training.device, gpus)
    if device.type == "cpu":
        seen = f", GPU left alone: {gpus[0].name}" if gpus else ", no GPU"
        return f"cpu, {os.cpu_count()} cores{seen}"
    return f"{device.name}, {device.free_vram_gib:.1f} of {device.total_vram_gib:.1f} GiB free"


def _gpu_packages() -> str:
    """The packages that only a GPU needs: bitsandbytes for 4-bit weights, Unsloth as an engine."""
    if not find_gpus():
        return "no GPU, so none is needed"
    versions = {name: _version_of(name) for name in GPU_PACKAGES}
    installed = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    missing = " and ".join(name for name, version in versions.items() if version is None)
    if missing:
        return (
            f"{installed or 'none'}; {missing} missing: `make install` brings what this GPU needs"
        )
    return installed


def _version_of(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _engine(config: Config) -> str:
    from qwenft_assets.model.engines import require_engine

    wanted = config.training.device
    on_gpu = wanted == "cuda" or (wanted == "auto" and bool(find_gpus()))
    return require_engine(config.training, "cuda" if on_gpu else "cpu")


def _base_model(config: Config) -> str:
    from qwenft_assets.model.base import find_base_model

    base = find_base_model(config.training, storage_of(config))
    return f"{base.name} at {base.revision[:24]}"


def _storage(config: Config) -> str:
    storage = storage_of(config)
    storage.ensure_writable()
    return storage.where


def _disk(config: Config) -> str:
    free_gib = shutil.disk_usage(_existing(config.storage_path())).free / GIB
    needed_gib = MIN_FREE_DISK_GIB.get(config.name, MIN_FREE_DISK_GIB_OTHER)
    if free_gib < needed_gib:
        raise QwenftError(
            f"{free_gib:.1f} GiB free, {needed_gib:.0f} needed for the base model, checkpoints and "
            "caches. Free space, or set QWENFT_STORAGE."
        )
    return f"{free_gib:.1f} GiB free"


def _dagster() -> str:
    home = use_dagster_home()
    if not (home / "dagster.yaml").is_file():
        raise QwenftError(
            f"{home}: has no dagster.yaml, so the GPU would have no queue. Copy dagster_home/"
            "dagster.yaml there, or unset DAGSTER_HOME."
        )
    return f"runs are kept in {home}; python is {sys.executable}"


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)
