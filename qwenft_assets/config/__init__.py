"""Every setting, in flow order: sources to publishing, then inference and automation.

The defaults are the original recipe (Qwen2.5-7B-Instruct, QLoRA, 2 rows x 4). A file in `configs/`
names what differs; an unknown key is an error.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from qwenft_assets.config.automation import (
    AutomationConfig,
)
from qwenft_assets.config.decoding import (
    DecodingConfig,
)
from qwenft_assets.config.evaluation import (
    EvaluationConfig,
)
from qwenft_assets.config.launcher import (
    LauncherConfig,
)
from qwenft_assets.config.mixture import (
    MinHashConfig,
    MixtureConfig,
    NearDuplicatesConfig,
    Recipe,
    SimilarQuestionsConfig,
)
from qwenft_assets.config.places import (
    PROJECT_ROOT,
    own_or_shipped,
    shipped,
    stage_folder,
)
from qwenft_assets.config.release import (
    PublishingConfig,
    ReleaseConfig,
)
from qwenft_assets.config.section import (
    RECIPE_NAMES,
    REMOTE_SCHEMES,
    TARGET_NAMES,
    ContentName,
    RecipeName,
    Section,
    TargetName,
)
from qwenft_assets.config.sources import (
    SOURCE_NAMES,
    HubSource,
    KeywordRules,
    LocalReportsSource,
    PubMedQaSource,
    Source,
    SourceName,
    SourcesConfig,
    StackExchangeSource,
)
from qwenft_assets.config.training import (
    LoraConfig,
    TrainingConfig,
)

__all__ = [
    "PROJECT_ROOT",
    "RECIPE_NAMES",
    "REMOTE_SCHEMES",
    "SOURCE_NAMES",
    "TARGET_NAMES",
    "AutomationConfig",
    "Config",
    "ContentName",
    "DecodingConfig",
    "EvaluationConfig",
    "HubSource",
    "KeywordRules",
    "LauncherConfig",
    "LocalReportsSource",
    "LoraConfig",
    "MinHashConfig",
    "MixtureConfig",
    "NearDuplicatesConfig",
    "PubMedQaSource",
    "PublishingConfig",
    "Recipe",
    "RecipeName",
    "ReleaseConfig",
    "Section",
    "SimilarQuestionsConfig",
    "Source",
    "SourceName",
    "SourcesConfig",
    "StackExchangeSource",
    "TargetName",
    "TrainingConfig",
    "own_or_shipped",
    "shipped",
    "stage_folder",
]


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
