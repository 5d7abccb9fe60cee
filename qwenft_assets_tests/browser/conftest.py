"""A real browser on the web UI of a tiny deployment, as `qwenft ui` starts it.

Debian's chromium, driven by Playwright; without either, these tests are skipped with the reason.
Screenshots go to `build/screenshots`.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from qwenft_assets.config import PROJECT_ROOT
from qwenft_assets_tests.commands import BIN, Deployment, make_deployment
from qwenft_assets_tests.tiny_model import write_tiny_model

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SCREENSHOTS = PROJECT_ROOT / "build" / "screenshots"
SECONDS_TO_START = 90
MILLISECONDS_TO_WAIT = 60_000
PAYLOADS = (
    "<script>window.stolen = 1</script>",
    "<img src=x onerror='window.stolen = 2'>",
    "[a link](javascript:window.stolen=3)",
    "![a picture](https://collector.example/pixel.png)",
    "<a href='https://collector.example/'>here</a>",
)
"""What a row must never turn into."""


@dataclass(frozen=True)
class WebUi:
    """The running web UI with its daemon."""

    deployment: Deployment
    url: str

    def ask(self, query: str) -> Any:
        """The answer to a GraphQL query."""
        body = json.dumps({"query": query}).encode()
        request = urllib.request.Request(  # noqa: S310
            f"{self.url}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)["data"]


@pytest.fixture(scope="module")
def chromium():
    # Not longer: until it ends, Playwright keeps an event loop in this thread, and others cannot.
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        # Root, as in a container of CI, has no sandbox to use.
        options = ["--no-sandbox"] if os.getuid() == 0 else []
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def web_ui(tmp_path_factory, chromium):
    folder = tmp_path_factory.mktemp("web_ui")
    write_tiny_model(folder / "tiny-qwen2")
    reports = folder / "my_dataset.json"
    reports.write_text(json.dumps(hostile_reports()), encoding="utf-8")
    deployment = make_deployment(folder / "deployment", folder / "tiny-qwen2", reports)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "ui.log").open("w") as log:
        process = subprocess.Popen(
            [BIN / "qwenft", "ui", "--port", str(port)],
            cwd=PROJECT_ROOT,
            env=deployment.environment(),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            web_ui = WebUi(deployment, f"http://127.0.0.1:{port}")
            wait_for_assets(web_ui, process, folder / "ui.log")
            yield web_ui
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def wait_for_assets(web_ui: WebUi, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while True:
        assert process.poll() is None, log.read_text()
        try:
            if web_ui.ask("{ assetNodes { id } }")["assetNodes"]:
                return
        except urllib.error.URLError:
            pass
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.5)


def hostile_reports() -> list[dict[str, str]]:
    """Rows whose every field holds markup."""
    return [
        {
            "instruction": f"{PAYLOADS[n % len(PAYLOADS)]} asks report {n}",
            "input": PAYLOADS[(n + 1) % len(PAYLOADS)],
            "output": f"Report {n} answers {PAYLOADS[(n + 2) % len(PAYLOADS)]} at length, number {n}.",
        }
        for n in range(30)
    ]


@pytest.fixture
def page(chromium, web_ui):
    """A page of the web UI; `page.goto("/runs")` opens one of its paths."""
    context = chromium.new_context(
        base_url=web_ui.url, viewport={"width": 1500, "height": 900}, device_scale_factor=1
    )
    context.set_default_timeout(MILLISECONDS_TO_WAIT)
    yield context.new_page()
    context.close()


@pytest.fixture
def shoot(page):
    """Keeps what the page shows now as a picture."""

    def shoot(name: str, **options: Any) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.wait_for_timeout(800)  # what moves comes to rest
        page.screenshot(path=SCREENSHOTS / f"{name}.png", **options)

    return shoot
