"""Calling git."""

import os
import re
import subprocess
from pathlib import Path

from qwenft_assets.errors import PublishingError

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
