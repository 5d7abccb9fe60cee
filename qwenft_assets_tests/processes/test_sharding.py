"""Two processes hold the frozen weights together: half in each, the same losses, the same adapter.

fp32 on a CPU, without noise. Steps of an odd number of rows, of which a pass holds one: the two have
different numbers of passes.
"""

import json
import shutil
import struct

import pytest

from qwenft_assets.errors import ConfigError, EvaluationError
from qwenft_assets.evaluation.evaluate import evaluate
from qwenft_assets.evaluation.job import plan_evaluation
from qwenft_assets.evaluation.models import load_models, must_shard
from qwenft_assets.processes.ranks import ALONE, Ranks
from qwenft_assets.progress import no_progress
from qwenft_assets.storage.root import Storage
from qwenft_assets.training.job import plan_training, training_record
from qwenft_assets.training.run import TrainingRun
from qwenft_assets.training.train import train
from qwenft_assets_tests.evaluation.trained import build, tiny_config
from qwenft_assets_tests.processes.outcomes import LOSS_TOLERANCE, WEIGHT_TOLERANCE
from qwenft_assets_tests.processes.sharded_work import evaluated, held, passed, trained
from qwenft_assets_tests.processes.two_processes import WaitForTheKill, killed, together

GRADIENT_TOLERANCE = 1e-5
"""Sums of fp32 in another order: no room beside a sharded weight, so that B has a product of its own."""
ADAPTER = "adapter_model.safetensors"


@pytest.mark.parametrize("weights", ["fp32", "bf16"])
def test_each_process_holds_half_and_lets_go_of_what_it_gathers(base_model, weights):
    for found in together(held, base_model, weights):
        assert found["left"] == 0
        assert found["before"] == found["after"] == found["whole"] / 2


def test_losses_and_gradients_are_those_of_one_process(base_model):
    expected = passed(ALONE, base_model, "fp32")
    for found in together(passed, base_model, "fp32"):
        for (loss, gradients), (wanted, of_one) in zip(found, expected, strict=True):
            assert loss == pytest.approx(wanted, rel=1e-6)
            assert gradients.keys() == of_one.keys()
            for name, gradient in gradients.items():
                assert abs(gradient - of_one[name]).max() < GRADIENT_TOLERANCE, name


@pytest.fixture(scope="module")
def config(base_model):
    config = tiny_config(base_model)
    changes = {
        "neftune_alpha": None,
        "epochs": 2.0,
        "step_sequences": 7,
        "micro_batch_tokens": 300,
        "lora": config.training.lora.model_copy(update={"rank": 4}),
    }
    training = config.training.model_copy(update=changes)
    mixture = config.mixture.model_copy(update={"eval_fraction": 0.275})  # 11 of 40 rows
    return config.model_copy(update={"training": training, "mixture": mixture})


@pytest.fixture(scope="module")
def alone(config, tmp_path_factory):
    """The job, and what one process made of it."""
    storage = Storage(tmp_path_factory.mktemp("alone"))
    build(config, storage)
    job = plan_training(config, "small", storage, "cpu")
    record = train(TrainingRun(job))
    result = evaluate(plan_evaluation(config, job, storage), no_progress, lambda line: None)
    return job, record, result


def moved(job, folder, **settings):
    """The same job on a copy of its storage without the adapter."""
    root = shutil.copytree(job.storage_root, folder / "storage")
    shutil.rmtree(Storage(root).adapters("small"), ignore_errors=True)
    changed = job.settings.model_copy(update={"shard_base_weights": True, **settings})
    return job.model_copy(update={"storage_root": root, "settings": changed})


def weights_of(job):
    from safetensors.numpy import load_file

    return load_file(Storage(job.storage_root).adapter("small", job.version) / ADAPTER)


def header_of(job):
    """Names, shapes and places of the tensors in the adapter's file."""
    content = (Storage(job.storage_root).adapter("small", job.version) / ADAPTER).read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), len(content)


def largest_difference(one, other):
    ours, theirs = weights_of(one), weights_of(other)
    assert ours.keys() == theirs.keys()
    return max(abs(ours[name] - theirs[name]).max() for name in theirs)


@pytest.fixture(scope="module")
def sharded(alone, tmp_path_factory):
    """The same by two processes that hold the base together."""
    job = moved(alone[0], tmp_path_factory.mktemp("sharded"))
    record, of_other = together(trained, job)
    assert of_other.keys() == {"idle_passes"}
    assert record["idle_passes"] + of_other["idle_passes"] > 0
    return job, record


