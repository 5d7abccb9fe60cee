"""The ways out. None of them asks anybody before `publish` is called."""

import re
from pathlib import Path

from qwenft_assets.config import PROJECT_ROOT, Config, ContentName, TargetName
from qwenft_assets.errors import PublishingError
from qwenft_assets.publishing.targets.folder import FolderTarget
from qwenft_assets.publishing.targets.git import GitTarget
from qwenft_assets.publishing.targets.github import GitHubTarget
from qwenft_assets.publishing.targets.hub import HubTarget
from qwenft_assets.publishing.targets.target import Outcome, Target

__all__ = ["Outcome", "Target", "make_target"]

OWNER_AND_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def make_target(
    name: TargetName, config: Config, content: ContentName, where: str | None = None
) -> Target:
    """A target as the config, or `where` in its place, says.

    Raises:
        PublishingError: Nothing says where, or content and target do not go together.
    """
    if (name == "code-only") != (content == "code"):
        raise PublishingError(
            f"--target {name}: carries {'the code' if name == 'code-only' else 'models and data'} "
            f"only, not {content}. Choose another --target or --content."
        )
    settings = config.publishing
    match name:
        case "folder":
            return FolderTarget(_folder(where, _said(where or settings.folder, "folder")))
        case "hub":
            key = "hub_dataset_repo" if content == "dataset" else "hub_repo"
            repo = _said(where or getattr(settings, key), key)
            return HubTarget(_repository(repo, key), settings.hub_private)
        case "github-release":
            repo = _said(where or settings.github_repo, "github_repo")
            return GitHubTarget(_repository(repo, "github_repo"))
        case "git-lfs" | "code-only":
            branch = settings.git_branch or ("main" if content == "code" else content)
            remote = _said(where or settings.git_remote, "git_remote")
            if "://" not in remote and not re.match(r"[\w.-]+@[\w.-]+:", remote):
                remote = _folder(where, remote).as_uri()  # as git-lfs understands it
            return GitTarget(remote, branch, use_lfs=name == "git-lfs")


def _said(value: str | None, key: str) -> str:
    if not value:
        raise PublishingError(f"nothing says where to. Set publishing.{key}, or give --to.")
    return value


def _repository(value: str, key: str) -> str:
    if not OWNER_AND_NAME.fullmatch(value):
        raise PublishingError(
            f"publishing.{key} (or --to): {value!r} is not owner/name. Write it so."
        )
    return value


def _folder(where: str | None, path: str) -> Path:
    """A path: of the command line from here, of the config from the project's root."""
    return ((Path.cwd() if where else PROJECT_ROOT) / Path(path).expanduser()).resolve()
