"""Full disks, damaged files, a clock set back, two runs at once: a whole artifact or one clear error."""

import json
import os
import shutil
import time

import pytest

from qwenft_assets.errors import MixtureError, StorageError
from qwenft_assets.mixture.build import build_mixture, read_mixture
from qwenft_assets.sources.sample import sample_source
from qwenft_assets.storage.integrity import check_artifacts
from qwenft_assets.storage.root import Storage
from qwenft_assets.training.job import plan_training, training_record, whole_adapter
from qwenft_assets_tests.faults.random_kills import PROCESSES, SOURCES, run_stage
from qwenft_assets_tests.faults.training_process import Training, moved

# Linux ends the process with SIGXFSZ unless it is ignored; then a write fails as on a full disk.
FULL_DISK = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
"""


IN_TEN_YEARS = time.time() + 10 * 365 * 86_400


@pytest.fixture
def built(training_job, tmp_path):
    """A storage with three samples and their mixture."""
    return Storage(moved(training_job, tmp_path).storage_root)


@pytest.fixture(scope="module")
def trained(training_job, tmp_path_factory):
    """A job whose adapter is there."""
    job = moved(training_job, tmp_path_factory.mktemp("trained"))
    assert Training(job).finish() == 0
    return job


def cut_in_half(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_a_byte(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGES = [pytest.param(cut_in_half, id="truncated"), pytest.param(flip_a_byte, id="flipped-byte")]


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "diff.json"
    }


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_sample_is_taken_again(built, tiny_config, damage):
    folder = built.source_sample("slimorca")
    before = (folder / "rows.parquet").read_bytes()
    damage(folder / "rows.parquet")
    with pytest.raises(MixtureError, match="slimorca"):
        build_mixture(
            tiny_config.model_copy(
                update={"mixture": tiny_config.mixture.model_copy(update={"seed": 1})}
            ),
            "small",
            built,
        )
    assert not sample_source(tiny_config, "slimorca", built).reused
    assert (folder / "rows.parquet").read_bytes() == before


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["rows.parquet", "mixed_finetune_dataset.jsonl"])
def test_a_damaged_mixture_is_built_again_to_the_same_bytes(built, tiny_config, damage, name):
    folder = built.mixed_dataset("small")
    before = contents(folder)
    damage(folder / name)
    assert [found.folder for found in check_artifacts(built) if found.problem] == [folder]
    assert not build_mixture(tiny_config, "small", built).reused
    assert contents(folder) == before


def test_a_corrupted_manifest_is_one_clear_error_with_the_way_out(built, tiny_config):
    manifest = built.mixed_dataset("small") / "manifest.json"
    before = contents(manifest.parent)
    cut_in_half(manifest)
    with pytest.raises(
        StorageError, match=rf"^{manifest}: not readable JSON .*Delete it to rebuild"
    ):
        build_mixture(tiny_config, "small", built)
    manifest.unlink()
    build_mixture(tiny_config, "small", built)
    assert contents(manifest.parent) == before


def test_a_truncated_parquet_is_named_when_it_is_read(built):
    rows = built.mixed_dataset("small") / "rows.parquet"
    cut_in_half(rows)
    with pytest.raises(StorageError, match=rf"^{rows}: not readable as parquet"):
        read_mixture(built, "small")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_adapter_counts_as_none_and_is_trained_again(trained, tmp_path, damage):
    job = moved(trained, tmp_path)
    storage = Storage(job.storage_root)
    file = storage.adapter("small", job.version) / "adapter_model.safetensors"
    before = file.read_bytes()
    assert whole_adapter(storage, "small", job.version) is not None
    damage(file)
    assert whole_adapter(storage, "small", job.version) is None
    assert training_record(storage, "small", job.version) is not None
    assert Training(job).finish() == 0
    assert file.read_bytes() == before


@pytest.mark.faults
@pytest.mark.parametrize("limit", [2_000, 60_000], ids=["no-room-at-all", "in-mid-checkpoint"])
def test_a_disk_that_fills_up_while_training_leaves_the_last_good_adapter(trained, tmp_path, limit):
    job = moved(trained, tmp_path)
    storage = Storage(job.storage_root)
    before = contents(storage.adapters("small"))
    other = job.model_copy(update={"version": "f" * 16})
    full = Training(other, fault=FULL_DISK.format(limit=limit))
    assert full.finish() == 2, full.said
    assert full.said[-1].startswith("StorageError: ")
    assert "Free space" in full.said[-1]
    kept = {path: value for path, value in before.items() if "checkpoints" not in str(path)}
    now = contents(storage.adapters("small"))
    assert {path: now.get(path) for path in kept} == kept
    assert Training(other).finish() == 0
    assert whole_adapter(storage, "small", other.version) is not None


def test_a_disk_that_is_full_leaves_the_last_good_mixture(built, tiny_config):
    before = contents(built.mixed_dataset("small"))
    changed = tiny_config.mixture.model_copy(update={"seed": 7})
    config = tiny_config.model_copy(update={"mixture": changed})
    process = PROCESSES.Process(target=mix_on_a_full_disk, args=(config, built.root))
    process.start()
    process.join(240)
    assert process.exitcode == 2
    assert contents(built.mixed_dataset("small")) == before
    assert [found.problem for found in check_artifacts(built) if found.problem] == []


def mix_on_a_full_disk(config, root):
    exec(FULL_DISK.format(limit=4_000))  # noqa: S102  (a test's own text)
    try:
        build_mixture(config, "small", Storage(root))
    except StorageError as error:
        if "cannot be written" in str(error):
            raise SystemExit(2) from error
        raise


def test_a_store_that_cannot_be_written_is_one_clear_error(built, tiny_config):
    # Root may write anywhere, so that a folder's mode proves nothing: a file stands in its way.
    shutil.rmtree(built.mixed_dataset("small"))
    built.mixed_dataset("small").write_text("in the way")
    with pytest.raises(StorageError, match="mixed_dataset/small"):
        build_mixture(tiny_config, "small", built)


@pytest.mark.faults
def test_a_clock_set_back_does_not_choose_the_older_checkpoint(training_job, tmp_path):
    job = moved(training_job, tmp_path)
    Training(job, "step 10/15 loss").kill_when_it_waits()
    adapters = Storage(job.storage_root).adapters("small")
    folders = sorted(adapters.glob(".*/checkpoint-*"), key=lambda path: int(path.name[11:]))
    assert folders[-1].name == "checkpoint-9"
    for n, folder in enumerate(folders):
        for path in [folder, *folder.iterdir()]:
            at = time.time() + 86_400 * (len(folders) - n)
            os.utime(path, (at, at))
    again = Training(job)
    assert again.finish() == 0
    assert "going on from checkpoint-9" in again.said


def test_artifacts_from_the_future_are_found_unchanged(built, tiny_config):
    for path in built.root.rglob("*"):
        os.utime(path, (IN_TEN_YEARS, IN_TEN_YEARS))
    assert build_mixture(tiny_config, "small", built).reused
    assert all(sample_source(tiny_config, source, built).reused for source in SOURCES)


@pytest.mark.faults
def test_two_runs_at_once_leave_one_whole_artifact_of_each_stage(
    training_job, tiny_config, tmp_path
):
    job = moved(training_job, tmp_path)
    storage = Storage(job.storage_root)
    shutil.rmtree(storage.mixed_dataset("small"))
    for stage in ("mixed_dataset", "lora_adapter"):
        pair = [
            PROCESSES.Process(target=run_stage, args=(stage, tiny_config, storage.root))
            for _ in range(2)
        ]
        for process in pair:
            process.start()
        for process in pair:
            process.join(240)
        assert [process.exitcode for process in pair] == [0, 0], stage
    assert [found.problem for found in check_artifacts(storage) if found.problem] == []
    version = plan_training(tiny_config, "small", storage, "cpu").version
    assert [path.name for path in storage.adapters("small").iterdir() if path.is_dir()] == [version]


def test_a_record_without_hashes_is_told(trained, tmp_path):
    storage = Storage(moved(trained, tmp_path).storage_root)
    record = next(storage.root.glob("lora_adapter/*/*/training.json"))
    values = json.loads(record.read_text(encoding="utf-8"))
    record.write_text(json.dumps({**values, "files": {}}), encoding="utf-8")
    (problem,) = [found.problem for found in check_artifacts(storage) if found.problem]
    assert problem == f"{record}: has no hashes; an older version wrote it"
