"""Options that several commands share."""

import os
import shutil
from pathlib import Path
from typing import Annotated

import typer

from qwenft_assets.config import (
    PROJECT_ROOT,
    RECIPE_NAMES,
    Config,
    RecipeName,
    load_config,
    shipped,
)
from qwenft_assets.errors import ConfigError
from qwenft_assets.storage.root import Storage

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", help="A file of configs/. Else QWENFT_CONFIG, else configs/demo.yaml."
    ),
]
RecipeOption = Annotated[
    str,
    typer.Option("--recipe", help="`small` or `large`.", autocompletion=lambda: list(RECIPE_NAMES)),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]
AdapterOption = Annotated[
    str | None,
    typer.Option(
        "--adapter",
        help="A version, `champion`, `latest`, or `none` for the base. Else the champion.",
        autocompletion=lambda: ["champion", "latest", "none"],
    ),
]


def load(config_path: Path | None) -> Config:
    """The config that the option, or the environment, names; child processes read the same."""
    if config_path is not None:
        os.environ["QWENFT_CONFIG"] = str(
            config_path.resolve() if config_path.exists() else config_path
        )
    return load_config()


def storage_of(config: Config) -> Storage:
    """The config's storage root."""
    return Storage(config.storage_path(), config.storage_url())


def recipe_named(config: Config, name: str) -> RecipeName:
    """A recipe of the config.

    Raises:
        ConfigError: It has none of that name.
    """
    for recipe in config.mixture.recipes:
        if recipe == name:
            return recipe
    raise ConfigError(
        f"--recipe {name}: not in config {config.name}. Use one of: "
        f"{', '.join(config.mixture.recipes)}."
    )


def use_dagster_home() -> Path:
    """Keep runs in `dagster_home/` unless DAGSTER_HOME says otherwise, so that the UI shows them."""
    if "DAGSTER_HOME" not in os.environ:
        own = PROJECT_ROOT / "dagster_home"
        if not (own / "dagster.yaml").exists():  # an installed wheel's first run in this folder
            own.mkdir(parents=True, exist_ok=True)
            shutil.copy(shipped("dagster_home/dagster.yaml"), own)
        os.environ["DAGSTER_HOME"] = str(own)
    home = Path(os.environ["DAGSTER_HOME"])
    if not home.is_dir():
        raise ConfigError(f"DAGSTER_HOME={home}: no such folder. Create it, or unset DAGSTER_HOME.")
    return home
