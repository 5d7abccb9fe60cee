"""What must not leave: secrets, private rows, paths of this machine, e-mail addresses.

Everything is looked at here, nothing is asked elsewhere: detect-secrets' detectors are used for the
shapes they know, not for its verification, which would send a found token to its issuer.
"""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from qwenft_assets.config import PROJECT_ROOT
from qwenft_assets.errors import PublishingError
from qwenft_assets.progress import ReportProgress, no_progress
from qwenft_assets.publishing.private_text import PrivateText
from qwenft_assets.publishing.weights import read_header
from qwenft_assets.text.personal_data import find_personal_data

PRIVATE_ROW = "text of a private row"
LOCAL_PATH = "a path of a local machine"
UNREADABLE = "neither text nor a format that can be scanned"
PERSONAL = {"email": "an e-mail address", "api_key": "a secret (api_key)"}
SHOWN_FINDINGS = 5
_DETECTORS = {  # by module of detect_secrets.plugins; those of a fixed shape, which prose never has
    "aws": "AWSKeyDetector", "basic_auth": "BasicAuthDetector", "discord": "DiscordBotTokenDetector",
    "github_token": "GitHubTokenDetector", "gitlab_token": "GitLabTokenDetector",
    "jwt": "JwtTokenDetector", "mailchimp": "MailchimpDetector", "npm": "NpmDetector",
    "openai": "OpenAIDetector", "private_key": "PrivateKeyDetector", "pypi_token": "PypiTokenDetector",
    "sendgrid": "SendGridDetector", "slack": "SlackDetector", "square_oauth": "SquareOAuthDetector",
    "stripe": "StripeDetector", "telegram_token": "TelegramBotTokenDetector",
}  # fmt: skip
_LOCAL_PATH = re.compile(
    r"(?<![\w.~:/%-])/(?:home|Users|root|mnt|media|tmp|var|srv|private|Volumes|workspace|scratch)"
    r"/[\w.@+-]{2,}|\b[A-Za-z]:\\{1,2}Users\\{1,2}\w+"
)
_JSON_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ONE_VALUE_A_LINE = {".jsonl", ".parquet"}


@dataclass(frozen=True)
class Finding:
    """One reason to stop; what was found is not repeated."""

    path: str
    line: int
    """From 1; the row, in a table."""
    kind: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.kind}"


@dataclass(frozen=True)
class Scanner:
    """Looks for what must not leave."""

    private: PrivateText
    own_folders: tuple[Path, ...] = ()
    """Their paths are looked for wherever they lie; homes and the like of any machine anyway."""
    exempt: tuple[str, ...] = ()
    """Patterns of paths in which only private rows are looked for."""
    _own: re.Pattern[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        roots = {PROJECT_ROOT, Path.home(), Path(sys.prefix), *self.own_folders}
        paths = sorted({str(root.absolute()) for root in roots if len(root.parts) > 1})
        pattern = "|".join(rf"{re.escape(path)}(?![\w.-])" for path in paths)
        object.__setattr__(self, "_own", re.compile(rf"(?<![\w.:-])(?:{pattern})"))

    def kinds_in(self, text: str, *, any_machine: bool = True) -> list[str]:
        """Kinds of secrets, addresses and paths in a text.

        Args:
            text: Any.
            any_machine: Also paths that only look like those of somebody's machine.
        """
        found = find_personal_data(text)
        kinds = [words for kind, words in PERSONAL.items() if kind in found]
        if not found["api_key"]:
            for detector in _detectors():
                if next(iter(detector.analyze_string(text)), None):
                    kinds.append(f"a secret ({detector.secret_type})")
                    break
        if self._own.search(text) or (any_machine and _LOCAL_PATH.search(text)):
            kinds.append(LOCAL_PATH)
        return kinds

    def scan_file(self, folder: Path, path: str) -> list[Finding]:
        """All findings in one file below `folder`."""
        suffix = Path(path).suffix
        try:
            lines = list(_lines(folder / path))
        except UnicodeDecodeError:
            return [Finding(path, 1, UNREADABLE)]
        findings = [
            Finding(path, number + 1, PRIVATE_ROW) for number in self._quoted(lines, suffix)
        ]
        if not any(fnmatchcase(path, pattern) for pattern in self.exempt):
            # Rows of public datasets may well talk about home folders; cards and records do not.
            any_machine = suffix not in _ONE_VALUE_A_LINE
            findings += [
                Finding(path, number, kind)
                for number, line in enumerate(lines, 1)
                for kind in self.kinds_in(line, any_machine=any_machine)
            ]
        return sorted(findings, key=lambda finding: finding.line)

    def _quoted(self, lines: Sequence[str], suffix: str) -> list[int]:
        if suffix in _ONE_VALUE_A_LINE:
            numbers = [n for n, line in enumerate(lines) if self.private.quoted_in(line)]
        else:
            numbers = self.private.quoted_in_lines(lines)
        if suffix in {".json", ".jsonl"}:
            numbers += [
                number
                for number, line in enumerate(lines)
                if any(self.private.is_short_text(value) for value in _JSON_STRING.findall(line))
            ]
        return sorted(set(numbers))


def scan(
    folder: Path,
    paths: Sequence[str],
    scanner: Scanner,
    report_progress: ReportProgress = no_progress,
) -> None:
    """Look at every file that would leave.

    Raises:
        PublishingError: Something must not; names files and lines.
    """
    findings: list[Finding] = []
    for number, path in enumerate(paths):
        report_progress(number, len(paths), path)
        findings += scanner.scan_file(folder, path)
    report_progress(len(paths), len(paths))
    if findings:
        shown = "; ".join(f"{folder}/{finding}" for finding in findings[:SHOWN_FINDINGS])
        more = f" (and {len(findings) - SHOWN_FINDINGS} more)" if findings[SHOWN_FINDINGS:] else ""
        raise PublishingError(
            f"{shown}{more}. Nothing was sent: remove what was found where it comes from, then "
            "publish again."
        )


@cache
def _detectors() -> tuple[Any, ...]:
    from importlib import import_module

    return tuple(
        getattr(import_module(f"detect_secrets.plugins.{module}"), name)()
        for module, name in _DETECTORS.items()
    )


def _lines(file: Path) -> Iterator[str]:
    """The text of a file, line by line; for weights and images, that of their headers."""
    if file.suffix == ".safetensors":
        yield json.dumps(read_header(file))
    elif file.suffix == ".gguf":
        yield from _gguf_strings(file)
    elif file.suffix == ".png":
        from PIL import Image

        with Image.open(file) as picture:
            yield json.dumps({str(key): str(value) for key, value in picture.info.items()})
    elif file.suffix == ".parquet":
        for batch in pq.ParquetFile(file).iter_batches():
            for row in batch.to_pylist():
                yield json.dumps(row, ensure_ascii=False, default=str)
    else:
        text = file.read_text(encoding="utf-8")
        is_json = file.suffix in {".json", ".jsonl", ".ipynb"}
        for line in text.split("\n"):
            yield _unescaped(line) if is_json else line


def _gguf_strings(file: Path) -> Iterator[str]:
    from gguf import GGUFReader, GGUFValueType

    for field_ in GGUFReader(file).fields.values():
        if field_.types == [GGUFValueType.STRING]:
            yield f"{field_.name}: {field_.contents()}"


_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|([ntr/]))")


def _unescaped(line: str) -> str:
    """JSON's escapes as what they stand for, so that words end where they end."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else " ", line)
