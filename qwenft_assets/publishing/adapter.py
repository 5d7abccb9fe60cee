"""The adapter's own files, as others may have them: bf16 weights, a public base, no local path."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwenft_assets.errors import PublishingError
from qwenft_assets.publishing.subject import Subject
from qwenft_assets.publishing.weights import round_to_bf16
from qwenft_assets.records import EvaluationResult, TrainingRecord
from qwenft_assets.storage.files import read_json, write_json

WEIGHTS_FILE = "adapter_model.safetensors"
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "vocab.json", "merges.txt", "tokenizer.model",
)  # fmt: skip
OF_THIS_MACHINE = ("base_path", "inputs")
"""Keys of the records that say nothing to others."""


def write_adapter(subject: Subject, folder: Path) -> None:
    """Write the files of a plain PEFT adapter, with its tokenizer and records.

    Only files with a known purpose are taken, so that nothing left beside the adapter leaves.

    Raises:
        PublishingError: The stored adapter has no weights.
    """
    source = subject.adapter_folder
    if not (source / WEIGHTS_FILE).is_file():
        raise PublishingError(f"{source / WEIGHTS_FILE}: missing. Train the adapter again.")
    if subject.config.publishing.weights == "bf16":
        round_to_bf16(source / WEIGHTS_FILE, folder / WEIGHTS_FILE)
    else:
        shutil.copyfile(source / WEIGHTS_FILE, folder / WEIGHTS_FILE)
    config = read_json(source / "adapter_config.json") or {}
    config["base_model_name_or_path"] = subject.base_model
    config["revision"] = subject.base_commit
    write_json(folder / "adapter_config.json", config)
    copy_tokenizer(source, folder)
    if (source / "loss.png").is_file():
        shutil.copyfile(source / "loss.png", folder / "loss.png")
    write_records(subject, folder)


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy what makes up a tokenizer."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def write_records(subject: Subject, folder: Path) -> None:
    """training.json and evaluation.json without what belongs to this machine."""
    record = _for_others(subject.record, subject)
    record["settings"] = {**record["settings"], "base_model": subject.base_model}
    write_json(folder / TrainingRecord.FILE, record)
    write_json(folder / EvaluationResult.FILE, _for_others(subject.evaluation, subject))


def _for_others(record: Mapping[str, Any], subject: Subject) -> dict[str, Any]:
    kept = {key: value for key, value in record.items() if key not in OF_THIS_MACHINE}
    return {**kept, "base_model": subject.base_model, "base_revision": subject.base_revision}
