"""Every setting, in flow order: sources to publishing, then inference and automation.

The defaults are the original recipe (Qwen2.5-7B-Instruct, QLoRA, 2 rows x 4). A file in `configs/`
names what differs; an unknown key is an error.
"""

from qwenft_assets.config.automation import AutomationConfig
from qwenft_assets.config.file import (
    DEFAULT_CONFIG_PATH,
    Config,
    config_path_from_environment,
    load_config,
)
from qwenft_assets.config.mixture import (
    MinHashConfig,
    MixtureConfig,
    NearDuplicatesConfig,
    Recipe,
    SimilarQuestionsConfig,
)
from qwenft_assets.config.places import PROJECT_ROOT, own_or_shipped, shipped, stage_folder
from qwenft_assets.config.release import (
    DecodingConfig,
    EvaluationConfig,
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
from qwenft_assets.config.training import LauncherConfig, LoraConfig, TrainingConfig

__all__ = [
    "DEFAULT_CONFIG_PATH",
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
    "config_path_from_environment",
    "load_config",
    "own_or_shipped",
    "shipped",
    "stage_folder",
]
