"""Reading a file of `configs/`: YAML and environment in, `Config` out."""

import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from qwenft_assets.config import Config, own_or_shipped, shipped
from qwenft_assets.errors import ConfigError

DEFAULT_CONFIG_PATH = shipped("configs/demo.yaml")


def config_path_from_environment() -> Path:
    """The file that `QWENFT_CONFIG` names, else the demo's."""
    return Path(os.environ.get("QWENFT_CONFIG") or DEFAULT_CONFIG_PATH)


def load_config(path: Path | str | None = None) -> Config:
    """Read a config file; `QWENFT_STORAGE`, `QWENFT_STAGE` and `QWENFT_SOURCES_ORIGIN` win.

    Args:
        path: YAML file; a relative one is looked for here, then in the project's root. None:
            `QWENFT_CONFIG`, else `configs/demo.yaml`.

    Raises:
        ConfigError: There is no such file, it is no YAML mapping, or a key or value is wrong.
    """
    given = Path(path) if path is not None else config_path_from_environment()
    file = given if given.exists() else own_or_shipped(given)
    try:
        settings: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{given}: cannot be read (byte {error.start} is not UTF-8). Save it as UTF-8."
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{given}: cannot be read ({error.strerror}). Give --config a file, such as "
            "configs/demo.yaml."
        ) from error
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"{given}: not YAML: {problem}. Fix that line.") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{given}: must be a mapping of settings. Compare configs/demo.yaml.")
    settings.setdefault("name", file.stem)
    for name, key in (("QWENFT_STORAGE", "storage_root"), ("QWENFT_STAGE", "stage_root")):
        if root := os.environ.get(name):
            settings[key] = root
    origin = os.environ.get("QWENFT_SOURCES_ORIGIN")
    sources = settings.get("sources") or {}
    if origin and isinstance(sources, dict):
        settings["sources"] = {**sources, "origin": origin}
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(f"{given}: {_first_problem(error)}") from error


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "settings"
    more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"unknown key `{key}`{more}. Remove it or check its spelling and indentation."
    message = first["msg"].removeprefix("Value error, ")
    return f"`{key}`: {message}{more}. Correct that value."
