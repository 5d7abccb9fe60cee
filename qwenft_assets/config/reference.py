"""All settings as one Markdown page, made from the models themselves: docs/configuration.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from inspect import cleandoc
from typing import Any, cast

import yaml

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


def render_reference() -> str:
    """The page; the same text for the same models."""
    schema = Config.model_json_schema()
    return "\n".join([HEAD, *_sections(schema), ""])


def _sections(schema: Schema) -> Iterator[str]:
    """Every section in flow order; those that are alike share a table."""
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
    """As it is shown inside a cell of a table."""
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
        entries = cast("dict[str, Any]", value)
        plain = {key: _plain(entry) for key, entry in entries.items()}
        return "<br>".join(f"`{key}: {_flow(entry)}`" for key, entry in plain.items()) or "`{}`"
    return f"`{_flow(_plain(value))}`"


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return value.model_dump(mode="json")
    return list(cast("tuple[Any, ...]", value)) if isinstance(value, tuple) else value


def _flow(value: Any) -> str:
    """As it would stand in the file, on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")


def _type(prop: Schema, schema: Schema) -> str:
    """What may stand there, in words."""
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
