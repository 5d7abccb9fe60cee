"""All ways out and back with one adapter: what was announced arrives, is intact, loads and answers.

Slow, because every step is a process of its own: the real command, git, plain transformers and peft.
"""

import json
import shutil
import sys

import pytest

from qwenft_assets.config import TARGET_NAMES
from qwenft_assets_tests.publishing.conftest import BASE, VERSION
from qwenft_assets_tests.publishing.round_trips import (
    answers,
    places,
    round_trip,
    run,
    run_card,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("git-lfs") is None, reason="git-lfs is not installed"),
]


def test_every_target_announces_sends_and_gives_back_the_same_files(released, tmp_path):
    environment: dict[str, str] = {}
    config = released.deployment.config
    # In bf16, rounding decides what a random model says next; trained ones are above that.
    config.write_text(config.read_text(encoding="utf-8") + "  weights: fp32\n", encoding="utf-8")

    def qwenft(*command):
        answer = released.run(*command, **environment)
        assert answer.returncode == 0, answer.stderr
        return json.loads(answer.stdout)

    with places(tmp_path, environment, BASE, released.base) as ways:
        assert set(ways) == set(TARGET_NAMES)
        trips = {name: round_trip(name, place, tmp_path, qwenft) for name, place in ways.items()}
        for target, trip in trips.items():
            planned = {file["path"]: file["bytes"] for file in trip.dry_run["files"]}
            assert not trip.asked_by_dry_run, target
            if target == "hub":
                del trip.arrived[".gitattributes"]  # the Hub's own
            assert trip.arrived == planned, target
            assert (trip.published["unchanged"], trip.again["unchanged"]) == (False, True), target
            assert trip.verified["manifest"]["version"] == VERSION
            assert trip.verified["unlisted"] == [], target

        card = (trips["hub"].copy / "README.md").read_text(encoding="utf-8")
        assert "What does an LDO do?" in run_card(card, environment)

    models = [trip.copy for name, trip in trips.items() if name != "code-only"]
    local, *copies = answers(released.base, [released.adapter, *models])
    assert any(local)
    assert copies == [local] * len(copies)

    code = trips["code-only"].copy
    loaded = "import qwenft_assets.definitions as d; print(d.__file__)"
    # Isolated from the working directory, which is first on the path of `-c`.
    shown = run({"PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"}, sys.executable, "-c", loaded)
    assert shown.strip() == str(code / "qwenft_assets" / "definitions.py")
    assert not (code / "data" / "my_dataset.json").exists()
    assert not list(code.rglob("*.safetensors"))
