"""A Hub on loopback: a real HTTP server that answers what the real clients ask, faults included.

It serves a folder laid out as dataset repositories, `<folder>/<owner>/<name>/...`; point HF_ENDPOINT
at it. Nothing in the clients is patched. By hand:

    python -m qwenft_assets_tests.loopback_hub data/samples --port 8099 --fail 0.3
"""

import argparse
import hashlib
import json
import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

API = re.compile(r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?$")
RESOLVE = re.compile(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")
KINDS = ("500", "503", "429", "dropped", "cut")
CHUNK = 64 * 1024


@dataclass
class Faults:
    """What goes wrong; may be changed while the server runs."""

    fraction: float = 0.0
    """Of requests that fail."""
    kinds: tuple[str, ...] = KINDS
    """500, 503, 429 (Retry-After: 0), dropped (no answer), cut (half a body), stall."""
    path: str = ""
    """A pattern; only requests for paths that hold it fail."""
    stall_seconds: float = 0.0
    bytes_per_second: float = 0.0
    """Speed limit of bodies; 0: none."""
    seed: int = 1
    counts: Counter[str] = field(default_factory=Counter[str])
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()

    def draw(self, path: str) -> str | None:
        """The fault that this request meets; None for none."""
        with self._lock:
            if not re.search(self.path, path) or self._random.random() >= self.fraction:
                return None
            kind = self._random.choice(self.kinds)
            self.counts[kind] += 1
            return kind


@dataclass
class LoopbackHub:
    """A running server."""

    folder: Path
    faults: Faults
    url: str = ""
    requests: list[str] = field(default_factory=list[str])

    def files(self, repo: str) -> list[str]:
        root = self.folder / repo
        found = (path for path in root.rglob("*") if path.is_file())
        return sorted(path.relative_to(root).as_posix() for path in found)

    def commit(self, repo: str) -> str:
        digest = hashlib.sha1(usedforsecurity=False)
        for path in self.files(repo):
            digest.update(path.encode() + (self.folder / repo / path).read_bytes())
        return digest.hexdigest()

    def environment(self, cache: Path) -> dict[str, str]:
        """Of a process whose Hub client should ask this server; the client reads it at import."""
        others = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        return {
            **others,
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(cache),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DOWNLOAD_TIMEOUT": "3",
            "HF_HUB_ETAG_TIMEOUT": "3",
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Quiet."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        self.hub.requests.append(f"{self.command} {path}")
        fault = self.hub.faults.draw(path)
        if fault == "stall":
            time.sleep(self.hub.faults.stall_seconds)
        if fault == "dropped":
            self.close_connection = True
            self.connection.close()
        elif fault in {"500", "503", "429"}:
            self._send(int(fault), b"{}", {"Retry-After": "0"} if fault == "429" else {})
        elif match := API.match(path):
            self._api(*match.groups(), query=query, cut=fault == "cut")
        elif match := RESOLVE.match(path):
            self._resolve(*match.groups(), cut=fault == "cut")
        else:
            self._send(404, b"{}", {})

    def _api(
        self, repo: str, kind: str | None, revision: str | None, query: dict[str, Any], *, cut: bool
    ) -> None:
        if not (self.hub.folder / repo).is_dir():
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return
        commit = self.hub.commit(repo)
        if revision not in {None, "main", commit}:
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return
        files = self.hub.files(repo)
        if kind == "tree":
            start = int(query.get("cursor", ["0"])[0])
            page = files[start : start + 10]
            value: Any = [
                {
                    "type": "file",
                    "path": f,
                    "oid": "0" * 40,
                    "size": self._file(repo, f).stat().st_size,
                }
                for f in page
            ]
            more = {}
            if start + 10 < len(files):
                link = f"{self.hub.url}/api/datasets/{repo}/tree/{revision}"
                more = {"Link": f'<{link}?recursive=True&cursor={start + 10}>; rel="next"'}
        else:
            siblings = [{"rfilename": f} for f in files]
            value, more = {"id": repo, "sha": commit, "siblings": siblings, "tags": []}, {}
        self._send(200, json.dumps(value).encode(), more, cut=cut)

    def _resolve(self, repo: str, revision: str, path: str, *, cut: bool) -> None:
        file, commit = self._file(repo, path), self.hub.commit(repo)
        if not file.is_file() or revision not in {"main", commit}:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return
        content = file.read_bytes()
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": commit,
            "Accept-Ranges": "bytes",
        }
        status, asked = 200, re.match(r"bytes=(\d+)-(\d*)$", self.headers.get("Range", ""))
        if asked:
            first, last = int(asked[1]), int(asked[2] or len(content) - 1)
            if first >= len(content):
                self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            status, content = 206, content[first : last + 1]
        self._send(status, content, headers, cut=cut)

    def _file(self, repo: str, path: str) -> Path:
        return self.hub.folder / repo / path

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], *, cut: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut:
            body = body[: len(body) // 2]
            self.close_connection = True
        try:
            for start in range(0, len(body), CHUNK):
                self.wfile.write(body[start : start + CHUNK])
                if self.hub.faults.bytes_per_second:
                    time.sleep(CHUNK / self.hub.faults.bytes_per_second)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True


@contextmanager
def loopback_hub(
    folder: Path, faults: Faults | None = None, port: int = 0
) -> Iterator[LoopbackHub]:
    """Serve `folder` for the duration of the block."""
    hub = LoopbackHub(folder, faults or Faults())
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=8099)
    parser.add_argument("--fail", type=float, default=0.0)
    options = parser.parse_args()
    with loopback_hub(options.folder, Faults(fraction=options.fail), options.port) as running:
        print(running.url, flush=True)  # noqa: T201
        threading.Event().wait()
