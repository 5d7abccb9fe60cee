"""Dataset repositories on the Hub: listed once a revision, downloaded whole into the client's own cache.

Downloads go through huggingface_hub: HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are its own, an
interrupted download goes on where it stopped, and a file counts as downloaded only when its size is
right. On top come retries with backoff, since a scan of hundreds of files meets every fault there is.
"""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

from qwenft_assets.errors import SourceError
from qwenft_assets.retries import ask, describe_failure

ATTEMPTS = 8
DOWNLOAD_ATTEMPTS = 3
"""Fewer, because the client itself tries each download six times, over some twenty seconds."""

Answer = TypeVar("Answer")


def resolve_commit(
    repo_id: str,
    revision: str | None,
    attempts: int = ATTEMPTS,
    timeout_seconds: float | None = None,
) -> str:
    """The commit that `revision` (None: the newest) stands for; offline, the one in the cache.

    Raises:
        SourceError: The Hub does not know it or cannot be asked, and nothing is cached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        found = _asked(
            f"{repo_id}@{revision or 'main'}",
            lambda: HfApi().dataset_info(repo_id, revision=revision, timeout=timeout_seconds).sha,
            attempts,
        )
    except OfflineModeIsEnabled as error:
        return _cached_commit(repo_id, revision, error)
    if found is None:
        raise SourceError(
            f"{repo_id}: the Hub names no commit for {revision or 'main'}. Pin one by its revision setting."
        )
    return found


@cache
def list_files(repo_id: str, commit: str) -> tuple[str, ...]:
    """Paths of all files of a dataset repository; offline, of those in the cache."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    def question() -> tuple[str, ...]:
        return tuple(HfApi().list_repo_files(repo_id, revision=commit, repo_type="dataset"))

    try:
        return tuple(sorted(_asked(repo_id, question)))
    except OfflineModeIsEnabled:
        snapshot = _snapshots(repo_id) / commit
        files = (path for path in snapshot.rglob("*") if path.is_file())
        return tuple(sorted(path.relative_to(snapshot).as_posix() for path in files))


def download(repo_id: str, commit: str, path: str) -> Path:
    """A local file with the whole content of `path`.

    Raises:
        SourceError: It cannot be had; what came so far stays in the cache.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    def question() -> Path:
        return Path(hf_hub_download(repo_id, path, revision=commit, repo_type="dataset"))

    try:
        return _asked(f"{repo_id}/{path}", question, DOWNLOAD_ATTEMPTS)
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise SourceError(
            f"{repo_id}/{path}: HF_HUB_OFFLINE is set and it is not in the cache. {_ways_out()}"
        ) from error


def _asked(what: str, question: Callable[[], Answer], attempts: int = ATTEMPTS) -> Answer:
    """The answer to a question to the Hub, asked again while the fault may pass.

    Raises:
        SourceError: The Hub said no, or went on failing.
    """
    from httpx import HTTPError
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    try:
        return ask(question, attempts)
    except OfflineModeIsEnabled:
        raise
    except (HfHubHTTPError, HTTPError, OSError) as error:
        if isinstance(error, LocalEntryNotFoundError) and os.environ.get("HF_HUB_OFFLINE"):
            raise
        endpoint = os.environ.get("HF_ENDPOINT", "the Hub")
        raise SourceError(
            f"{what}: {endpoint} {describe_failure(error, attempts)}. What was sampled and "
            f"downloaded so far is kept: run the same command again. {_ways_out()}"
        ) from error


def _cached_commit(repo_id: str, revision: str | None, error: Exception) -> str:
    snapshots = _snapshots(repo_id)
    if revision is not None and (snapshots / revision).is_dir():
        return revision
    found = sorted(snapshots.glob("*"), key=lambda path: path.stat().st_mtime)
    if revision is not None or not found:
        raise SourceError(
            f"{repo_id}: HF_HUB_OFFLINE is set and {revision or 'it'} is not in the cache "
            f"({snapshots.parent}). {_ways_out()}"
        ) from error
    return found[-1].name


def _snapshots(repo_id: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = repo_folder_name(repo_id=repo_id, repo_type="dataset")
    return Path(constants.HF_HUB_CACHE) / folder / "snapshots"


def _ways_out() -> str:
    if os.environ.get("HF_HUB_OFFLINE"):
        return (
            "Unset HF_HUB_OFFLINE once to fill the cache, or set QWENFT_SOURCES_ORIGIN to `samples` "
            "or a folder laid out as the Hub."
        )
    return "Check the network, HF_ENDPOINT and HF_TOKEN, or set QWENFT_SOURCES_ORIGIN=samples."
