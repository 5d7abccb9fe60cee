"""The stage: what would go where, and sending it."""

from dataclasses import dataclass
from typing import Any

from qwenft_assets.config import Config, ContentName, RecipeName, TargetName
from qwenft_assets.progress import ReportProgress, no_progress
from qwenft_assets.publishing.bundle import Bundle, build_bundle
from qwenft_assets.publishing.subject import Subject, find_subject
from qwenft_assets.publishing.targets import Outcome, Target, make_target
from qwenft_assets.storage.root import ALL, Storage


@dataclass(frozen=True)
class Publication:
    """A scanned bundle and the place it is for."""

    subject: Subject
    bundle: Bundle
    target: Target

    def as_json(self) -> dict[str, Any]:
        """The plan of a copy as JSON: `files` with path, bytes and the way each is sent."""
        planned = self.target.plan(self.bundle)
        return {
            "content": self.bundle.content,
            "version": self.subject.version,
            "released": self.subject.released,
            "where": self.target.describe(self.bundle),
            "folder": str(self.bundle.folder),
            "files": [
                {"path": file.path, "bytes": file.size_bytes, "as": file.way} for file in planned
            ],
            "bytes": sum(file.size_bytes for file in planned),
            "private_train_rows": sum(s.train_rows for s in self.subject.shares if s.private),
        }

    def publish(self, report_progress: ReportProgress = no_progress) -> Outcome:
        """Send it; again completes what was left half done.

        Raises:
            PublishingError: The place said no, or went on failing.
        """
        return self.target.publish(self.bundle, report_progress)


def prepare(
    config: Config,
    recipe: RecipeName,
    target: TargetName,
    storage: Storage,
    *,
    content: ContentName | None = None,
    version: str | None = None,
    where: str | None = None,
    report_progress: ReportProgress = no_progress,
) -> Publication:
    """Build and scan what would leave; asks nobody.

    Args:
        config: Of the deployment.
        recipe: Whose adapter.
        target: Which way out.
        storage: Where the adapter lies.
        content: What of it; None: the adapter, or the code for `code-only`.
        version: Or `latest`; None: the champion.
        where: In place of what the config says.
        report_progress: Called while parts are made and scanned.

    Raises:
        PublishingError: The scan found something, or a setting is missing.
        AdapterError: There is no such adapter.
    """
    what: ContentName = content or ("code" if target == "code-only" else "adapter")
    if target == "hub" and where:  # the card names the repository it is in
        own = {"hub_dataset_repo" if what == "dataset" else "hub_repo": where}
        publishing = config.publishing.model_copy(update=own)
        config = config.model_copy(update={"publishing": publishing})
    place = make_target(target, config, what, where)
    # All of them: what is private is looked for in what leaves.
    storage.fetch(storage.source_sample(ALL), storage.mixed_dataset(ALL))
    subject = find_subject(config, recipe, version, storage)
    bundle = build_bundle(subject, what, report_progress)
    return Publication(subject, bundle, place)
