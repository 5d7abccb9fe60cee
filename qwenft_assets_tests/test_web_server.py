"""The web server as `qwenft ui` starts it, asked over HTTP."""

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest

from qwenft_assets.assets.upstream import IN_FILES, IN_REPOSITORIES
from qwenft_assets.config import PROJECT_ROOT, RECIPE_NAMES, SOURCE_NAMES
from qwenft_assets_tests.commands import BIN, make_deployment

QUERY = "{ assetNodes { assetKey { path } groupName partitionKeys pools jobNames } }"
SECONDS_TO_START = 60


@pytest.fixture
def server(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = make_deployment(tmp_path, "unused").environment()
    command = [BIN / "qwenft", "ui", "--port", str(port)]
    with (tmp_path / "log").open("w") as log:
        # As a script's background job: `trap '' INT` is what a shell does for `command &`.
        process = subprocess.Popen(
            ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *command],
            cwd=PROJECT_ROOT,
            env=environment,
            stdout=log,
            stderr=log,
        )
        yield f"http://127.0.0.1:{port}"
        process.terminate()
        process.wait(timeout=60)


def ask(server, query):
    body = json.dumps({"query": query}).encode()
    request = urllib.request.Request(  # noqa: S310
        f"{server}/graphql", body, {"Content-Type": "application/json"}
    )
    deadline = time.monotonic() + SECONDS_TO_START
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                return json.load(answer)["data"]
        except urllib.error.URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def test_the_web_server_shows_every_asset_with_its_partitions(server):
    nodes = {node["assetKey"]["path"][0]: node for node in ask(server, QUERY)["assetNodes"]}
    recipes, sources = list(RECIPE_NAMES), list(SOURCE_NAMES)
    assert {name: node["partitionKeys"] for name, node in nodes.items()} == {
        "dataset_commits": list(IN_REPOSITORIES),
        "reports_file": list(IN_FILES),
        "source_sample": sources,
        "mixed_dataset": recipes,
        "lora_adapter": recipes,
        "evaluation": recipes,
        "release": recipes,
        "published_adapter": recipes,
    }
    assert nodes["lora_adapter"]["pools"] == ["gpu"]
