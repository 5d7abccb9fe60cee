"""A config file: every setting of one deployment, and how its YAML and the environment are read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import Field, ValidationError, field_validator

from qwenft_assets.config.automation import AutomationConfig
from qwenft_assets.config.mixture import MixtureConfig
from qwenft_assets.config.places import PROJECT_ROOT, own_or_shipped, shipped, stage_folder
from qwenft_assets.config.release import (
    DecodingConfig,
    EvaluationConfig,
    PublishingConfig,
    ReleaseConfig,
)
from qwenft_assets.config.section import REMOTE_SCHEMES, Section
from qwenft_assets.config.sources import SourcesConfig
from qwenft_assets.config.training import LauncherConfig, TrainingConfig
from qwenft_assets.errors import ConfigError

DEFAULT_CONFIG_PATH = shipped("configs/demo.yaml")


class Config(Section):
    """One config is one deployment: its base model, its champion, its history."""

    name: str = Field(description="The file's name; also the default folder below data/out.")
    storage_root: str | None = Field(
        default=None,
        description="Where artifacts live: a folder, or s3://bucket/path, gs://bucket/path, memory://"
        "name. null: data/out/<name>.",
    )
    stage_root: str | None = Field(
        default=None,
        description="This machine's copy of a remote storage_root, with caches and checkpoints, which "
        "are not shared. null: data/stage/<hash of its URL>.",
    )
    keep_versions: int | None = Field(
        default=None,
        ge=1,
        description="Adapters of a recipe to keep, newest first; the champion, the one before it and "
        "the last one trained stay in any case. null: all.",
    )
    sources: SourcesConfig = SourcesConfig()
    mixture: MixtureConfig = MixtureConfig()
    launcher: LauncherConfig = LauncherConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    release: ReleaseConfig = ReleaseConfig()
    publishing: PublishingConfig = PublishingConfig()
    decoding: DecodingConfig = DecodingConfig()
    automation: AutomationConfig = AutomationConfig()

    @field_validator("storage_root")
    @classmethod
    def _known_scheme(cls, root: str | None) -> str | None:
        scheme, is_url, place = (root or "").partition("://")
        if is_url and (scheme not in REMOTE_SCHEMES or not place.strip("/")):
            known = ", ".join(f"{name}://" for name in REMOTE_SCHEMES)
            raise ValueError(f"{root} is neither a folder nor one of {known} with a bucket")
        return root.rstrip("/") if root and is_url else root

    def storage_url(self) -> str | None:
        """The storage root where it is remote; None where it is a folder."""
        return self.storage_root if self.storage_root and "://" in self.storage_root else None

    def storage_path(self) -> Path:
        """The folder that steps work in; a relative one is read from the project's root.

        It is the storage root, or the stage of a remote one.
        """
        if url := self.storage_url():
            return stage_folder(url, self.stage_root)
        folder = self.storage_root or f"data/out/{self.name}"
        return PROJECT_ROOT / Path(folder).expanduser()


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
        loaded: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
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
    if not isinstance(loaded, dict):
        raise ConfigError(f"{given}: must be a mapping of settings. Compare configs/demo.yaml.")
    settings = cast("dict[str, Any]", loaded)
    settings.setdefault("name", file.stem)
    for name, key in (("QWENFT_STORAGE", "storage_root"), ("QWENFT_STAGE", "stage_root")):
        if root := os.environ.get(name):
            settings[key] = root
    origin = os.environ.get("QWENFT_SOURCES_ORIGIN")
    sources: Any = settings.get("sources") or {}
    if origin and isinstance(sources, dict):
        settings["sources"] = {**cast("dict[str, Any]", sources), "origin": origin}
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
