"""From an adapter version to a folder that may leave: files, card, manifest, scan."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from qwenft_assets.config import PROJECT_ROOT, ContentName, config_path_from_environment
from qwenft_assets.errors import PublishingError
from qwenft_assets.progress import ReportProgress, no_progress
from qwenft_assets.publishing import adapter, project_code
from qwenft_assets.publishing.dataset import render_dataset_card, write_dataset
from qwenft_assets.publishing.git_repository import (
    REQUIREMENTS_FILE,
    render_requirements,
)
from qwenft_assets.publishing.manifest import files_below, published_file
from qwenft_assets.publishing.model_card import render_model_card
from qwenft_assets.publishing.private_text import PrivateText
from qwenft_assets.publishing.scan import Scanner, scan
from qwenft_assets.publishing.subject import Subject, private_rows
from qwenft_assets.records import MANIFEST_FILE, Headline, PublishedManifest
from qwenft_assets.storage.files import atomic_folder, read_json, write_record, write_text

CARD_FILE = "README.md"
LOADING_PACKAGES = ("huggingface_hub", "numpy", "safetensors", "tokenizers")
"""Needed to load a copy, beside what the training record names."""
Facts = dict[str, Any]
"""Fields of the manifest that the copy of one content has beside those of all."""


@dataclass(frozen=True)
class Bundle:
    """A folder that was scanned and may leave."""

    folder: Path
    content: ContentName
    name: str
    """Name of the copies, made of content, recipe and version."""
    manifest: PublishedManifest

    @property
    def files(self) -> dict[str, int]:
        """Size in bytes by path; the manifest last, since it stands for a whole copy."""
        sizes = {file.path: file.bytes for file in self.manifest.files}
        return {**sizes, MANIFEST_FILE: (self.folder / MANIFEST_FILE).stat().st_size}

    @property
    def card(self) -> str:
        """The text of README.md."""
        return (self.folder / CARD_FILE).read_text(encoding="utf-8")


def build_bundle(
    subject: Subject, content: ContentName, report_progress: ReportProgress = no_progress
) -> Bundle:
    """Build and scan what `content` means; the bytes depend on the adapter version and settings.

    Raises:
        PublishingError: The scan found something, or a part cannot be made.
    """
    report_progress(0, 0, "reading private rows, to keep them")
    texts = (text for row in private_rows(subject.storage) for text in _texts(row))
    scanner = Scanner(
        PrivateText(texts),
        (subject.storage.root,),
        subject.config.publishing.scan_exempt if content == "code" else (),
    )
    folder = subject.storage.published(subject.recipe, subject.version, content)
    with (
        subject.storage.lock(f"published-{subject.name}-{content}"),
        atomic_folder(folder) as part,
    ):
        facts = _WRITERS[content](subject, part, scanner, report_progress)
        paths = files_below(part)
        files = [published_file(part, path) for path in paths]
        manifest = _manifest(subject, content, files=files, **facts)
        write_record(part, manifest)
        scan(part, [*paths, MANIFEST_FILE], scanner, report_progress)
    if content == "code":
        project_code.restore_modes(folder)
    return Bundle(folder, content, f"{content}-{subject.name}", manifest)


def _texts(row: Any) -> tuple[str, ...]:
    return (row.instruction, row.input, row.output, row.system or "")


def _manifest(subject: Subject, content: ContentName, **facts: Any) -> PublishedManifest:
    rows_by_license = Counter[str]()
    for share in subject.shares:
        rows_by_license[share.license] += share.train_rows + share.eval_rows
    return PublishedManifest(
        content=content,
        version=subject.version,
        recipe=subject.recipe,
        released=subject.released,
        base_model=subject.base_model,
        base_revision=subject.base_revision,
        mixture_version=subject.mixture_version,
        licenses={
            content: subject.config.publishing.license,
            "rows": dict(sorted(rows_by_license.items())),
        },
        metrics=Headline.model_validate(subject.evaluation),
        versions={"qwenft": installed_version("qwenft"), **subject.record["versions"]},
        command=f"qwenft run --recipe {subject.recipe} --config {_config_name()}",
        **facts,
    )


def _config_name() -> str:
    path = config_path_from_environment()
    inside = PROJECT_ROOT in path.resolve().parents
    return path.resolve().relative_to(PROJECT_ROOT).as_posix() if inside else path.name


def _write_adapter(subject: Subject, folder: Path, *_: Any) -> Facts:
    adapter.write_adapter(subject, folder)
    _write_card_and_requirements(subject, "adapter", folder)
    return {}


def _write_merged(
    subject: Subject, folder: Path, _: Scanner, report_progress: ReportProgress
) -> Facts:
    merged = _merged(subject, report_progress)
    from qwenft_assets.publishing.merge import VERIFICATION_FILE, copy_merged

    copy_merged(merged, folder)
    adapter.write_records(subject, folder)
    _write_card_and_requirements(subject, "merged", folder)
    return {"verification": read_json(merged / VERIFICATION_FILE)}


def _write_gguf(
    subject: Subject, folder: Path, _: Scanner, report_progress: ReportProgress
) -> Facts:
    from qwenft_assets.publishing.gguf import COMPARISON_FILE, find_converter, gguf_weights
    from qwenft_assets.publishing.merge import copy_merged

    find_converter(subject.config.publishing.llama_cpp)  # before minutes of merging
    converted = gguf_weights(subject, _merged(subject, report_progress), report_progress)
    copy_merged(converted, folder)
    adapter.write_records(subject, folder)
    _write_card_and_requirements(subject, "gguf", folder)
    return {"verification": read_json(converted / COMPARISON_FILE)}


def _write_dataset(
    subject: Subject, folder: Path, scanner: Scanner, report_progress: ReportProgress
) -> Facts:
    counts = write_dataset(subject, folder, scanner, report_progress)
    write_text(folder / CARD_FILE, str(render_dataset_card(subject, counts)))
    return {"rows": counts}


def _write_code(subject: Subject, folder: Path, *_: Any) -> Facts:
    commit = project_code.write_code(subject.config, folder)
    if (folder / MANIFEST_FILE).exists():
        raise PublishingError(
            f"{MANIFEST_FILE}: stands in the project; the copy needs the name. Rename it."
        )
    return {"code_commit": commit}


def _merged(subject: Subject, report_progress: ReportProgress) -> Path:
    from qwenft_assets.model.base import find_base_model
    from qwenft_assets.publishing.merge import merged_weights

    base = find_base_model(subject.config.training, subject.storage)
    trained_on = (subject.record["base_model"], subject.record["base_revision"])
    if trained_on != (base.name, base.revision):
        raise PublishingError(
            f"{subject.version} was trained on {trained_on[0]} at {trained_on[1]}, this config names "
            f"{base.name} at {base.revision}. Merge with the config it was trained with."
        )
    dtype = {"bf16": "bfloat16", "fp16": "float16"}[subject.config.publishing.merged_weights]
    return merged_weights(subject, base, dtype, report_progress)


def _write_card_and_requirements(subject: Subject, content: ContentName, folder: Path) -> None:
    write_text(folder / CARD_FILE, str(render_model_card(subject, content)))
    # What loads the copy, in the versions that made it.
    installed = {name: installed_version(name) for name in LOADING_PACKAGES}
    pins = render_requirements({**installed, **subject.record["versions"]})
    write_text(folder / REQUIREMENTS_FILE, pins)


_WRITERS: dict[ContentName, Callable[..., Facts]] = {
    "adapter": _write_adapter,
    "merged": _write_merged,
    "gguf": _write_gguf,
    "dataset": _write_dataset,
    "code": _write_code,
}
