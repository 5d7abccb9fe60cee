"""`qwenft verify`: whether a published copy is what its manifest says."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from qwenft_assets.cli.options import JsonOption


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
