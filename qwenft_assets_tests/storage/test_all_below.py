"""Checkpoints of a training away from its step's machine: the store and a stage hold the same ones."""

import pytest

from qwenft_assets.config import TrainingConfig
from qwenft_assets.errors import StorageError
from qwenft_assets.storage.root import ALL, Storage
from qwenft_assets.training.checkpoints import send_checkpoints
from qwenft_assets_tests.loopback_s3 import BUCKET
from qwenft_assets_tests.training.tiny_rows import training_run

FAILING = 0.1


@pytest.fixture(params=["s3", "memory"])
def machines(request, tmp_path):
    """Two of them with stages of one remote root; on S3, a tenth of the requests fails."""
    if request.param == "memory":
        url = f"memory://{tmp_path.name}"
    else:
        request.getfixturevalue("s3").failing = FAILING
        url = f"s3://{BUCKET}/{tmp_path.name}"
    found = Storage(tmp_path / "here", url), Storage(tmp_path / "there", url)
    for storage in found:
        storage.ensure_writable()
    return found


def checkpoints_of(storage):
    return storage.adapters("small") / ".version.checkpoints"


def save(storage, step, content=b"state"):
    folder = checkpoints_of(storage) / f"checkpoint-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "optimizer.pt").write_bytes(content)
    return folder


def found_in(storage):
    return {
        file.parent.name: file.read_bytes()
        for file in checkpoints_of(storage).glob("checkpoint-*/optimizer.pt")
    }


def test_another_machine_has_the_checkpoints_that_were_kept(machines):
    here, there = machines
    first = save(here, 2, b"first")
    here.sync_up(first.parent)
    save(here, 4)
    remove_locally(first)
    save(here, 12, b"newest")
    here.sync_up(first.parent)
    there.sync_down(checkpoints_of(there))
    assert found_in(there) == {"checkpoint-4": b"state", "checkpoint-12": b"newest"}


def test_what_the_store_has_not_is_removed_before_a_training_goes_on(machines):
    here, there = machines
    save(there, 3, b"never sent")
    save(there, 2, b"of another run")
    save(here, 2)
    here.sync_up(checkpoints_of(here))
    there.sync_down(checkpoints_of(there))
    assert found_in(there) == {"checkpoint-2": b"state"}


def test_a_checkpoint_takes_the_place_of_one_of_the_same_step(machines):
    here, there = machines
    for storage, content in ((here, b"of a run that was cut off"), (there, b"of this one")):
        save(storage, 2, content)
        storage.sync_up(checkpoints_of(storage))
    here.sync_down(checkpoints_of(here))
    assert found_in(here) == {"checkpoint-2": b"of this one"}


def test_checkpoints_that_are_gone_here_are_removed_there(machines):
    here, there = machines
    remove_locally(save(here, 2))
    here.sync_up(checkpoints_of(here))
    save(there, 4)
    there.sync_down(checkpoints_of(there))
    assert found_in(there) == {}


def test_readers_of_artifacts_do_not_fetch_checkpoints(machines):
    here, there = machines
    here.sync_up(save(here, 2).parent)
    there.fetch(there.root / ALL)
    assert found_in(there) == {}


def test_a_step_ends_with_what_a_process_elsewhere_uploaded_for_it(machines):
    here, there = machines
    folders = [storage.adapter("small", "version") for storage in machines]
    with here.working_on(makes=[folders[0]]), there.working_on(makes=[folders[1]]):
        folders[1].mkdir(parents=True)
        (folders[1] / "training.json").write_bytes(b"made there")
    assert (folders[0] / "training.json").read_bytes() == b"made there"
    there.remove(folders[1])


def test_a_store_that_cannot_be_written_is_told_and_training_goes_on(tmp_path, monkeypatch):
    def refuse(*_):
        raise StorageError("s3://bucket: failed")

    monkeypatch.setattr(Storage, "sync_up", refuse)
    said = []
    send_checkpoints(training_run(TrainingConfig(), tmp_path, log=said.append))
    assert said == ["checkpoints not sent: s3://bucket: failed"]


def remove_locally(folder):
    (folder / "optimizer.pt").unlink()
    folder.rmdir()
