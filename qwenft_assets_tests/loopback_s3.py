"""A real S3 server (moto) on loopback, in front of which a share of the requests fails.

python -m qwenft_assets_tests.loopback_s3 --port 5555 --failing 0.1 --bucket artifacts
"""

import argparse
import os
import random
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

BUCKET = "artifacts"
KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    # Neither profiles of who runs the tests, nor a cloud's own address for keys.
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}
REFUSED_KEY = "REFUSED"
FAULTS = ("busy", "broken", "cut", "lost", "half")
"""503, 500; connection closed before the work, after it without an answer, in mid-answer."""
ERROR = "<Error><Code>{}</Code><Message>{}</Message></Error>"

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass
class LoopbackS3:
    """The server: what it met, and what it does to requests."""

    app: App
    failing: float = 0.0
    """Share of requests."""
    seed: int = 1
    url: str = ""
    met: list[str] = field(default_factory=list)
    """`PUT /bucket/key`, in order."""
    faults: Counter[str] = field(default_factory=Counter)
    stalled: re.Pattern[str] | None = None
    """Requests that are never answered; `stalling` tells of the first."""
    stalling: threading.Event = field(default_factory=threading.Event)
    corrupted: re.Pattern[str] | None = None
    """An object that arrives with other bytes, once."""

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        line = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
        with self._lock:
            self.met.append(line)
            fault = self._random.choice(FAULTS) if self._random.random() < self.failing else None
            self.faults.update([fault] if fault else [])
        if self.stalled and self.stalled.search(line):
            self.stalling.set()
            threading.Event().wait(60)
            fault = "cut"  # its sender may be dead: nothing comes of it any more
        if REFUSED_KEY in environ.get("HTTP_AUTHORIZATION", ""):
            return _error(start_response, "403 Forbidden", "InvalidAccessKeyId", "No such key")
        if fault == "busy":
            return _error(start_response, "503 Slow Down", "SlowDown", "Please reduce your rate")
        if fault == "broken":
            return _error(start_response, "500 Internal Server Error", "InternalError", "We broke")
        if fault == "cut":
            start_response("500 Cut", [])
            return _hang_up(environ)
        answer = b"".join(self.app(environ, start_response))
        if fault == "lost":
            return _hang_up(environ)
        if fault == "half" and answer:
            return _half(environ, answer)
        if self.corrupted and self.corrupted.search(line):
            self.corrupted = None
            return [answer[:-1] + bytes([answer[-1] ^ 1])]
        return [answer]

    def environment(self) -> dict[str, str]:
        """What makes clients of child processes speak to it."""
        return {**KEYS, "AWS_ENDPOINT_URL": self.url}

    def sent(self, pattern: str) -> list[str]:
        return [line for line in self.met if re.search(pattern, line)]


def _error(
    start_response: Callable[..., Any], status: str, code: str, message: str
) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "application/xml")])
    return [ERROR.format(code, message).encode()]


def _hang_up(environ: dict[str, Any]) -> Iterable[bytes]:
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    return []


def _half(environ: dict[str, Any], answer: bytes) -> Iterator[bytes]:
    yield answer[: len(answer) // 2]
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)


@contextmanager
def serving_s3(
    failing: float = 0.0, seed: int = 1, port: int = 0, bucket: str = BUCKET
) -> Iterator[LoopbackS3]:
    """An empty bucket for the duration of the block."""
    server = LoopbackS3(DomainDispatcherApplication(create_backend_app), 0.0, seed)
    http = make_server("127.0.0.1", port, server, threaded=True)
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        httpx.post(f"{server.url}/moto-api/reset", timeout=30).raise_for_status()
        httpx.put(f"{server.url}/{bucket}", timeout=30).raise_for_status()
        server.met.clear()
        server.failing = failing
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def main() -> None:
    """Serve until interrupted, and then say what was met."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--port", type=int, default=5555)
    options.add_argument("--failing", type=float, default=0.0)
    options.add_argument("--bucket", default=BUCKET)
    chosen = options.parse_args()
    with serving_s3(chosen.failing, port=chosen.port, bucket=chosen.bucket) as server:
        settings = " ".join(f"{name}={value}" for name, value in server.environment().items())
        print(f"{settings} QWENFT_STORAGE=s3://{chosen.bucket}/NAME", flush=True)  # noqa: T201
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print(f"{len(server.met)} requests, faults: {dict(server.faults)}")  # noqa: T201


if __name__ == "__main__":
    main()
