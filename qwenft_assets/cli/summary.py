"""What a rebuild ends with: one table, where everything lies, and what to type next."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qwenft_assets.config import PROJECT_ROOT, Config, RecipeName
from qwenft_assets.evaluation.job import read_evaluation
from qwenft_assets.records import Champion, MixtureManifest
from qwenft_assets.release.history import last_decision
from qwenft_assets.release.registry import read_champion
from qwenft_assets.storage.files import read_json
from qwenft_assets.storage.root import MIXTURE_FILE, Storage
from qwenft_assets.training.job import latest_version


def summarize(
    config: Config, recipe: RecipeName, storage: Storage, seconds: float, unchanged: list[str]
) -> dict[str, Any]:
    """The figures of the present mixture, adapter, evaluation and release of a recipe."""
    mixture = read_json(storage.mixed_dataset(recipe) / MixtureManifest.FILE) or {}
    decision = last_decision(storage, recipe)
    version = decision.version if decision else latest_version(storage, recipe)
    evaluation = read_evaluation(storage, recipe, version) or {}
    champion = read_champion(storage, recipe)
    return {
        "config": config.name,
        "recipe": recipe,
        "seconds": round(seconds, 1),
        "unchanged": unchanged,
        "mixture_version": mixture.get("version"),
        "sources": mixture.get("sources", {}),
        "adapter_version": version,
        "evaluation": evaluation,
        "released": decision.released if decision else False,
        "reasons": list(decision.reasons) if decision else [],
        "rules": [vars(rule) for rule in decision.rules or ()] if decision else [],
        "champion": champion.version if champion else None,
        "paths": {
            "mixture": str(storage.mixed_dataset(recipe) / MIXTURE_FILE),
            "adapter": str(storage.adapter(recipe, version)),
            "report": str(storage.evaluation(recipe, version) / "report.md"),
            "champion": str(storage.release(recipe) / Champion.FILE),
        },
    }


def print_summary(summary: dict[str, Any]) -> None:
    """Draw the summary on standard output."""
    console = Console(highlight=False)
    evaluation = summary["evaluation"]
    title = escape(f"{summary['config']} / {summary['recipe']}: base → adapter")
    table = Table(title=title, title_justify="left")
    for name in ("source", "train", "eval"):
        table.add_column(name, justify="left" if name == "source" else "right")
    table.add_column("loss", justify="right")
    table.add_column("perplexity", justify="right")
    for source, quota in summary["sources"].items():
        own = evaluation.get("per_source", {}).get(source)
        table.add_row(source, str(quota["train"]), str(quota["eval"]), *_change(own))
    table.add_section()
    train, held_out = (
        sum(quota[side] for quota in summary["sources"].values()) for side in ("train", "eval")
    )
    table.add_row("all", str(train), str(held_out), *_change(evaluation), style="bold")
    console.print()
    console.print(table)
    low, high = evaluation["delta_loss_ci95"]
    change = evaluation["perplexity"] / evaluation["base_perplexity"] - 1
    console.print(
        f"held-out perplexity {change:+.1%}; loss {evaluation['delta_loss']:+.3f} nats per token "
        f"(95 % interval {low:+.3f} to {high:+.3f})"
    )
    outcome = "released" if summary["released"] else "not released"
    console.print(f"{outcome}: {'; '.join(summary['reasons'])}", soft_wrap=True, markup=False)
    if "lora_adapter" in summary["unchanged"]:
        console.print("unchanged, nothing done again: " + ", ".join(summary["unchanged"]))
    for name, path in summary["paths"].items():
        console.print(f"  {name:<9}{_from_project(path)}", soft_wrap=True, markup=False)
    console.print(
        f"{summary['seconds']:.0f} s. Next: [bold]qwenft ui[/] shows the lineage; talk to it with "
        '[bold]qwenft chat[/] or [bold]qwenft infer "What does a low-dropout regulator do?"[/]',
        soft_wrap=True,
    )


def _change(figures: dict[str, Any] | None) -> tuple[str, str]:
    if not figures:
        return "-", "-"
    return (
        f"{figures['base_eval_loss']:.3f} → {figures['eval_loss']:.3f}",
        f"{figures['base_perplexity']:.2f} → {figures['perplexity']:.2f}",
    )


def _from_project(path: str) -> str:
    return path.removeprefix(f"{PROJECT_ROOT}/")
