"""A git repository of weights: calling git, and the files that it needs beside the weights."""

import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from qwenft_assets.errors import PublishingError
from qwenft_assets.storage.files import write_text

WEIGHTS_PATTERNS = ("*.safetensors", "*.gguf", "*.bin", "*.pt", "*.ckpt")
LFS_PATTERNS = (*WEIGHTS_PATTERNS, "*.png", "tokenizer.json", "*.parquet", "*.jsonl")
MAX_PLAIN_BYTES = 100 * 2**20
"""GitHub refuses larger files outside Git LFS."""
ATTRIBUTES_FILE = ".gitattributes"
IGNORED_FILE = ".gitignore"
REQUIREMENTS_FILE = "requirements.txt"
LONGEST_QUOTE = 300


def run_git(folder: Path, *arguments: str, text: str | None = None) -> str:
    """The standard output of `git -C folder ...`.

    Args:
        folder: A repository, or where one begins.
        arguments: Of git.
        text: For its standard input.

    Raises:
        PublishingError: git is missing, or said no; its first words about that, without a token.
    """
    environment = {
        **os.environ,
        "GIT_TERMINAL_PROMPT": "0",  # a question that nobody sees would wait for ever
        "GIT_LFS_SKIP_SMUDGE": "1",  # weights that are there already need not come back
    }
    try:
        outcome = subprocess.run(  # noqa: S603  (git, with paths and names as arguments)
            ["git", "-C", str(folder), *arguments],  # noqa: S607  (the user's own git)
            input=text, capture_output=True, text=True, check=False, env=environment,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise PublishingError("git is not installed. Install it, then try again.") from error
    if outcome.returncode != 0:
        lines = [line for line in outcome.stderr.splitlines() if line.strip()] or ["no message"]
        problem = without_secret(lines[0])[:LONGEST_QUOTE].rstrip(".")
        raise PublishingError(
            f"git {arguments[0]} failed: {problem}. Check the repository and your rights there; the "
            "same command again goes on where this one stopped."
        )
    return outcome.stdout


def without_secret(address: str) -> str:
    """An address, or a text with addresses, without the user and token in them."""
    return re.sub(r"://[^/@\s]+@", "://", address)


def write_repository_files(folder: Path) -> tuple[Path, Path]:
    """Write `.gitattributes` for Git LFS and `.gitignore`, and return them."""
    attributes, ignored = folder / ATTRIBUTES_FILE, folder / IGNORED_FILE
    write_text(attributes, render_attributes(LFS_PATTERNS))
    patterns = ("__pycache__/", "*.py[cod]", ".venv/", ".env", "*.part", "checkpoint-*/")
    write_text(ignored, "\n".join(patterns) + "\n")
    return attributes, ignored


def render_attributes(patterns: Iterable[str]) -> str:
    """Lines of `.gitattributes` that hand files to Git LFS."""
    return "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in patterns)


def render_requirements(versions: Mapping[str, str]) -> str:
    """Exactly the versions that made it; a build's local label (`+cpu`) is nobody else's."""
    pins = (f"{name}=={version.partition('+')[0]}" for name, version in sorted(versions.items()))
    return "\n".join(pins) + "\n"
