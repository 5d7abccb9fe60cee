"""A storage root in an object store: S3, Google Cloud Storage, or the memory of one process.

fsspec's clients reach it, through UPath; keys, region and endpoint come from where those look for them,
such as AWS_PROFILE or AWS_ENDPOINT_URL, never from a config. An object is there whole or not at all, and
replacing one is atomic; artifacts.py makes several of them one artifact.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from qwenft_assets.errors import StorageError
from qwenft_assets.retries import LONGEST_QUOTE, TRANSIENT_STATUS, ask

if TYPE_CHECKING:
    from upath import UPath

ATTEMPTS = 4
"""Attempts at each operation, on top of the clients' own retries of, say, one part of an upload."""
FILESYSTEMS = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gs")}
"""Scheme to its client's module and the extra of this project that installs it."""
CONNECT_SECONDS, READ_SECONDS = 10, 60
CLIENT_SETTINGS: dict[str, dict[str, Any]] = {
    "s3": {
        "config_kwargs": {
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": READ_SECONDS,
            # Of one request, so that a failed part of a large file is uploaded again alone.
            "retries": {"mode": "standard", "total_max_attempts": 5},
        }
    }
}
PART_BYTES = 16 * 2**20
"""Part of a large file; parts are uploaded in parallel, and each is retried alone."""
UPLOAD_SETTINGS: dict[str, dict[str, Any]] = {
    "s3": {"chunksize": PART_BYTES},
    "gs": {"chunksize": PART_BYTES},
}
CUT_OFF_CODES = frozenset({"BadDigest", "IncompleteBody", "NoSuchUpload", "RequestTimeout"})
"""S3's 4xx answers to a request that did not arrive as it was sent."""
CONNECTION_ERRORS = (
    ("botocore.exceptions", "HTTPClientError"),
    ("botocore.exceptions", "ConnectionError"),
    ("botocore.exceptions", "FlexibleChecksumError"),
    ("aiohttp", "ClientError"),
)
OTHER_ERRORS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
)

Answer = TypeVar("Answer")


class MissingObjectError(StorageError):
    """An object that a pointer names is missing."""


