"""docs/nginx.conf in a real nginx: TLS, a password before anything, live logs' upgrade let through."""

import base64
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from qwenft_assets.config import PROJECT_ROOT
from qwenft_assets_tests.loopback_server import Answer, LoopbackServer, Request, serving

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
OPENSSL = shutil.which("openssl")

pytestmark = pytest.mark.skipif(
    NGINX is None or OPENSSL is None, reason="no nginx or openssl: apt-get install nginx-light"
)

MAIN = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/qwenft.conf;
}}
"""


class WebServer(LoopbackServer):
    """Stands where the web UI listens."""

    def answer(self, request: Request) -> Answer:
        return Answer(200, {"path": request.path})


@pytest.fixture
def folder():
    """Readable by nginx's workers, which are another user than root."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def proxy(folder):
    """Port of nginx with the documented file, but for host, ports and places; the server behind it."""
    assert NGINX
    assert OPENSSL
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    subprocess.run(
        [OPENSSL, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", folder / "qwenft.key", "-out", folder / "qwenft.crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    hashed = subprocess.run(
        [OPENSSL, "passwd", "-apr1", "opensesame"], check=True, capture_output=True, text=True
    )
    (folder / "qwenft.htpasswd").write_text(f"me:{hashed.stdout}", encoding="utf-8")
    with serving(WebServer()) as behind:
        text = (PROJECT_ROOT / "docs" / "nginx.conf").read_text(encoding="utf-8")
        for documented, here in (
            ("listen 443", f"listen 127.0.0.1:{port}"),
            ("/etc/nginx/", f"{folder}/"),
            ("http://127.0.0.1:3000", behind.url),
        ):
            assert documented in text
            text = text.replace(documented, here)
        (folder / "qwenft.conf").write_text(text, encoding="utf-8")
        main = folder / "nginx.conf"
        main.write_text(MAIN.format(folder=folder), encoding="utf-8")
        checked = subprocess.run(
            [NGINX, "-t", "-c", main, "-p", folder], capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stderr
        process = subprocess.Popen([NGINX, "-c", main, "-p", folder])
        try:
            yield port, behind, folder / "qwenft.crt"
        finally:
            process.terminate()
            process.wait(timeout=30)


def get(proxy, headers):
    port, _, certificate = proxy
    trusted = ssl.create_default_context(cafile=str(certificate))
    request = urllib.request.Request(f"https://127.0.0.1:{port}/runs", headers=headers)
    deadline = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(  # noqa: S310
                request, timeout=10, context=trusted
            ) as answer:
                return answer.status, dict(answer.headers)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers)
        except urllib.error.URLError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def basic(password):
    return {"Authorization": f"Basic {base64.b64encode(f'me:{password}'.encode()).decode()}"}


@pytest.mark.parametrize("headers", [{}, basic("wrong")], ids=["none", "wrong"])
def test_nobody_gets_past_without_the_password(proxy, headers):
    status, _ = get(proxy, headers)
    assert status == 401
    assert proxy[1].requests == []


def test_the_password_opens_and_stays_with_nginx(proxy):
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade"}
    status, headers = get(proxy, {**basic("opensesame"), **upgrade})
    assert status == 200
    assert headers["X-Frame-Options"] == "DENY"
    (request,) = proxy[1].requests
    assert request.path == "/runs"
    assert not request.headers.get("Authorization")
    assert request.headers["X-Forwarded-Proto"] == "https"
    assert request.headers["Upgrade"] == "websocket"


def test_nothing_but_tls_is_spoken(proxy):
    get(proxy, {})  # it listens by now
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://127.0.0.1:{proxy[0]}/runs", timeout=10)
    with refused.value as error:
        assert error.code == 400
