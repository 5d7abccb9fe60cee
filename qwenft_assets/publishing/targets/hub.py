"""A copy in a repository of the Hugging Face Hub, as one commit."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from qwenft_assets.errors import PublishingError
from qwenft_assets.progress import ReportProgress
from qwenft_assets.publishing.bundle import Bundle
from qwenft_assets.publishing.git_repository import LFS_PATTERNS
from qwenft_assets.publishing.targets.target import Outcome, PlannedFile, ask_place
from qwenft_assets.records import MANIFEST_FILE

if TYPE_CHECKING:
    from huggingface_hub import HfApi

ADVICE = "Check HF_TOKEN (it needs the right to write), HF_ENDPOINT and the network."

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class HubTarget:
    """A model or dataset repository."""

    repo_id: str
    private: bool

    def describe(self, bundle: Bundle) -> str:
        """The repository, and what it is created as where it is not there."""
        seen = "private" if self.private else "public"
        return f"{_repo_type(bundle)} {self.repo_id} on the Hub ({seen} if it is created)"

    def plan(self, bundle: Bundle) -> list[PlannedFile]:
        """Every file, with LFS as the Hub's rules most likely decide."""
        return [
            PlannedFile(path, size, "lfs" if _matches_lfs(path) else "commit")
            for path, size in bundle.files.items()
        ]

    def publish(self, bundle: Bundle, report_progress: ReportProgress) -> Outcome:
        """Create the repository, upload what it lacks, commit all at once.

        A second call sends only what did not arrive: the Hub knows a large file by its hash, and the
        commit is one step. Files of an earlier version are removed in the same commit.

        Raises:
            PublishingError: The Hub said no, or went on failing.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()  # the caller draws one
        api, kind = HfApi(), _repo_type(bundle)
        total = sum(bundle.files.values())
        report_progress(0, total, self.repo_id)
        self._ask(
            lambda: api.create_repo(
                self.repo_id, repo_type=kind, private=self.private, exist_ok=True
            )
        )
        there = self._ask(lambda: api.list_repo_files(self.repo_id, repo_type=kind))
        stale = sorted(set(there) - set(bundle.files) - {".gitattributes"})
        if stale and MANIFEST_FILE not in there:
            raise PublishingError(
                f"{self.repo_id}: holds something else than a published copy ({stale[0]}). Name "
                "another repository, or empty it yourself."
            )
        before = self._head(api, kind)

        def send() -> Any:
            # New operations each time: the client marks those that it has used.
            additions = [CommitOperationAdd(path, bundle.folder / path) for path in bundle.files]
            done = 0
            for addition in additions:
                report_progress(done, total, addition.path_in_repo)
                # A large file that the Hub has is not sent again; small ones go with the commit.
                api.preupload_lfs_files(self.repo_id, [addition], repo_type=kind)
                done += bundle.files[addition.path_in_repo]
            return api.create_commit(
                self.repo_id,
                [*additions, *map(CommitOperationDelete, stale)],
                commit_message=bundle.name,
                repo_type=kind,
                parent_commit=self._head(api, kind),
            )

        commit = self._ask(send)
        report_progress(total, total)
        return Outcome(commit.commit_url, unchanged=commit.oid == before)

    def _head(self, api: "HfApi", kind: str) -> str | None:
        return self._ask(lambda: api.repo_info(self.repo_id, repo_type=kind).sha)

    def _ask(self, request: Callable[[], Answer]) -> Answer:
        from huggingface_hub.errors import HFValidationError

        try:
            return ask_place(f"{self.repo_id} on the Hub", request, ADVICE)
        except (HFValidationError, ValueError) as error:
            problem = " ".join(str(error).split())[:300]
            raise PublishingError(
                f"{self.repo_id}: the Hub's client refuses it: {problem}. Correct --to, or the setting of "
                "publishing that it names."
            ) from error


def _matches_lfs(path: str) -> bool:
    return any(PurePosixPath(path).match(pattern) for pattern in LFS_PATTERNS)


def _repo_type(bundle: Bundle) -> str:
    return "dataset" if bundle.content == "dataset" else "model"
