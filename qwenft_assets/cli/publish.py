"""`qwenft publish`: what would go where, and with --no-dry-run, sending it; `qwenft verify`: is a copy whole?"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
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
from qwenft_assets.config import TARGET_NAMES, ContentName, TargetName
from qwenft_assets.errors import ConfigError
from qwenft_assets.progress import progress_bar

if TYPE_CHECKING:
    from qwenft_assets.publishing.publish import Publication


def publish(
    target: Annotated[TargetName | None, typer.Option("--target", help="Which way out.")] = None,
    content: Annotated[
        ContentName | None,
        typer.Option("--content", help="Else the adapter, or the code for code-only."),
    ] = None,
    version: Annotated[
        str | None,
        typer.Option("--version", help="Of the adapter, or `latest`. Else the champion."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", help="owner/name, folder or git URL, in place of the config's."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run/--no-dry-run", help="Only say what would go where.")
    ] = True,
    recipe: RecipeOption = "small",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Share a released adapter; says what would go where, and sends it with `--no-dry-run`.

    Everything is scanned first: secrets, private rows, paths of this machine and e-mail addresses
    stop it. Tokens come from HF_TOKEN and GITHUB_TOKEN. The same command again completes what was
    left half done.

    Examples: `qwenft publish --target folder --to ../copies`, `qwenft publish --target hub --to
    me/my-adapter --no-dry-run`, `qwenft publish --target github-release --content merged`
    """
    settings = load(config)
    way = target or settings.publishing.target
    if way is None:
        raise ConfigError(f"--target is missing. Give one of: {', '.join(TARGET_NAMES)}.")
    name = recipe_named(settings, recipe)

    from qwenft_assets.publishing.publish import prepare

    with progress_bar("preparing") as report_progress:
        publication = prepare(
            settings,
            name,
            way,
            storage_of(settings),
            content=content,
            version=version,
            where=to,
            report_progress=report_progress,
        )
    plan: dict[str, Any] = {**publication.as_json(), "dry_run": dry_run}
    if not as_json:
        _print_plan(publication, plan)
    if not dry_run:
        with progress_bar("sending") as report_progress:
            outcome = publication.publish(report_progress)
        plan |= {"published": outcome.where, "unchanged": outcome.unchanged}
    if as_json:
        print(json.dumps(plan, ensure_ascii=False, indent=2))
    else:
        _print_outcome(plan)


def _print_plan(publication: "Publication", plan: dict[str, Any]) -> None:
    console = Console(highlight=False)
    released = "" if plan["released"] else ", not the champion"
    console.print(
        f"{plan['content']} {plan['version']}{released} → {plan['where']}",
        soft_wrap=True, markup=False, style="bold",
    )  # fmt: skip
    table = Table()
    table.add_column("file")
    table.add_column("size", justify="right")
    table.add_column("goes as")
    for file in plan["files"]:
        table.add_row(escape(file["path"]), decimal(file["bytes"]), file["as"])
    table.add_section()
    table.add_row(f"{len(plan['files'])} files", decimal(plan["bytes"]), "", style="bold")
    console.print(table)
    if plan["private_train_rows"] and publication.bundle.content in {"adapter", "merged", "gguf"}:
        console.print(
            f"{plan['private_train_rows']} private rows were trained on. None of them is in these "
            "files, but a model can repeat what it was trained on.",
            soft_wrap=True,
        )
    console.print(f"made ready and scanned in {plan['folder']}", soft_wrap=True, markup=False)


def _print_outcome(plan: dict[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True, markup=False)
    if plan["dry_run"]:
        console.print("dry run: nothing was sent. Send it with --no-dry-run.")
    elif plan["unchanged"]:
        console.print(f"unchanged: {plan['published']} holds exactly these files already")
    else:
        console.print(f"published: {plan['published']}")


def verify(
    path: Annotated[Path, typer.Argument(help="The folder of a copy, or its manifest.json.")],
    as_json: JsonOption = False,
) -> None:
    """Check every file of a published copy against its manifest; names the first that differs.

    Example: `qwenft verify ~/Downloads/adapter-small-e8455ba9454f71a9`
    """
    from qwenft_assets.publishing.manifest import verify_copy

    verified = verify_copy(path)
    manifest, files = verified.manifest, len(verified.manifest.files)
    if as_json:
        found = {
            "verified_files": files,
            "unlisted": list(verified.unlisted),
            "manifest": manifest.as_json(),
        }
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return
    console = Console(highlight=False, soft_wrap=True, markup=False)
    is_code = manifest.content == "code"
    origin = "commit" if is_code else f"{manifest.base_model} at"
    commit = manifest.code_commit if is_code else manifest.base_revision
    console.print(f"ok: {files} files of {manifest.content} {manifest.version} ({origin} {commit})")
    for name in verified.unlisted:
        console.print(f"  not in the manifest: {name}")
