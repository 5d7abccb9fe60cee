"""Every setting, in flow order: sources to publishing, then inference and automation.

The defaults are the original recipe (Qwen2.5-7B-Instruct, QLoRA, 2 rows x 4). A file in `configs/`
names what differs; an unknown key is an error.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

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
from qwenft_assets.config.release import (
    PublishingConfig,
    ReleaseConfig,
)
from qwenft_assets.config.section import (
    PROJECT_ROOT,
    RECIPE_NAMES,
    SOURCE_NAMES,
    TARGET_NAMES,
    ContentName,
    RecipeName,
    Section,
    SourceName,
    TargetName,
)
from qwenft_assets.config.sources import (
    HubSource,
    KeywordRules,
    LocalReportsSource,
    PubMedQaSource,
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
    "SourceName",
    "SourcesConfig",
    "StackExchangeSource",
    "TargetName",
    "TrainingConfig",
]


class Config(Section):
    """One config is one deployment: its base model, its champion, its history."""

    name: str = Field(description="The file's name; also the default folder below data/out.")
    storage_root: str | None = Field(default=None, description="null: data/out/<name>.")
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

    def storage_path(self) -> Path:
        """The storage root; a relative one is read from the project's root."""
        return PROJECT_ROOT / Path(self.storage_root or f"data/out/{self.name}").expanduser()
