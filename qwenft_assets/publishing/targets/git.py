"""A copy as one commit on a branch of a git repository, weights by Git LFS."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from qwenft_assets.errors import PublishingError
from qwenft_assets.progress import ReportProgress
from qwenft_assets.publishing.bundle import Bundle
from qwenft_assets.publishing.git_repository import (
    MAX_PLAIN_BYTES,
    run_git,
    without_secret,
    write_repository_files,
)
from qwenft_assets.publishing.targets.target import Outcome, PlannedFile
from qwenft_assets.records import MANIFEST_FILE


@dataclass(frozen=True)
class GitTarget:
    """A branch of a repository that holds nothing but published copies."""

    remote: str
    branch: str
    use_lfs: bool

    def describe(self, bundle: Bundle) -> str:  # noqa: ARG002
        """The repository and its branch."""
        return f"branch {self.branch} of {without_secret(self.remote)}"

    def plan(self, bundle: Bundle) -> list[PlannedFile]:
        """Through Git LFS or as plain files, as git itself reads the attributes."""
        if not self.use_lfs:
            return [PlannedFile(path, size, "git") for path, size in bundle.files.items()]
        with tempfile.TemporaryDirectory(prefix="qwenft-") as folder:
            repository = _Repository(Path(folder))
            repository.git("init", "--quiet")
            own = write_repository_files(Path(folder))
            sizes = {file.name: file.stat().st_size for file in own} | bundle.files
            by_lfs = repository.lfs_paths(list(sizes))
        return [
            PlannedFile(path, size, "git lfs" if path in by_lfs else "git")
            for path, size in sizes.items()
        ]

    def publish(self, bundle: Bundle, report_progress: ReportProgress) -> Outcome:
        """Commit and push, or find that the branch holds exactly these files.

        The push is one step: before it, nobody sees anything of the copy.

        Raises:
            PublishingError: git or git-lfs is missing, the branch holds something else, a file is
                too large, or the push failed.
        """
        where = f"{without_secret(self.remote)}#{self.branch}"
        if self.use_lfs and shutil.which("git-lfs") is None:
            raise PublishingError(
                "git-lfs is not installed. `apt-get install git-lfs`, or see https://git-lfs.com."
            )
        with tempfile.TemporaryDirectory(prefix="qwenft-") as folder:
            repository = _Repository(Path(folder))
            report_progress(0, 3, f"fetching {self.branch}")
            self._check_out(repository)
            report_progress(1, 3, "committing")
            repository.replace_files(bundle, use_lfs=self.use_lfs)
            if not repository.git("status", "--porcelain").strip():
                return Outcome(where, unchanged=True)
            manifest = bundle.manifest
            message = f"{bundle.name}\n\nAdapter {manifest.version} of {manifest.base_model}."
            repository.git("commit", "--quiet", "--message", message)
            report_progress(2, 3, "pushing")
            repository.git("push", "--quiet", "origin", f"HEAD:refs/heads/{self.branch}")
            report_progress(3, 3)
        return Outcome(where, unchanged=False)

    def _check_out(self, repository: "_Repository") -> None:
        repository.git("init", "--quiet", f"--initial-branch={self.branch}")
        repository.name_author()
        repository.git("remote", "add", "origin", self.remote)
        if self.use_lfs:
            repository.git("lfs", "install", "--local")
        heads = repository.git("ls-remote", "--heads", "origin", f"refs/heads/{self.branch}")
        if not heads.strip():
            return
        repository.git("fetch", "--quiet", "--depth=1", "origin", f"refs/heads/{self.branch}")
        repository.git("reset", "--quiet", "--hard", "FETCH_HEAD")
        if not (repository.folder / MANIFEST_FILE).is_file():
            raise PublishingError(
                f"branch {self.branch} of {without_secret(self.remote)} holds something else than a "
                "published copy. Set publishing.git_branch to another one; it need not exist."
            )


@dataclass(frozen=True)
class _Repository:
    """A temporary checkout."""

    folder: Path

    def git(self, *arguments: str, text: str | None = None) -> str:
        return run_git(self.folder, *arguments, text=text)

    def name_author(self) -> None:
        """Take the user's own name where git knows one."""
        if not self.git("config", "--default", "", "user.email").strip():
            self.git("config", "user.name", "qwenft")
            self.git("config", "user.email", "qwenft@localhost")

    def replace_files(self, bundle: Bundle, *, use_lfs: bool) -> None:
        """Make the checkout hold exactly the bundle, and stage it."""
        for path in self.folder.iterdir():
            if path.name != ".git":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in bundle.files:
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(bundle.folder / path, self.folder / path)
        if use_lfs:
            write_repository_files(self.folder)
        by_lfs = self.lfs_paths(list(bundle.files)) if use_lfs else set[str]()
        for path, size in bundle.files.items():
            if size > MAX_PLAIN_BYTES and path not in by_lfs:
                raise PublishingError(
                    f"{path}: {size / 2**20:.0f} MiB and not in Git LFS; git hosts refuse files above "
                    f"{MAX_PLAIN_BYTES // 2**20} MiB. Use --target git-lfs, or leave it out."
                )
        self.git("add", "--all", "--force", ".")

    def lfs_paths(self, paths: list[str]) -> set[str]:
        """Those that `.gitattributes` hands to Git LFS."""
        lines = self.git("check-attr", "-z", "--stdin", "filter", text="\0".join(paths) + "\0")
        fields = lines.split("\0")
        return {fields[n] for n in range(0, len(fields) - 2, 3) if fields[n + 2] == "lfs"}
