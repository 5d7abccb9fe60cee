"""`qwenft releases`: the champion and its history; moving the pointer by hand."""

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
    use_dagster_home,
)
from qwenft_assets.config import Config, RecipeName
from qwenft_assets.errors import ReleaseError
from qwenft_assets.evaluation.job import read_evaluation
from qwenft_assets.records import HistoryLine
from qwenft_assets.release import registry
from qwenft_assets.release.history import read_history
from qwenft_assets.storage.root import Storage

releases = typer.Typer(
    help="The champion and its history; promote a version by hand, or roll back.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
WhyOption = Annotated[str, typer.Option("--why", help="The reason; it stays in the history.")]
VersionArgument = Annotated[str, typer.Argument(help="As `qwenft releases list` shows it.")]


@releases.command(name="list")
def list_(
    recipe: RecipeOption = "small", config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Every decision and move, oldest first; `*` marks the champion.

    Examples: `qwenft releases list`, `qwenft releases list --recipe large --json`
    """
    _, name, storage = _opened(config, recipe)
    history = read_history(storage, name)
    released = registry.read_champion(storage, name)
    champion = released.version if released else None
    if as_json:
        lines = [line.as_json() for line in history]
        _print_json({"recipe": name, "champion": champion, "history": lines})
        return
    table = Table(show_lines=True)
    for column in ("", "version", "decision (UTC)", "perplexity", "why"):
        table.add_column(column, no_wrap=column == "version")  # `promote` asks for the whole of it
    last = {line.version: number for number, line in enumerate(history)}
    for number, line in enumerate(history):
        table.add_row(
            "*" if line.version == champion and last[line.version] == number else "",
            line.version,
            f"{line.at[:16].replace('T', ' ')}\n{line.action} by {escape(line.who)}",
            f"{line.base_perplexity:.2f}\n→ {line.perplexity:.2f}",
            escape("; ".join(line.reasons)),
        )
    Console(highlight=False).print(table if history else "nothing was decided yet")


@releases.command()
def show(
    version: VersionArgument,
    recipe: RecipeOption = "small",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """One version: its figures, the gate's rules, and what happened to it.

    Example: `qwenft releases show 0f1e2d3c4b5a6978`
    """
    _, name, storage = _opened(config, recipe)
    storage.fetch(storage.evaluation(name, version))
    evaluation = read_evaluation(storage, name, version)
    history = [line for line in read_history(storage, name) if line.version == version]
    if evaluation is None and not history:
        raise ReleaseError(
            f"{version}: no such version of {name}. `qwenft releases list --recipe {name}` shows them."
        )
    released = registry.read_champion(storage, name)
    champion = released is not None and released.version == version
    if as_json:
        lines = [line.as_json() for line in history]
        _print_json(
            {"version": version, "champion": champion, "evaluation": evaluation, "history": lines}
        )
        return
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"{version}{' (champion)' if champion else ''}")
    if evaluation is not None:
        low, high = evaluation["delta_loss_ci95"]
        console.print(
            f"perplexity {evaluation['base_perplexity']:.2f} → {evaluation['perplexity']:.2f}, "
            f"delta loss {evaluation['delta_loss']:+.4f} ({low:+.4f} to {high:+.4f}), "
            f"report {storage.evaluation(name, version) / 'report.md'}"
        )
    for line in history:
        console.print(f"{line.at} {line.action} by {line.who}: {'; '.join(line.reasons)}")
        for rule in line.rules or ():
            console.print(f"  {'ok' if rule.passed else 'no'}  {rule.name}: {rule.detail}")


@releases.command()
def promote(
    version: VersionArgument,
    why: WhyOption,
    force: Annotated[
        bool, typer.Option("--force", help="Even where the gate says no to it.")
    ] = False,
    recipe: RecipeOption = "small",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a version the champion by hand; `infer` and `chat` use it at once.

    Example: `qwenft releases promote 0f1e2d3c4b5a6978 --force --why "wanted for the demo"`
    """
    settings, name, storage = _opened(config, recipe)
    use_dagster_home()
    with storage.working_on(
        reads=[storage.evaluation(name, version)], makes=[storage.release(name)]
    ):
        line = registry.promote(settings, storage, name, version, _reason(why), force=force)
    _report(storage, name, line, as_json=as_json)


@releases.command()
def rollback(
    why: WhyOption = "rolled back on the command line",
    recipe: RecipeOption = "small",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring back the champion before the present one; `infer` and `chat` use it at once.

    The version rolled back is refused by the gate from then on, until it is promoted.

    Example: `qwenft releases rollback --why "answers in the wrong units"`
    """
    _, name, storage = _opened(config, recipe)
    use_dagster_home()
    with storage.working_on(makes=[storage.release(name)]):
        line = registry.rollback(storage, name, _reason(why))
    _report(storage, name, line, as_json=as_json)


def _opened(config: Any, recipe: str) -> tuple[Config, RecipeName, Storage]:
    settings = load(config)
    name, storage = recipe_named(settings, recipe), storage_of(settings)
    storage.fetch(storage.release(name))
    return settings, name, storage


def _reason(why: str) -> str:
    if not why.strip():
        raise ReleaseError('--why: is empty. Say why, such as --why "answers in the wrong units".')
    return why.strip()


def _report(storage: Storage, recipe: RecipeName, line: HistoryLine, *, as_json: bool) -> None:
    """Show the move, and tell the Dagster instance, so that the UI shows it too."""
    import dagster as dg

    from qwenft_assets.assets.release import report_move

    with dg.DagsterInstance.get() as instance:
        report_move(instance, storage, recipe, line)
    if as_json:
        _print_json(line.as_json())
    else:
        print(f"{recipe}: {line.version} is the champion (before: {line.previous or 'none'})")


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))
