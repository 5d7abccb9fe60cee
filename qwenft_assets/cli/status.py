"""`qwenft status`: what stands, what is due, what ran and what is switched on, in the terminal."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from qwenft_assets.cli.options import (
    ConfigOption,
    JsonOption,
    load,
    storage_of,
    use_dagster_home,
)
from qwenft_assets.config import Config
from qwenft_assets.rebuilds.upstream import short


def status(
    config: ConfigOption = None,
    check: Annotated[
        bool, typer.Option("--check", help="Ask each source's place whether it has changed.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Sources, champions, schedules and runs of a deployment, as Markdown.

    Reads what is there and starts nothing; asks the Hub only with `--check`.

    Examples: `qwenft status`, `qwenft status --check --config configs/qwen2.5-7b.yaml`, `qwenft
    status --json`
    """
    settings = load(config)
    use_dagster_home()
    report = make_report(settings, ask_upstream=check)
    print(
        json.dumps(report, ensure_ascii=False, indent=2)
        if as_json
        else "\n".join(as_markdown(report))
    )


def make_report(config: Config, *, ask_upstream: bool) -> dict[str, Any]:
    """The figures of storage and instance."""
    import dagster as dg

    from qwenft_assets.automation.report import (
        instigators_report,
        pools_report,
        recipe_report,
        runs_report,
        sources_report,
    )
    from qwenft_assets.definitions import defs

    storage, now = storage_of(config), datetime.now(tz=UTC)
    storage.fetch_overview()
    with dg.DagsterInstance.get() as instance:
        return {
            "config": config.name,
            "storage": storage.where,
            "at": now.isoformat(timespec="seconds"),
            "sources": sources_report(config, storage, ask_upstream=ask_upstream),
            "recipes": [recipe_report(config, storage, name) for name in config.mixture.recipes],
            "automation": instigators_report(instance, defs.get_repository_def(), now),
            "runs": runs_report(instance),
            "pools": pools_report(instance),
        }


def as_markdown(report: dict[str, Any]) -> Iterator[str]:
    """The report as lines of Markdown."""
    yield f"# {report['config']} at {report['at']}"
    yield f"\nStorage: `{report['storage']}`"
    yield "\n## Sources\n"
    asked = "change" in report["sources"][0]
    yield from _table(
        ("source", "rows", "version", "revision", *(("upstream",) if asked else ())),
        [
            (
                entry["source"],
                entry["rows"],
                entry["version"],
                short(entry["revision"]) if entry["revision"] else None,
                *((entry["change"] or "unchanged",) if asked else ()),
            )
            for entry in report["sources"]
        ],
    )
    for recipe in report["recipes"]:
        yield from _recipe(recipe)
    yield "\n## Schedules and sensors\n"
    yield from _table(
        ("name", "kind", "on", "next", "last tick", "outcome"),
        [
            (
                entry["name"],
                entry["kind"],
                "on" if entry["on"] else "off",
                entry["next_tick"],
                (entry["last_tick"] or {}).get("at"),
                _outcome(entry["last_tick"]),
            )
            for entry in report["automation"]
        ],
    )
    yield "\n## Runs\n"
    yield from _table(
        ("at", "job", "of", "status", "seconds", "rebuild", "why"),
        [
            [run[key] for key in ("at", "job", "of", "status", "seconds", "rebuild", "why")]
            for run in report["runs"]
        ],
    )
    for pool in report["pools"]:
        yield (
            f"\nPool `{pool['pool']}`: {pool['occupied']} of {pool['slots']} slots occupied, "
            f"{pool['waiting']} waiting."
        )


def _recipe(recipe: dict[str, Any]) -> Iterator[str]:
    champion = recipe["champion"]
    yield f"\n## {recipe['recipe']}\n"
    if champion:
        yield (
            f"- Champion: `{champion['version']}` since {champion['at']} by {champion['who']}, "
            f"perplexity {champion['perplexity']:.2f}"
        )
    else:
        yield "- Champion: none yet"
    if recipe["mixture_version"]:
        yield f"- Mixture: `{recipe['mixture_version']}`, {recipe['rows']} rows"
        yield f"- Its last change: {recipe['what_changed']}"
    if recipe["decision"]:
        yield (
            f"- Last decision: {recipe['decision']} `{recipe['adapter_version']}`: "
            f"{'; '.join(recipe['reasons'])}"
        )
    if recipe["what_it_bought"]:
        yield f"- What it bought: {recipe['what_it_bought']}"
    yield f"- A rebuild would: {_would(recipe['due'])}"


def _would(due: str | None) -> str:
    return f"have work to do: {due}" if due else "find everything current, if upstream is unchanged"


def _outcome(tick: dict[str, Any] | None) -> str | None:
    if tick is None:
        return None
    started = f"{tick['status']}, started {len(tick['runs'])}" if tick["runs"] else tick["status"]
    return f"{started}: {tick['reason']}" if tick["reason"] else started


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    """A Markdown table; a bar inside a cell is escaped, a missing value is empty."""
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    for row in rows:
        cells = ("" if value is None else str(value).replace("|", "\\|") for value in row)
        yield f"| {' | '.join(cells)} |"
