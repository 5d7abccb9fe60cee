"""`qwenft config`: the settings in effect, and what may be set."""

import json
from typing import Annotated, Any

import typer
import yaml

from qwenft_assets.cli.options import ConfigOption, JsonOption, load
from qwenft_assets.config import Config


def config(
    config: ConfigOption = None,
    reference: Annotated[
        bool, typer.Option("--reference", help="Every setting as Markdown: docs/configuration.md.")
    ] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="A JSON Schema of config files, for editors.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show every setting in effect: the file's, the environment's and the defaults.

    Where a value differs from the default, a comment says what that is.

    Examples: `qwenft config --config configs/qwen2.5-7b.yaml`, `qwenft config --schema >
    build/qwenft.schema.json`
    """
    from qwenft_assets.config.reference import render_reference

    if reference:
        print(render_reference(), end="")
    elif schema:
        print(json.dumps(Config.model_json_schema(), ensure_ascii=False, indent=2))
    else:
        settings = load(config)
        values = settings.model_dump(mode="json")
        defaults = Config(name=settings.name).model_dump(mode="json")
        print(
            json.dumps(values, ensure_ascii=False, indent=2) if as_json else _yaml(values, defaults)
        )


def _yaml(values: dict[str, Any], defaults: dict[str, Any], indent: str = "") -> str:
    """As a config file would say it; a comment says what the default is where it differs."""
    lines: list[str] = []
    for key, value in values.items():
        default = defaults.get(key)
        if isinstance(value, dict) and value:
            inner = _yaml(value, default if isinstance(default, dict) else {}, f"{indent}  ")
            lines += [f"{indent}{key}:", inner]
        else:
            mark = "" if value == default else f"  # default: {_flow(default)}"
            lines.append(f"{indent}{key}: {_flow(value)}{mark}")
    return "\n".join(lines)


def _flow(value: Any) -> str:
    text = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000
    )
    return text.removesuffix("\n").removesuffix("\n...")
