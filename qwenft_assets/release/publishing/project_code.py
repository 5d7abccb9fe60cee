"""The project itself at its last commit, without weights, data of its runs, or private rows."""

import tarfile
from pathlib import Path

from qwenft_assets.config import PROJECT_ROOT, Config
from qwenft_assets.errors import PublishingError
from qwenft_assets.release.publishing.git_command import run_git
from qwenft_assets.rows import is_private

WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".ckpt")
EXECUTABLE = "100755"
"""As git writes the mode."""


def write_code(config: Config, folder: Path, project: Path = PROJECT_ROOT) -> str:
    """Export the files of HEAD; what is not committed stays.

    The file of the user's own reports is left out while its licence is private.

    Returns:
        The commit.

    Raises:
        PublishingError: The project is no git repository, or holds weights.
    """
    commit = run_git(project, "rev-parse", "HEAD").strip()
    archive = folder / ".head.tar"
    run_git(project, "archive", "--format=tar", f"--output={archive}", "HEAD")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    archive.unlink()
    reports = config.sources.local_reports
    own = (project / Path(reports.path).expanduser()).resolve()
    if is_private(reports.license) and own.is_relative_to(project.resolve()):
        (folder / own.relative_to(project.resolve())).unlink(missing_ok=True)
    weights = [path for path in folder.rglob("*") if path.suffix in WEIGHTS]
    if weights:
        raise PublishingError(
            f"{weights[0].relative_to(folder)}: weights are committed in {project}. `code-only` "
            "publishes none: remove them from git, or use another target."
        )
    return commit


def restore_modes(folder: Path, project: Path = PROJECT_ROOT) -> None:
    """Make executable again what is executable in HEAD."""
    for line in run_git(project, "ls-tree", "-r", "HEAD").splitlines():
        described, _, path = line.partition("\t")
        if described.startswith(EXECUTABLE) and (folder / path).is_file():
            (folder / path).chmod(0o755)
