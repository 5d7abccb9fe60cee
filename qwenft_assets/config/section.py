"""What all sections of the config share: strictness, and the names of recipes and targets."""

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

RecipeName = Literal["small", "large"]
TargetName = Literal["code-only", "git-lfs", "hub", "github-release", "folder"]
ContentName = Literal["adapter", "merged", "gguf", "dataset", "code"]
RECIPE_NAMES: tuple[RecipeName, ...] = get_args(RecipeName)
TARGET_NAMES: tuple[TargetName, ...] = get_args(TargetName)
REMOTE_SCHEMES = ("s3", "gs", "memory")
"""URL schemes of storage roots that are not folders."""


class Section(BaseModel):
    """A group of settings: frozen, and a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
