"""Tokens of each row as training will see it, counted before training: for the mixture's report.

Needs the base model's tokenizer only, and neither torch nor the weights.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwenft_assets.config import PROJECT_ROOT, TrainingConfig
from qwenft_assets.errors import BaseModelError
from qwenft_assets.hashing import short_hash
from qwenft_assets.mixture.build import MixedRow
from qwenft_assets.model.base import (
    BaseModelRef,
    fetch_base_model,
    find_base_model,
)
from qwenft_assets.model.row_tokenizer import RowTokenizer, tokenizer_version
from qwenft_assets.model.tokens import TOKENIZER_FILE, tokenize_mixture
from qwenft_assets.progress import ReportProgress, no_progress
from qwenft_assets.rows import InstructionRow
from qwenft_assets.storage.root import Storage
from qwenft_assets.text.chatml import SYSTEM_PROMPT, TEMPLATE_VERSION


class RowLengths:
    """Counts tokens with a base model's tokenizer; a `TokenCounter` of the mixture stage."""

    def __init__(self, folder: Path, settings: TrainingConfig, storage: Storage) -> None:
        from tokenizers import Tokenizer

        self._settings, self._storage = settings, storage
        self._tokenizer: Any = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        self._identity = short_hash(
            tokenizer_version(self._tokenizer),
            TEMPLATE_VERSION,
            SYSTEM_PROMPT,
            settings.system_prompt,
        )

    @property
    def identity(self) -> str:
        """Hash of tokenizer, template and system prompt."""
        return self._identity

    def count(
        self, rows: Sequence[InstructionRow], report_progress: ReportProgress = no_progress
    ) -> list[int]:
        """Tokens of each row, prompt and answer together, before anything is cut off."""
        counts: list[int] = []
        for batch in RowTokenizer(self._tokenizer, self._settings).batches(rows):
            counts += [len(found.ids) for found in batch]
            report_progress(len(counts), len(rows), "tokens counted")
        return counts

    def count_mixture(
        self,
        mixed: Sequence[MixedRow],
        mixture_version: str,
        report_progress: ReportProgress = no_progress,
    ) -> list[int]:
        """Tokens of each row of a mixture; training and evaluation find the tokens in the cache."""
        rows = tokenize_mixture(
            mixed,
            mixture_version,
            self._tokenizer,
            self._settings,
            self._storage,
            report_progress,
        )
        return rows.whole_lengths.tolist()


def row_lengths(settings: TrainingConfig, storage: Storage) -> RowLengths:
    """A counter for the config's base model.

    Raises:
        BaseModelError: Its tokenizer cannot be had.
    """
    base = find_base_model(settings, storage)
    folder = _tokenizer_folder(base, storage)
    if not (folder / TOKENIZER_FILE).is_file():
        raise BaseModelError(
            f"{folder}: has no {TOKENIZER_FILE}. Use a base model with a fast tokenizer."
        )
    return RowLengths(folder, settings, storage)


def _tokenizer_folder(base: BaseModelRef, storage: Storage) -> Path:
    if base.kind == "folder":
        return Path(base.path)
    if base.kind == "gguf":
        # Converting needs torch, which must not come into this process. Training finds it done.
        code = (
            "import sys; from qwenft_assets.model.row_lengths import convert; "
            "convert(sys.argv[1], sys.argv[2])"
        )
        command = [sys.executable, "-c", code, base.model_dump_json(), str(storage.root)]
        done = subprocess.run(  # noqa: S603  (this interpreter, this module)
            command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            problem = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise BaseModelError(
                f"{base.path}: cannot be converted ({problem}). Install its package again."
            )
        return Path(done.stdout.strip().splitlines()[-1])
    from httpx import HTTPError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(
            snapshot_download(
                base.name, revision=base.revision, allow_patterns=["tokenizer*.json", "*.jinja"]
            )
        )
    except (HfHubHTTPError, HTTPError, OSError) as error:
        raise BaseModelError(
            f"{base.name}: its tokenizer cannot be fetched ({type(error).__name__}). Check the "
            "network, HF_ENDPOINT and HF_TOKEN."
        ) from error


def convert(base_json: str, storage_root: str) -> None:
    """Fetch the model in this process and print its folder."""
    folder = fetch_base_model(
        BaseModelRef.model_validate_json(base_json), Storage(Path(storage_root))
    )
    print(folder)  # noqa: T201  (the answer to the process that asked)
