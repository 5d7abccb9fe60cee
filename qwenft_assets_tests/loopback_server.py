"""A real HTTP server on loopback that keeps every request and meets chosen ones with faults."""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit


class Request(NamedTuple):
    method: str
    path: str
    query: dict[str, str]
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Answer(NamedTuple):
    status: int
    value: Any
    headers: dict[str, str] = {}  # noqa: RUF012  (never changed)


@dataclass
class Fault:
    """Meets the first `times` requests that match: a status, `cut` (half read, then closed), or
    `lost` (done, but the answer never arrives)."""

    pattern: str
    kind: int | str
    times: int = 1


@dataclass
class LoopbackServer:
    """What a server answers; subclasses implement `answer`."""

    url: str = ""
    requests: list[Request] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def answer(self, request: Request) -> Answer:
        raise NotImplementedError

    def sent(self, pattern: str) -> list[Request]:
        return [request for request in self.requests if re.search(pattern, str(request))]

    def fault_for(self, line: str) -> Fault | None:
        for fault in self.faults:
            if fault.times and re.search(fault.pattern, line):
                fault.times -= 1
                return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    loopback: LoopbackServer
    lock: threading.Lock

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Quiet."""

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        with self.lock:
            fault = self.loopback.fault_for(f"{self.command} {path}?{parts.query}")
        if fault and fault.kind == "cut":
            self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
            self.loopback.requests.append(Request(self.command, path, {}, b"", {}))
            self.cut(path, {k: v[0] for k, v in parse_qs(parts.query).items()})
            self._hang_up()
            return
        if fault and fault.kind == "stall":
            time.sleep(60)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        request = Request(self.command, path, query, self._body(), dict(self.headers))
        with self.lock:
            self.loopback.requests.append(request)
            if fault and isinstance(fault.kind, int):
                answer = Answer(fault.kind, {"message": "fault", "error": "fault"})
            else:
                answer = self.loopback.answer(request)
        if fault and fault.kind == "lost":
            self._hang_up()
            return
        whole = isinstance(answer.value, bytes)
        body = answer.value if whole else json.dumps(answer.value).encode()
        body = b"" if answer.status == 204 else body
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def cut(self, path: str, query: dict[str, str]) -> None:
        """What the server keeps of half an upload."""
        keep = getattr(self.loopback, "keep_half", None)
        if keep:
            keep(path, query)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815


Server = TypeVar("Server", bound=LoopbackServer)


@contextmanager
def serving(loopback: Server) -> Iterator[Server]:
    """Serve for the duration of the block."""
    handler = type("Handler", (_Handler,), {"loopback": loopback, "lock": threading.Lock()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    loopback.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield loopback
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