def test_training_is_that_of_one_process_and_of_two_that_hold_all(alone, sharded, tmp_path):
    (job, record, _), (ours, of_ours) = alone, sharded
    whole = moved(job, tmp_path, shard_base_weights=False)
    of_whole, _ = together(trained, whole)
    assert [found["shards"] for found in (record, of_ours, of_whole)] == [1, 2, 1]
    for other, of_other in ((job, record), (whole, of_whole)):
        for kind in ("learning_rate", "train", "eval"):
            found, expected = (one["loss_history"][kind] for one in (of_ours, of_other))
            assert [step for step, _ in found] == [step for step, _ in expected]
            numbers = [n for _, n in expected]
            assert [n for _, n in found] == pytest.approx(numbers, abs=LOSS_TOLERANCE)
        assert largest_difference(ours, other) <= WEIGHT_TOLERANCE
        for name in ("steps", "train_tokens", "padding_tokens", "best_step"):
            assert of_ours[name] == of_other[name], name


def test_the_published_adapter_is_as_any_other(alone, sharded, base_model):
    import peft
    from transformers import AutoModelForCausalLM

    job, _ = sharded
    assert header_of(job) == header_of(alone[0])
    folder, whole = (
        Storage(one.storage_root).adapter("small", one.version) for one in (job, alone[0])
    )
    config = "adapter_config.json"
    assert (folder / config).read_bytes() == (whole / config).read_bytes()
    base = AutoModelForCausalLM.from_pretrained(base_model)
    loaded = peft.PeftModel.from_pretrained(base, folder)
    found = peft.get_peft_model_state_dict(loaded)
    for name, values in weights_of(job).items():
        assert abs(found[name].numpy() - values).max() == 0, name


def test_a_killed_run_goes_on_and_ends_as_one_that_was_not(alone, sharded, tmp_path):
    job = moved(alone[0], tmp_path)
    killed(trained, job, WaitForTheKill("step 5/"))
    assert training_record(Storage(job.storage_root), "small", job.version) is None
    record, _ = together(trained, job)
    assert record["resumed_at"] == [4]
    assert largest_difference(job, sharded[0]) < 1e-6
    ours, theirs = (one["loss_history"]["eval"] for one in (record, sharded[1]))
    assert [n for _, n in ours] == pytest.approx([n for _, n in theirs], abs=1e-6)


def test_the_evaluation_is_that_of_one_process(config, alone, tmp_path):
    job, _, expected = alone
    storage = Storage(shutil.copytree(job.storage_root, tmp_path / "storage"))
    training = moved(job, tmp_path / "unused")
    planned = plan_evaluation(
        config, job.model_copy(update={"storage_root": storage.root}), storage
    )
    few_tokens = planned.settings.model_copy(update={"batch_tokens": 400})
    changes = {"training": training.settings, "settings": few_tokens}
    planned = planned.model_copy(update=changes)
    before = storage.evaluation("small", job.version) / "samples.jsonl"
    answers = before.read_text(encoding="utf-8")
    result, of_other = together(evaluated, planned)
    assert "the frozen weights of the layers are sharded over 2 processes" in of_other["log"]
    both = result["rows_a_pass"], of_other["rows_a_pass"]
    assert len(both[0]) == len(both[1])
    assert sum(both[0]) + sum(both[1]) > 2 * result["eval_rows"]  # some of them for nothing
    for name in ("eval_loss", "base_eval_loss", "delta_loss"):
        assert result[name] == pytest.approx(expected[name], abs=LOSS_TOLERANCE), name
    for name in ("eval_rows", "eval_tokens", "canaries"):
        assert result[name] == expected[name], name
    assert before.read_text(encoding="utf-8") == answers


def test_benchmarks_of_a_sharded_model_are_refused(config, alone):
    planned = plan_evaluation(config, alone[0], Storage(alone[0].storage_root))
    training = planned.training.model_copy(update={"shard_base_weights": True})
    settings = planned.settings.model_copy(update={"benchmarks": ("hellaswag",)})
    job = planned.model_copy(update={"training": training, "settings": settings})

    class Two(Ranks):
        def main_process_first(self):
            return ALONE.main_process_first()

    with pytest.raises(EvaluationError, match=r"^evaluation\.benchmarks: .* 2 hold the base"):
        load_models(job, Storage(alone[0].storage_root), print, Two(0, 2))


def test_one_process_cannot_shard(alone, tmp_path):
    job = moved(alone[0], tmp_path)
    with pytest.raises(ConfigError, match=r"one process trains\. Set launcher\.kind"):
        train(TrainingRun(job))


@pytest.mark.parametrize(
    ("asked", "free_gib", "expected"),
    [
        pytest.param("auto", 10, False, id="room"),
        pytest.param("auto", 4, True, id="no-room"),
        pytest.param(False, 4, False, id="off"),
        pytest.param(True, 10, True, id="on"),
    ],
)
def test_a_gpu_evaluates_sharded_where_it_has_no_room(
    config, alone, base_model, monkeypatch, asked, free_gib, expected
):
    import torch

    class Two(Ranks):
        def gather(self, items):
            return [*items, 20.0]  # the other GPU has more free

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free_gib * 2**30, 0))
    planned = plan_evaluation(config, alone[0], Storage(alone[0].storage_root))
    training = planned.training.model_copy(update={"shard_base_weights": asked})
    job = planned.model_copy(update={"training": training, "device": "cuda"})
    assert must_shard(job, base_model, Two(0, 2)) == expected
