"""`qwenft config`: the settings in effect, and every setting as the page docs/configuration.md."""

import json
from collections.abc import Iterator, Mapping, Sequence
from inspect import cleandoc
from typing import Annotated, Any

import typer
import yaml

from qwenft_assets.cli.options import ConfigOption, JsonOption, load
from qwenft_assets.config import Config, Section

Schema = Mapping[str, Any]
HEAD = """\
# Settings

<!-- Made by `make docs` from qwenft_assets/config/; a test fails when it is out of date. -->

A file of `configs/` names what differs from these defaults, which are the original recipe; an unknown
key is an error. `qwenft config` shows the settings in effect, `qwenft config --schema` is a JSON Schema
with which an editor completes and checks such a file.

Environment variables win over the file:

| variable | sets |
|---|---|
| `QWENFT_CONFIG` | the file itself, where `--config` is not given; else `configs/demo.yaml` |
| `QWENFT_STORAGE` | `storage_root` |
| `QWENFT_SOURCES_ORIGIN` | `sources.origin` |
"""
BOUNDS = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
TYPE_WORDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "`true` or `false`",
    "null": "`null`",
}


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
    """Lines of a config file; a comment gives the default of each value that differs from it."""
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
    """The value as one line of YAML."""
    text = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000
    )
    return text.removesuffix("\n").removesuffix("\n...")


def render_reference() -> str:
    """All settings as one Markdown page, made from their models: docs/configuration.md."""
    schema = Config.model_json_schema()
    return "\n".join([HEAD, *_sections(schema), ""])


def _sections(schema: Schema) -> Iterator[str]:
    """Every section in flow order; sections with the same settings share a table."""
    merged: dict[str, list[str]] = {}
    for path, section in _walk("", Config):
        merged.setdefault("\n".join(_section(path, section, schema)), []).append(path)
    for body, paths in merged.items():
        heading = ", ".join(f"`{path}`" for path in paths if path)
        yield f"{'#' * (2 + paths[0].count('.'))} {heading or 'The file'}\n"
        yield body


def _walk(path: str, section: type[Section]) -> Iterator[tuple[str, type[Section]]]:
    yield path, section
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _walk(f"{path}.{name}".lstrip("."), field.annotation)


def _section(path: str, section: type[Section], schema: Schema) -> Iterator[str]:
    properties = _properties(section, schema)
    rows = [
        f"| `{name}` | {_default(section, name)} | {_type(properties[name], schema)} | "
        f"{_escaped(field.description or '')} |"
        for name, field in section.model_fields.items()
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, Section))
    ]
    if path:
        yield f"{cleandoc(section.__doc__ or '')}\n"
    if rows:
        yield "| key | default | value | what it does |"
        yield "|---|---|---|---|"
        yield from rows
        yield ""


def _escaped(text: str) -> str:
    """Text for one cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def _properties(section: type[Section], schema: Schema) -> Schema:
    if section is Config:
        return schema["properties"]
    return schema["$defs"][section.__name__]["properties"]


def _default(section: type[Section], name: str) -> str:
    field = section.model_fields[name]
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, dict):
        plain = {key: _plain(entry) for key, entry in value.items()}
        return "<br>".join(f"`{key}: {_flow(entry)}`" for key, entry in plain.items()) or "`{}`"
    return f"`{_flow(_plain(value))}`"


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return value.model_dump(mode="json")
    return list(value) if isinstance(value, tuple) else value


def _type(prop: Schema, schema: Schema) -> str:
    """The type of a setting, in words."""
    if "$ref" in prop:
        return _reference(str(prop["$ref"]), schema)
    if "anyOf" in prop:
        return " or ".join(_type(option, schema) for option in prop["anyOf"])
    choices = _choices(prop)
    if choices:
        return " or ".join(f"`{choice}`" for choice in choices)
    kind = prop["type"]
    if kind == "array":
        return f"list of {_type(prop['items'], schema)}"
    if kind == "object":
        return f"mapping to {_type(prop['additionalProperties'], schema)}"
    bounds = [f"{sign} {_number(prop[key])}" for key, sign in BOUNDS.items() if key in prop]
    return " ".join([TYPE_WORDS[kind], " and ".join(bounds)]).rstrip()


def _number(value: float) -> str:
    return f"{int(value)}" if value == int(value) else f"{value:g}"


def _choices(prop: Schema) -> Sequence[str]:
    return [prop["const"]] if "const" in prop else prop.get("enum", ())


def _reference(ref: str, schema: Schema) -> str:
    """A section named inside a list or mapping: its keys with their types."""
    properties: Schema = schema["$defs"][ref.rsplit("/", 1)[1]]["properties"]
    keys = "; ".join(f"`{key}`, {_type(prop, schema)}" for key, prop in properties.items())
    return f"{{{keys}}}"
