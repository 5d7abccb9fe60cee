"""`qwenft plan` on a machine without a GPU: one screen, why not here, and what it takes elsewhere."""

import json
import re

import pytest
from typer.testing import CliRunner

from qwenft_assets.cli import app

ORIGINAL = ("plan", "--recipe", "large", "--config", "configs/qwen2.5-7b.yaml")


@pytest.fixture
def invoke(monkeypatch, tmp_path):
    """Runs `qwenft ...` in this process, offline, with an empty storage and no GPU."""
    monkeypatch.setenv("QWENFT_STORAGE", str(tmp_path / "storage"))
    monkeypatch.setenv("QWENFT_CONFIG", "")
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return lambda *words: CliRunner().invoke(app, words)


def test_one_screen_says_why_not_here_and_what_other_cards_would_take(invoke):
    answer = invoke(*ORIGINAL)
    assert answer.exit_code == 2
    lines = answer.stdout.splitlines()
    assert len(lines) <= 40
    for expected in (
        "216,000 train, 24,000 eval; 406 tokens a row, 2,048 at most",
        "81,000 of 3,248 tokens (flattened)",
        "20 of 512 rows, every 4,050 steps; they read 1.6% of the tokens trained on",
        "smallest card for this config: ",
        "RTX 4090, 24 GiB",
        "H200, 140 GiB",
    ):
        assert expected in answer.stdout, answer.stdout
    assert lines[-1].startswith(
        "not here: device: cuda was asked for, and nvidia-smi finds no GPU."
    )


def test_json_holds_the_parts_of_the_memory(invoke):
    found = json.loads(invoke(*ORIGINAL, "--gpu-gib", "12", "--json").stdout)
    assert found["work"]["steps"] == 81_000
    small, large = found["on"]["card of 12 GiB"], found["on"]["H200, 140 GiB"]
    assert set(small["memory"]["parts_gib"]) == {
        "weights", "activations", "optimizer", "logits", "context",
    }  # fmt: skip
    assert sum(small["memory"]["parts_gib"].values()) < 12
    # Unsloth holds 4-bit weights in 4 bits on any card.
    assert (small["memory"]["keep_4bit"], large["memory"]["keep_4bit"]) == (True, True)
    assert small["hours"] > large["hours"] > 1
    assert found["refused"].startswith("device: cuda")


def test_a_card_that_is_too_small_is_told_with_the_setting_to_change(invoke):
    found = json.loads(invoke(*ORIGINAL, "--gpu-gib", "6", "--json").stdout)
    assert "Lower training.max_length_tokens" in found["on"]["card of 6 GiB"]


def test_the_demo_would_run_here(invoke, tmp_path):
    answer = invoke("plan", "--recipe", "small", "--config", "configs/demo.yaml")
    assert answer.exit_code == 0, answer.stdout
    assert "would run here" in answer.stdout
    assert not (tmp_path / "storage" / "lora_adapter").exists()


def test_an_unknown_recipe_is_named(invoke):
    answer = invoke("plan", "--recipe", "huge", "--config", "configs/demo.yaml")
    assert "--recipe huge: not in config demo" in str(answer.exception)


def test_gpus_that_hold_the_weights_together_are_told(invoke, tmp_path):
    config = tmp_path / "four.yaml"
    config.write_text(
        "training: {weights: bf16, max_hours: 10000}\nlauncher: {kind: accelerate, processes: 4}\n",
        encoding="utf-8",
    )
    words = ("plan", "--recipe", "large", "--config", str(config), "--gpu-gib", "12")
    held = next(line for line in invoke(*words).stdout.splitlines() if "weights held in" in line)
    assert re.split(r"\s{2,}", held.strip()) == [
        "weights held in",
        "–",
        "bf16, on 4 GPUs",
        *["bf16"] * 2,
    ]
    found = json.loads(invoke(*words, "--json").stdout)
    assert found["on"]["card of 12 GiB"]["memory"]["shards"] == 4
    assert found["smallest_card_gib"] < 12
