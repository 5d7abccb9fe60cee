"""`qwenft plan`: what a run will take, here and on cards that people have, before it is started."""

import dataclasses
import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qwenft_assets.cli.options import (
    ConfigOption,
    JsonOption,
    RecipeOption,
    load,
    recipe_named,
    storage_of,
)
from qwenft_assets.config import Config
from qwenft_assets.errors import QwenftError
from qwenft_assets.model.device import GPU_ONLY_WEIGHTS, Device, find_gpus, resolve_device
from qwenft_assets.storage.root import GIB, Storage
from qwenft_assets.training.feasibility import format_hours, format_launcher, require_feasible
from qwenft_assets.training.forecast import (
    Forecast,
    Work,
    disk_gib,
    forecast,
    smallest_card_gib,
    work_of,
)
from qwenft_assets.training.run import evaluation_interval

CARDS = (
    Device("cuda", "RTX 4090, 24 GiB", 23.5, 24.0),
    Device("cuda", "H200, 140 GiB", 139.0, 140.4),
)
"""Named beside this machine; free memory as an idle card has it."""
DEMO = "demo"
ORIGINAL = "qwenft plan --recipe {} --config configs/qwen2.5-7b.yaml"
PARTS = ("weights", "activations", "optimizer", "logits", "context")


def plan(
    recipe: RecipeOption = "small",
    config: ConfigOption = None,
    gpu_gib: Annotated[
        float | None, typer.Option("--gpu-gib", min=1, help="Also plan for a card of this size.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Rows, steps, memory, disk and hours of a run, here and elsewhere. Trains nothing.

    Ends with 2 where the run would be refused here; the last lines say why, and what to change. The
    same check stands at the start of every run.

    Examples: `qwenft plan --recipe large`, `qwenft plan --recipe large --config
    configs/qwen2.5-7b.yaml --gpu-gib 16`
    """
    settings = load(config)
    name = recipe_named(settings, recipe)
    storage = storage_of(settings)
    storage.ensure_writable()
    storage.fetch_overview()
    work = work_of(settings, name, storage)
    device, refusal = None, None
    try:
        device = resolve_device(settings.training, settings.training.device, find_gpus())
        require_feasible(settings, name, storage, device)
    except QwenftError as error:
        refusal = str(error)
    cards = [*CARDS]
    if gpu_gib is not None:
        cards.insert(0, Device("cuda", f"card of {gpu_gib:g} GiB", 0.98 * gpu_gib, gpu_gib))
    here = device or Device("cpu", "cpu", 0, 0)
    columns = [("here: " + here.name, here), *((card.name, card) for card in cards)]
    found = {title: _on(work, settings, storage, card) for title, card in columns}
    if as_json:
        print(json.dumps(_as_json(settings, work, storage, found, refusal), indent=2))
    else:
        _print(settings, recipe, work, storage, found, refusal)
    if refusal is not None:
        raise typer.Exit(2)


def _on(work: Work, config: Config, storage: Storage, device: Device) -> Forecast | str:
    """The forecast on a device, or on one for each process, or why there is none."""
    if device.type == "cpu" and config.training.weights in GPU_ONLY_WEIGHTS:
        return f"weights: {config.training.weights} need a GPU"
    try:
        return forecast(work, config.training, storage, device, config.launcher.size())
    except QwenftError as error:
        return str(error)


def _as_json(
    config: Config,
    work: Work,
    storage: Storage,
    found: dict[str, Forecast | str],
    refusal: str | None,
) -> dict[str, Any]:
    return {
        "work": {
            **dataclasses.asdict(work),
            "base": work.base.name,
            "train_tokens": work.train_tokens,
            "evaluation_tokens": work.evaluation_tokens,
        },
        "launcher": {
            **config.launcher.model_dump(mode="json"),
            "step_sequences": config.training.step_sequences,
        },
        "disk_gib": disk_gib(work, config.training, storage),
        "smallest_card_gib": smallest_card_gib(work, config.training, config.launcher.size()),
        "on": {
            title: one if isinstance(one, str) else dataclasses.asdict(one)
            for title, one in found.items()
        },
        "refused": refusal,
    }


def _print(
    config: Config,
    recipe: str,
    work: Work,
    storage: Storage,
    found: dict[str, Forecast | str],
    refusal: str | None,
) -> None:
    settings = config.training
    console = Console(highlight=False, soft_wrap=True)
    interval = evaluation_interval(settings, work.steps)
    share = work.evaluation_tokens / max(work.train_tokens, 1)
    disk = disk_gib(work, settings, storage)
    free = storage.free_gib()
    adapter = 4 * work.trainable_parameters / GIB
    facts = {
        "base": f"{work.base.name}, {settings.weights}, by {settings.engine_name}; {work.trainable_parameters / 1e6:.1f} M "
        "parameters are trained",
        "rows": f"{work.train_rows:,} train, {work.eval_rows:,} eval; {work.tokens_a_row:.0f} tokens "
        f"a row, {work.longest_row_tokens:,} at most",
        "tokens": f"{work.train_tokens / 1e6:,.2f} M over {settings.epochs:g} x the rows",
        "steps": f"{work.steps:,} of {work.step_tokens:,.0f} tokens ({settings.batching})",
        "launcher": format_launcher(config.launcher, settings.step_sequences),
        "evaluations": f"{work.evaluations} of {work.rows_an_evaluation} rows, every {interval:,} "
        f"steps; they read {share:.1%} of the tokens trained on",
        "checkpoints": f"at each evaluation and every {settings.checkpoint_minutes:g} min; the best "
        "and the last are kept",
        "disk": f"{sum(disk.values()):.2f} GiB to write, {free:.1f} free; an adapter is "
        f"{adapter:.2f} GiB",
    }
    console.print(f"[bold]{escape(config.name)} / {recipe}[/]")
    for name, text in facts.items():
        console.print(f"  {name:<12} {escape(text)}")
    for assumption in work.assumptions:
        console.print(f"  [dim]assumed: {escape(assumption)}[/]")
    console.print()
    console.print(_table(found, settings.weights))
    smallest = smallest_card_gib(work, settings, config.launcher.size())
    if smallest is not None:
        console.print(f"  smallest card for this config: {smallest:.1f} GiB of free memory")
    for title, one in found.items():
        if isinstance(one, Forecast):
            console.print(f"  [dim]{escape(title)}: {escape(one.speed.known_from)}[/]")
    if refusal is None:
        console.print("\n[green]would run here[/]")
        if config.name == DEMO:
            console.print(f"this is the demo; the original recipe: {ORIGINAL.format(recipe)}")
    else:
        console.print(f"\n[red]not here[/]: {escape(refusal)}")


def _table(found: dict[str, Forecast | str], weights: str) -> Table:
    table = Table("GiB of GPU memory", *found, box=None, padding=(0, 2))
    for part in PARTS:
        table.add_row(part, *(_part(one, part) for one in found.values()))
    table.add_row("peak", *(_peak(one) for one in found.values()), style="bold")
    table.add_row("weights held in", *(_held(one, weights) for one in found.values()))
    table.add_row("layers", *(_layers(one) for one in found.values()))
    table.add_row("tokens a pass", *(_pass(one) for one in found.values()))
    table.add_row("tokens/s", *(_speed(one) for one in found.values()))
    table.add_row("time", *(_time(one) for one in found.values()), style="bold")
    return table


def _part(one: Forecast | str, part: str) -> str:
    if isinstance(one, str) or one.memory is None:
        return "–"
    return f"{one.memory.parts_gib[part]:.1f}"


def _peak(one: Forecast | str) -> str:
    if isinstance(one, str):
        return "does not fit"
    return "–" if one.memory is None else f"{one.memory.peak_gib:.1f}"


def _held(one: Forecast | str, weights: str) -> str:
    if isinstance(one, str) or one.memory is None:
        return "–"
    if weights == "nf4":
        return "nf4" if one.memory.keep_4bit else "nf4 as bf16"
    return f"{weights}, on {one.memory.shards} GPUs" if one.memory.shards > 1 else weights


def _layers(one: Forecast | str) -> str:
    if isinstance(one, str) or one.memory is None:
        return "–"
    return "computed again" if one.memory.checkpointing else "kept"


def _pass(one: Forecast | str) -> str:
    if isinstance(one, str) or one.memory is None:
        return "–"
    return f"{one.memory.micro_batch_tokens:,}"


def _speed(one: Forecast | str) -> str:
    return "–" if isinstance(one, str) else f"{one.speed.tokens_per_second:,.0f}"


def _time(one: Forecast | str) -> str:
    return "–" if isinstance(one, str) else format_hours(one.hours)
