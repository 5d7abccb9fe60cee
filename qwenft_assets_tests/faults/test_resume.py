"""`kill -9` in mid-training: the next run goes on, and ends as if nothing had happened."""

import json
import shutil

import pytest

from qwenft_assets.storage.files import sha256_of_file
from qwenft_assets.storage.root import Storage
from qwenft_assets.training.job import training_record
from qwenft_assets_tests.faults.training_process import Training, moved

TOLERANCE = 1e-6
KILL_BEFORE_THE_SEAL = """
from qwenft_assets.training import watch
seal = watch.seal
def stop_instead(run, folder):
    if folder.name == "checkpoint-9":
        wait_for_the_kill()
    seal(run, folder)
watch.seal = stop_instead
"""


@pytest.fixture(scope="module")
def undisturbed(training_job, tmp_path_factory):
    """The storage of a training that nothing cut off, and its record."""
    job = moved(training_job, tmp_path_factory.mktemp("undisturbed"))
    assert Training(job).finish() == 0
    return adapter_of(job)


def adapter_of(job):
    from safetensors.numpy import load_file

    storage = Storage(job.storage_root)
    record = training_record(storage, "small", job.version)
    assert record is not None
    folder = storage.adapter("small", job.version)
    return load_file(folder / "adapter_model.safetensors"), record


def largest_difference(ours, theirs):
    assert ours.keys() == theirs.keys()
    return max(abs(ours[name] - theirs[name]).max() for name in ours)


@pytest.mark.parametrize(
    ("moment", "fault", "goes_on_from"),
    [
        pytest.param(
            *("step 2/15 loss", "", 0), id="before-the-first-checkpoint", marks=pytest.mark.faults
        ),
        pytest.param("step 8/15 loss", "", 6, id="between-two-checkpoints"),
        pytest.param("", KILL_BEFORE_THE_SEAL, 6, id="while-a-checkpoint-is-written"),
        pytest.param(
            *("best checkpoint", "", 15), id="after-the-last-step", marks=pytest.mark.faults
        ),
    ],
)
def test_a_killed_training_ends_as_an_undisturbed_one(
    training_job, undisturbed, tmp_path, moment, fault, goes_on_from
):
    job = moved(training_job, tmp_path)
    Training(job, moment, fault).kill_when_it_waits()
    assert training_record(Storage(job.storage_root), "small", job.version) is None
    again = Training(job)
    assert again.finish() == 0, again.said
    weights, record = adapter_of(job)
    begun = (
        f"going on from checkpoint-{goes_on_from}" if goes_on_from else "training from the start"
    )
    assert begun in again.said
    assert record["resumed_at"] == ([goes_on_from] if goes_on_from else [])
    undisturbed_weights, undisturbed_record = undisturbed
    assert largest_difference(weights, undisturbed_weights) <= TOLERANCE
    for kind in ("train", "eval", "learning_rate"):
        ours, theirs = record["loss_history"][kind], undisturbed_record["loss_history"][kind]
        assert [step for step, _ in ours] == [step for step, _ in theirs]
        assert [n for _, n in ours] == pytest.approx([n for _, n in theirs], abs=TOLERANCE)
    for name in ("steps", "best_step", "train_tokens", "train_rows"):
        assert record[name] == undisturbed_record[name], name


@pytest.mark.faults
def test_a_killed_training_goes_on_where_its_storage_was_moved(training_job, undisturbed, tmp_path):
    job = moved(training_job, tmp_path)
    Training(job, "step 8/15 loss").kill_when_it_waits()
    again = moved(job, tmp_path / "elsewhere")
    shutil.rmtree(job.storage_root)
    training = Training(again)
    assert training.finish() == 0, training.said
    assert "going on from checkpoint-6" in training.said
    weights, record = adapter_of(again)
    assert record["best_step"] == undisturbed[1]["best_step"]
    assert largest_difference(weights, undisturbed[0]) <= TOLERANCE


@pytest.mark.faults
def test_killed_twice_it_still_ends_the_same(training_job, undisturbed, tmp_path):
    job = moved(training_job, tmp_path)
    Training(job, "step 5/15 loss").kill_when_it_waits()
    Training(job, "step 13/15 loss").kill_when_it_waits()
    assert Training(job).finish() == 0
    weights, record = adapter_of(job)
    assert record["resumed_at"] == [3, 12]
    assert largest_difference(weights, undisturbed[0]) <= TOLERANCE


def test_every_file_of_the_adapter_is_in_its_record_with_its_hash(training_job, undisturbed):
    _, record = undisturbed
    assert set(record["files"]) >= {"adapter_model.safetensors", "loss.png", "tokenizer.json"}


def checkpoint_of(job, step):
    folder = Storage(job.storage_root).adapters("small") / f".{job.version}.checkpoints"
    return folder / f"checkpoint-{step}"


def flip_a_byte(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def other_torch(folder):
    path = folder / "complete.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["identity"]["libraries"]["torch"] = "1.0"
    path.write_text(json.dumps(record), encoding="utf-8")


@pytest.mark.faults
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(
            lambda folder: flip_a_byte(folder / "optimizer.pt"),
            "not gone on from: checkpoint-6 is damaged (optimizer.pt)",
            id="flipped-byte",
        ),
        pytest.param(
            lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"half"),
            "not gone on from: checkpoint-6 is damaged (adapter_model.safetensors)",
            id="truncated-safetensors",
        ),
        pytest.param(
            lambda folder: (folder / "complete.json").write_text("{"),
            "not gone on from: checkpoint-6 was not finished",
            id="corrupted-seal",
        ),
        pytest.param(
            other_torch,
            "not gone on from: checkpoint-6 was made with torch 1.0, now there is ",
            id="other-torch",
        ),
    ],
)
def test_a_checkpoint_of_no_use_is_left_and_told(
    training_job, undisturbed, tmp_path, damage, reason
):
    job = moved(training_job, tmp_path)
    Training(job, "step 7/15 loss").kill_when_it_waits()
    damage(checkpoint_of(job, 6))
    shutil.rmtree(checkpoint_of(job, 3), ignore_errors=True)
    again = Training(job)
    assert again.finish() == 0, again.said
    assert any(line.startswith(reason) for line in again.said), again.said
    weights, record = adapter_of(job)
    assert record["resumed_at"] == []
    assert largest_difference(weights, undisturbed[0]) <= TOLERANCE
    assert (
        sha256_of_file(
            Storage(job.storage_root).adapter("small", job.version) / "adapter_model.safetensors"
        )
        == record["files"]["adapter_model.safetensors"]
    )
