"""What every engine owes: the same losses, the same steps, and an adapter that others can use.

Unsloth's tests run where it is installed. On a GPU all engines run there, in bf16; Unsloth on a CPU is a
stand-in for its GPU path, with the same interface and TRL's own SFTTrainer.
"""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from qwenft_assets.model.device import find_gpus
from qwenft_assets.model.engines import ON_CPU_VARIABLE
from qwenft_assets_tests.model.engine_figures import Bench
from qwenft_assets_tests.training.tiny_rows import expected_order

DEVICE = "cuda" if find_gpus() else "cpu"
SUM_TOLERANCE = {"cpu": 2e-4, "cuda": 4.0}[DEVICE]
"""Nats over 150 tokens: fp32 sums in another order; on a GPU other kernels in bf16."""
LOSS_TOLERANCE = {"cpu": 2e-4, "cuda": 0.03}[DEVICE]
"""Nats per token."""
WEIGHT_TOLERANCE = {"cpu": 5e-4, "cuda": 0.5}[DEVICE]
"""Of adapter weights after 20 steps of 5e-3: Adam divides by tiny second moments."""
RESUME_TOLERANCE = {"cpu": 1e-6, "cuda": 0.3}[DEVICE]
LEAK_TOLERANCE = {"cpu": 1e-4, "cuda": 0.1}[DEVICE]
"""Nats of any token. Attention across rows moves some tokens by more."""
needs_unsloth = pytest.mark.skipif(
    importlib.util.find_spec("unsloth") is None,
    reason="unsloth is not installed: it is an extra with pins of its own (pyproject.toml)",
)
ENGINES = ["peft", pytest.param("unsloth", marks=needs_unsloth)]


@pytest.fixture(scope="module")
def measured(tiny_model, tmp_path_factory):
    """Figures of an engine and the folder with its adapters, measured once."""
    known = {}

    def measure(engine):
        if engine in known:
            return known[engine]
        out = tmp_path_factory.mktemp(engine)
        if engine == "peft":
            figures = Bench(engine, tiny_model, out, DEVICE).figures()
            known[engine] = (json.loads(json.dumps(figures)), out)
            return known[engine]
        module = "qwenft_assets_tests.model.engine_figures"
        subprocess.run(
            [sys.executable, "-m", module, engine, str(tiny_model), str(out), DEVICE],
            env={**os.environ, ON_CPU_VARIABLE: "1", "OMP_NUM_THREADS": "1"},
            check=True,
        )
        known[engine] = (json.loads((out / "figures.json").read_text("utf-8")), out)
        return known[engine]

    return measure


def adapter(out, name):
    from safetensors.torch import load_file

    return load_file(out / f"{name}.safetensors")


def apart(weight, other):
    """The largest difference; on a GPU, whose sums vary from run to run, the relative one in norm."""
    if DEVICE == "cpu":
        return (weight - other).abs().max()
    return (weight - other).norm() / other.norm()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_row_loses_the_same_alone_and_among_others_flat_and_padded(measured, engine):
    figures, _ = measured(engine)
    together, *alone = figures["flat"]
    assert together == pytest.approx(sum(alone), abs=SUM_TOLERANCE)
    assert figures["padded"] == pytest.approx(figures["flat"], abs=SUM_TOLERANCE)
    assert figures["recomputed"] == pytest.approx(figures["flat"], abs=SUM_TOLERANCE)
    assert figures["answers"][0] < together


@pytest.mark.parametrize("engine", ENGINES)
def test_no_row_sees_another(measured, engine):
    assert measured(engine)[0]["leak"] < LEAK_TOLERANCE


@pytest.mark.skipif(DEVICE == "cpu", reason="one kernel for all rows is a matter of GPUs")
@pytest.mark.parametrize("engine", ENGINES)
def test_attention_runs_once_a_layer_and_not_once_a_row(measured, engine):
    calls = measured(engine)[0]["attention_calls"]
    assert calls
    assert max(calls.values()) == 2, calls  # the model has two layers


@pytest.mark.parametrize("engine", ENGINES)
def test_losses_and_noise_are_those_of_peft(measured, engine):
    """The same seed draws the same noise, bounded by each row's own length."""
    ours, theirs = measured(engine)[0], measured("peft")[0]
    for name in ("flat", "padded", "answers", "noisy"):
        assert ours[name] == pytest.approx(theirs[name], abs=SUM_TOLERANCE), name
    assert ours["noisy"][0] != pytest.approx(ours["flat"][0], abs=1e-3)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_trainer_is_trls_and_takes_the_rows_of_the_plan(measured, engine):
    """Unsloth's SFTConfig accumulates two batches a step where nothing says otherwise."""
    whole = measured(engine)[0]["whole"]
    assert whole["rows_of_steps"] == expected_order(16, 10, 3407, 8)
    assert whole["training_mode"]
    assert whole["dtypes"] == ["torch.float32"]
    patched = engine == "unsloth" and DEVICE == "cuda"  # there Unsloth's takes its place in trl
    name = (
        "UnslothSFTTrainer.UnslothSFTTrainer" if patched else "trl.trainer.sft_trainer.SFTTrainer"
    )
    assert whole["trainer"][1] == name


@pytest.mark.parametrize("engine", ENGINES)
def test_twenty_steps_end_in_the_same_adapter(measured, engine):
    (ours, out), (theirs, reference) = measured(engine), measured("peft")
    assert ours["whole"]["steps"] == 20
    for kind in ("train", "eval"):
        losses, expected = ([x for _, x in f["whole"][kind]] for f in (ours, theirs))
        assert losses == pytest.approx(expected, abs=LOSS_TOLERANCE), kind
    weights, expected = adapter(out, "whole"), adapter(reference, "whole")
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        assert apart(weight, expected[name]) < WEIGHT_TOLERANCE, name


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_that_was_cut_off_ends_as_one_that_was_not(measured, engine):
    figures, out = measured(engine)
    assert figures["resumed"]["steps"] == 20
    whole = adapter(out, "whole")
    for name, weight in adapter(out, "parts").items():
        assert apart(weight, whole[name]) < RESUME_TOLERANCE, name


@pytest.mark.parametrize("engine", ENGINES)
def test_the_attention_that_ran_is_recorded(measured, engine):
    seen = measured(engine)[0]["whole"]["attention"]
    if DEVICE == "cuda":
        assert seen in {"varlen_flash", "flash_varlen", "xformers"}
    else:
        assert seen == {"peft": "sdpa_by_row", "unsloth": "sdpa"}[engine]
