"""The project itself at its last commit, without weights, data of its runs, or private rows.

Beside what is committed come the files that a repository of its own needs, where there are none:
`.gitattributes`, so that weights added later go to Git LFS, a line of `.gitignore` for the private
rows, so that nobody adds theirs by mistake, and `requirements.txt`.
"""

import tarfile
from pathlib import Path

from qwenft_assets.config import PROJECT_ROOT, Config
from qwenft_assets.errors import PublishingError
from qwenft_assets.publishing.git_repository import (
    ATTRIBUTES_FILE,
    IGNORED_FILE,
    REQUIREMENTS_FILE,
    WEIGHTS_PATTERNS,
    render_attributes,
    run_git,
)
from qwenft_assets.rows import is_private
from qwenft_assets.storage.files import write_text

REQUIREMENTS = """\
# The project, with the versions that were tested together: pip install -r requirements.txt
--constraint constraints.txt
--editable .
"""
EXECUTABLE = "100755"
"""File mode as git writes it."""


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
    _leave_private_rows_out(config, folder, project)
    weights = [path for pattern in WEIGHTS_PATTERNS for path in folder.rglob(pattern)]
    if weights:
        raise PublishingError(
            f"{weights[0].relative_to(folder)}: weights are committed in {project}. `code-only` "
            "publishes none: remove them from git, or use another target."
        )
    if not (folder / ATTRIBUTES_FILE).exists():
        write_text(folder / ATTRIBUTES_FILE, render_attributes(WEIGHTS_PATTERNS))
    if not (folder / REQUIREMENTS_FILE).exists():
        write_text(folder / REQUIREMENTS_FILE, REQUIREMENTS)
    return commit


def _leave_private_rows_out(config: Config, folder: Path, project: Path) -> None:
    reports = config.sources.local_reports
    own = (project / Path(reports.path).expanduser()).resolve()
    if not is_private(reports.license) or not own.is_relative_to(project.resolve()):
        return
    path = own.relative_to(project.resolve())
    (folder / path).unlink(missing_ok=True)
    ignored = folder / IGNORED_FILE
    patterns = ignored.read_text(encoding="utf-8") if ignored.exists() else ""
    write_text(ignored, f"{patterns}# private rows\n/{path.as_posix()}\n")


def restore_modes(folder: Path, project: Path = PROJECT_ROOT) -> None:
    """Make executable again what is executable in HEAD."""
    for line in run_git(project, "ls-tree", "-r", "HEAD").splitlines():
        described, _, path = line.partition("\t")
        if described.startswith(EXECUTABLE) and (folder / path).is_file():
            (folder / path).chmod(0o755)
