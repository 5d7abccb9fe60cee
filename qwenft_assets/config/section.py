"""What all sections of the config share: strictness, and the names of sources, recipes and targets."""

from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

PROJECT_ROOT = Path(__file__).resolve().parent.parent.parent

SourceName = Literal[
    "local_reports",
    "slimorca",
    "pubmedqa",
    "stackexchange_ai",
    "stackexchange_ic",
    "stackexchange_biomed",
]
RecipeName = Literal["small", "large"]
TargetName = Literal["code-only", "git-lfs", "hub", "github-release", "folder"]
ContentName = Literal["adapter", "merged", "gguf", "dataset", "code"]
SOURCE_NAMES: tuple[SourceName, ...] = get_args(SourceName)
RECIPE_NAMES: tuple[RecipeName, ...] = get_args(RecipeName)
TARGET_NAMES: tuple[TargetName, ...] = get_args(TargetName)
REMOTE_SCHEMES = ("s3", "gs", "memory")
"""Of storage roots that are no folder."""


class Section(BaseModel):
    """A group of settings: frozen, and a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
