"""Memory runs out in mid-step: the step is done in smaller passes, and learns the same."""

import re

import pytest

from qwenft_assets.config import TrainingConfig
from qwenft_assets.errors import DeviceError
from qwenft_assets.model.memory import MemoryPlan
from qwenft_assets.processes.ranks import Ranks
from qwenft_assets.storage.root import Storage
from qwenft_assets.training.forecast import SHAPES
from qwenft_assets.training.forward_passes import Passes
from qwenft_assets.training.job import training_record
from qwenft_assets.training.out_of_memory import OutOfMemory
from qwenft_assets_tests.faults.training_process import Training, moved
from qwenft_assets_tests.training.tiny_rows import token_rows, training_run

# What torch raises on a GPU, from the first pass of more tokens than "fit".
NO_ROOM = """
import torch
from qwenft_assets.training.forward_passes import Passes
kept = {{name: getattr(Passes, name) for name in ("sum_of_losses", "sum_without_gradient")}}
def limited(name):
    def within(self, rows, *arguments):
        self.last_tokens = sum(len(row.input_ids) for row in rows)
        if name in {which!r} and min(self.last_tokens, self.max_tokens) > {tokens}:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return kept[name](self, rows, *arguments)
    return within
for name in kept:
    setattr(Passes, name, limited(name))
"""
TOLERANCE = 2e-4
"""Of adapter weights after steps of 1e-2: fp32 sums in another order."""


@pytest.fixture(scope="module")
def quiet_job(training_job):
    """Without noise, which is drawn pass by pass."""
    settings = training_job.settings.model_copy(update={"neftune_alpha": None})
    return training_job.model_copy(update={"settings": settings})


def trained(job):
    from safetensors.numpy import load_file

    storage = Storage(job.storage_root)
    record = training_record(storage, "small", job.version)
    assert record is not None
    return load_file(storage.adapter("small", job.version) / "adapter_model.safetensors"), record


@pytest.mark.parametrize(
    "which",
    [
        pytest.param(("sum_of_losses",), id="step"),
        pytest.param(("sum_without_gradient",), id="evaluation", marks=pytest.mark.faults),
    ],
)
def test_passes_are_halved_and_the_adapter_is_the_same(quiet_job, tmp_path, which):
    plenty = moved(quiet_job, tmp_path / "plenty")
    assert Training(plenty).finish() == 0
    tight = moved(quiet_job, tmp_path / "tight")
    run = Training(tight, fault=NO_ROOM.format(which=which, tokens=700))
    assert run.finish() == 0, run.said
    halvings = [line for line in run.said if line.startswith("out of memory at step ")]
    assert 1 <= len(halvings) <= 2
    assert "Tried to allocate 2.00 GiB" in halvings[0]
    weights, record = trained(plenty)
    other_weights, other_record = trained(tight)
    assert len(other_record["halved_at"]) == len(halvings)
    assert record["halved_at"] == []
    assert other_record["train_tokens"] == record["train_tokens"]
    for name, values in weights.items():
        assert abs(values - other_weights[name]).max() < TOLERANCE, name


def test_after_two_halvings_one_message_names_three_settings_and_what_they_bring(
    quiet_job, tmp_path
):
    job = moved(quiet_job, tmp_path)
    run = Training(job, fault=NO_ROOM.format(which=("sum_of_losses",), tokens=0))
    assert run.finish() == 2
    assert len([line for line in run.said if line.startswith("out of memory at step 0 (")]) == 2
    message = run.said[-1]
    assert message.startswith("DeviceError: out of memory at step 0 with passes of ")
    for setting in (
        "training.weights: bf16 (the weights take ",
        "training.max_length_tokens: 128 (a row keeps ",
        "training.lora.rank: 8 (the optimizer takes ",
    ):
        assert setting in message
    assert training_record(Storage(job.storage_root), "small", job.version) is None


@pytest.mark.faults
def test_what_is_no_lack_of_memory_is_a_bug(quiet_job, tmp_path):
    fault = NO_ROOM.format(which=("sum_of_losses",), tokens=0).replace(
        "torch.OutOfMemoryError(", "RuntimeError("
    )
    run = Training(moved(quiet_job, tmp_path), fault=fault)
    assert run.finish() == 1
    assert [line for line in run.said if line.startswith("out of memory")] == []


@pytest.mark.parametrize(
    ("weights", "keep_4bit", "advice"),
    [
        pytest.param("bf16", False, "training.weights: nf4 (the weights take 5.7 GiB", id="bf16"),
        pytest.param("nf4", False, "training.max_vram_gib: 18 (the weights take 5.7", id="nf4-16"),
        pytest.param("nf4", True, "training.max_vram_gib below what other", id="nf4-in-4-bits"),
    ],
)
def test_the_first_advice_is_what_is_left_to_do_about_the_weights(
    tmp_path, weights, keep_4bit, advice
):
    shape = SHAPES["Qwen/Qwen2.5-7B-Instruct"]
    run = training_run(TrainingConfig(weights=weights), tmp_path)
    passes = Passes(None, None, 100, None, True)
    plan = MemoryPlan(keep_4bit, True, 100, {"weights": 10.0})
    memory = OutOfMemory(run, None, passes, plan)
    found = re.sub(r"(\.\d)\d", r"\1", memory._lighter_weights(shape))
    assert found.startswith(advice), found


def test_processes_that_share_a_model_do_not_halve_their_passes(tiny_config, base_model, tmp_path):
    """One that began its step anew would wait for layers that the others do not send."""
    import torch

    from qwenft_assets.model.engines.peft import add_lora, load_base

    settings = tiny_config.training
    model = add_lora(load_base(base_model, "fp32", "cpu"), settings.lora)
    passes = Passes(model, None, 100, None, False, in_step=Ranks(0, 2))
    memory = OutOfMemory(training_run(settings, tmp_path), model, passes, None)

    def without_room():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(DeviceError, match=r"cannot halve .*training\.micro_batch_tokens: 50; "):
        memory.retried(without_room, 3)


def test_an_evaluation_cuts_its_batch_in_two_until_it_fits():
    import torch

    from qwenft_assets.evaluation import losses

    tried: list[int] = []

    def at_most_two_rows(rows):
        tried.append(len(rows))
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return lambda: [row.row_id for row in rows]

    rows, room = token_rows(*[8] * 7), losses.MemoryLimit()
    expected = [row.row_id for row in rows]
    assert losses._within_memory(at_most_two_rows, rows, room)() == expected
    assert tried == [7, 3, 1, 2, 2, 2]
    assert losses._within_memory(at_most_two_rows, rows, room)() == expected
    assert tried[6:] == [1, 2, 2, 2]  # what had no room once is not tried again
    with pytest.raises(DeviceError, match="with a single row of 8 tokens"):
        losses._within_memory(no_room_at_all, rows, losses.MemoryLimit())
    with pytest.raises(DeviceError, match=r"with 7 rows, .* Lower evaluation\.batch_tokens"):
        losses._within_memory(no_room_at_all, rows, losses.MemoryLimit(), can_retry=False)


def no_room_at_all(rows):
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory.")
