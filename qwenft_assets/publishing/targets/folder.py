"""A copy in a folder: a disk that is carried elsewhere, a share, a bucket that is mounted."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from qwenft_assets.progress import ReportProgress
from qwenft_assets.publishing.bundle import Bundle
from qwenft_assets.publishing.manifest import verify_copy
from qwenft_assets.publishing.targets.target import Outcome, PlannedFile
from qwenft_assets.records import MANIFEST_FILE
from qwenft_assets.storage.files import atomic_folder


@dataclass(frozen=True)
class FolderTarget:
    """Copies below `root`, a folder for each bundle."""

    root: Path

    def describe(self, bundle: Bundle) -> str:
        """The folder of the copy."""
        return f"folder {self.root / bundle.name}"

    def plan(self, bundle: Bundle) -> list[PlannedFile]:
        """Every file is copied."""
        return [PlannedFile(path, size, "copy") for path, size in bundle.files.items()]

    def publish(self, bundle: Bundle, report_progress: ReportProgress) -> Outcome:
        """Copy, or find an intact copy of the same files; it appears whole or not at all."""
        folder = self.root / bundle.name
        manifest = folder / MANIFEST_FILE
        if manifest.is_file() and (
            manifest.read_bytes() == (bundle.folder / MANIFEST_FILE).read_bytes()
        ):
            verify_copy(folder)
            return Outcome(str(folder), unchanged=True)
        with atomic_folder(folder) as part:
            for number, path in enumerate(bundle.files):
                report_progress(number, len(bundle.files), path)
                (part / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(bundle.folder / path, part / path)
        report_progress(len(bundle.files), len(bundle.files))
        verify_copy(folder)
        return Outcome(str(folder), unchanged=False)