@dataclass(frozen=True)
class ObjectStore:
    """Objects below one URL; a key is a path below it."""

    url: str

    @cached_property
    def root(self) -> "UPath":
        """The URL with its client.

        Raises:
            StorageError: The client is not installed, or does not accept the URL.
        """
        scheme = self.url.partition("://")[0]
        module, extra = FILESYSTEMS.get(scheme, ("", ""))
        try:
            from upath import UPath

            if module:
                import_module(module)
            # Other machines write too: an old listing may be wrong.
            settings = CLIENT_SETTINGS.get(scheme, {})
            root = UPath(self.url, use_listings_cache=False, **settings)
            root.fs  # noqa: B018  (made when first asked for)
        except ImportError as error:
            raise StorageError(
                f"{self.url}: needs {error.name or module}. Run `pip install -c constraints.txt -e "
                f"'.[{extra}]'`, or set QWENFT_STORAGE to a folder."
            ) from error
        except (ValueError, *_kinds(OTHER_ERRORS)) as error:
            raise self._failure("", error) from error
        return root

    def read(self, key: str) -> bytes | None:
        """The content of an object; None if there is none."""
        path = self.root / key
        client: Any = path.fs
        try:
            return self._ask(key, lambda: client.cat_file(path.path))
        except FileNotFoundError:
            return None

    def write(self, key: str, content: bytes) -> None:
        """Write an object, or replace it."""
        path = self.root / key
        self._send(key, lambda: path.fs.pipe_file(path.path, content))

    def upload(self, key: str, file: Path) -> None:
        """Upload a file, a large one in parts, unless an object of its size is there.

        Raises:
            StorageError: It did not arrive whole.
        """
        path = self.root / key
        size = file.stat().st_size

        def send() -> None:
            path.fs.put_file(str(file), path.path, **UPLOAD_SETTINGS.get(path.protocol, {}))
            if self._size(path) != size:
                raise ConnectionError(f"{file.name} did not arrive whole")

        if self._ask(key, lambda: self._size(path)) != size:
            self._send(key, send)

    def download(self, key: str, file: Path, is_right: Callable[[Path], bool]) -> None:
        """Download an object into a file; retry if its content is not right.

        Raises:
            StorageError: It cannot be downloaded.
            MissingObjectError: There is no such object.
        """
        path = self.root / key

        def fetch() -> None:
            path.fs.get_file(path.path, str(file))
            if not is_right(file):
                raise ConnectionError(f"{path.name} is not what its pointer says")

        try:
            self._ask(key, fetch)
        except FileNotFoundError as error:
            raise MissingObjectError(f"{self.url}/{key}: is missing") from error

    def keys(self, below: str = "") -> list[str]:
        """The keys of all objects below a key, in order."""
        path = self.root / below if below else self.root
        prefix = self.root.path.strip("/") + "/"
        try:
            found = self._ask(below, lambda: path.fs.find(path.path))
        except FileNotFoundError:
            return []
        return sorted(str(name).strip("/").removeprefix(prefix) for name in found)

    def modified(self, key: str) -> float:
        """When an object was written, in seconds since 1970, by the store's clock."""
        path = self.root / key
        return self._ask(key, lambda: path.fs.modified(path.path)).timestamp()

    def remove(self, key: str) -> None:
        """Remove an object if it is there."""
        path = self.root / key
        try:
            self._ask(key, lambda: path.fs.rm_file(path.path))
        except FileNotFoundError:
            return

    def require_writable(self, probe: str) -> None:
        """Write and remove a small object.

        Raises:
            StorageError: The bucket is missing or cannot be reached or written.
        """
        path = self.root / probe
        self._send("", lambda: path.fs.pipe_file(path.path, b""))
        self.remove(probe)

    @staticmethod
    def _size(path: "UPath") -> int | None:
        try:
            return int(path.fs.info(path.path)["size"])
        except FileNotFoundError:
            return None

    def _ask(self, key: str, request: Callable[[], Answer]) -> Answer:
        try:
            return ask(request, ATTEMPTS, _may_pass)
        except FileNotFoundError as error:
            if "bucket does not exist" in str(error).lower():
                raise self._failure("", error) from error
            raise
        except (OSError, *_kinds(CONNECTION_ERRORS), *_kinds(OTHER_ERRORS)) as error:
            raise self._failure(key, error) from error

    def _send(self, key: str, request: Callable[[], None]) -> None:
        try:
            self._ask(key, request)
        except FileNotFoundError as error:
            raise self._failure("", error) from error

    def _failure(self, key: str, error: BaseException) -> StorageError:
        words = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, FileNotFoundError):
            words = f"there is no such bucket ({words})"
        tried = f" after {ATTEMPTS} attempts" if _may_pass(error) else ""
        place = f"{self.url}/{key}" if key else self.url
        return StorageError(
            f"{place}: failed{tried}: {words[:LONGEST_QUOTE].rstrip('. ')}. Correct QWENFT_STORAGE, the "
            "keys or the endpoint in the environment, or wait; the same command goes on."
        )


def _kinds(named: tuple[tuple[str, str], ...]) -> tuple[type[Exception], ...]:
    """Exception classes of the clients that are loaded."""
    modules = ((sys.modules.get(module), name) for module, name in named)
    return tuple(getattr(module, name) for module, name in modules if module is not None)


def _may_pass(error: BaseException) -> bool:
    """Whether asking again may help: a busy or broken store, a connection that was cut."""
    if isinstance(error, (FileNotFoundError, PermissionError)):
        return False
    # s3fs tells of an answer by an OSError, with botocore's own error behind it.
    response: Any = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        code = response.get("Error", {}).get("Code")
        return status in TRANSIENT_STATUS or code in CUT_OFF_CODES
    status = getattr(error, "code", None)
    if isinstance(status, int):
        return status in TRANSIENT_STATUS
    return isinstance(error, (OSError, *_kinds(CONNECTION_ERRORS)))
