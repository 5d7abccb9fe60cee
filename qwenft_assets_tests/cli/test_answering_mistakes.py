"""Bad input to `infer`, `chat` and `serve`: one line, exit code 2, no traceback."""

import os
import socket
import subprocess

import pytest

from qwenft_assets.config import PROJECT_ROOT
from qwenft_assets_tests.answering_deployment import OF_ANOTHER_BASE
from qwenft_assets_tests.commands import BIN


def one_line(answer, wanted):
    complaints = [line for line in answer.stderr.splitlines() if line.startswith("qwenft: ")]
    assert answer.returncode == 2, answer.stdout + answer.stderr
    assert len(complaints) == 1
    assert wanted in complaints[0]
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        pytest.param(("infer",), "nothing to ask", id="nothing"),
        pytest.param(("infer", " "), "the question is empty", id="blank"),
        pytest.param(("infer", "why " * 2000), "Shorten it", id="longer-than-the-window"),
        pytest.param(("infer", "Hi", "--adapter", "abc"), "no such adapter", id="adapter"),
        pytest.param(("infer", "Hi", "--top-p", "2"), "top_p 2.0: input should", id="setting"),
        pytest.param(("infer", "--batch", "no.jsonl"), "no.jsonl: cannot be read", id="batch"),
        pytest.param(("serve", "--host", "0.0.0.0"), "an API key is needed", id="no-key"),  # noqa: S104
        pytest.param(
            ("serve", "--engine", "x"), "--engine x: no such engine. Use auto", id="engine"
        ),
    ],
)
def test_mistakes_are_one_line(deployment, command, wanted):
    one_line(deployment.run("qwenft", *command), wanted)


def test_an_adapter_of_another_base_is_one_line(deployment):
    answer = deployment.run("qwenft", "infer", "Hi", "--adapter", OF_ANOTHER_BASE)
    one_line(answer, "was trained on other at 1, this config names")


def test_a_port_in_use_is_one_line(deployment):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        one_line(deployment.run("qwenft", "serve", "--port", port), f"127.0.0.1:{port}: cannot")


@pytest.mark.parametrize("command", [("infer", "-"), ("chat",)], ids=["infer", "chat"])
def test_broken_utf_8_on_standard_input_is_one_line(deployment, command):
    answer = subprocess.run(
        [str(BIN / "qwenft"), *command],
        input=b"caf\xe9\n",
        capture_output=True,
        env=deployment.environment(),
        cwd=PROJECT_ROOT,
        check=False,
    )
    stderr = answer.stderr.decode()
    assert answer.returncode == 2, stderr
    assert "byte 3 is not UTF-8" in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize("command", [("infer", "Why?"), ("chat",)], ids=["infer", "chat"])
def test_a_closed_standard_output_ends_quietly(deployment, command):
    reader, writer = os.pipe()
    os.close(reader)
    answer = subprocess.run(
        [str(BIN / "qwenft"), *command],
        input=b"Why?\n",
        stdout=writer,
        stderr=subprocess.PIPE,
        env=deployment.environment(),
        cwd=PROJECT_ROOT,
        check=False,
    )
    os.close(writer)
    assert (answer.returncode, answer.stderr.decode()) == (1, "")
