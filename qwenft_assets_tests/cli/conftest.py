"""One deployment for all commands that answer; none of them writes into it."""

import json

import pytest

from qwenft_assets_tests.answering_deployment import GREEDY, QUESTION, make_answering_deployment


@pytest.fixture(scope="session")
def deployment(tmp_path_factory):
    return make_answering_deployment(tmp_path_factory.mktemp("answering"))


@pytest.fixture(scope="session")
def inferred(deployment):
    """What `infer` says greedily, with its figures."""
    answer = deployment.run("qwenft", "infer", QUESTION, *GREEDY, "--json")
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)
