"""Nothing half-written is ever seen: not after an error, not after a kill."""

import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwenft_assets.errors import StorageError
from qwenft_assets.storage.files import (
    atomic_folder,
    atomic_path,
    is_intact,
    sha256_of_file,
    write_json,
    write_parquet,
    write_text,
)
from qwenft_assets.storage.root import Storage

DIES_IN_MID_WRITE = """
import sys, time
from pathlib import Path
from qwenft_assets.storage.files import atomic_path
with atomic_path(Path(sys.argv[1])) as part, part.open("w") as file:
    file.write("half of the new")
    file.flush()
    print("written", flush=True)
    time.sleep(60)
"""

DIES_BETWEEN_TWO_RENAMES = """
import os, sys
from pathlib import Path
from qwenft_assets.storage.files import atomic_folder
rename = Path.replace
def die_instead(self, target):
    if self.name.endswith(".part"):
        os.kill(os.getpid(), 9)
    return rename(self, target)
Path.replace = die_instead
with atomic_folder(Path(sys.argv[1])) as part:
    (part / "new.txt").write_text("new")
"""


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_every_artifact_has_its_place():
    storage = Storage(Path("/root-of-it"))
    places = {
        "source_sample/slimorca": storage.source_sample("slimorca"),
        "mixed_dataset/small": storage.mixed_dataset("small"),
        "lora_adapter/small": storage.adapters("small"),
        "lora_adapter/small/v1": storage.adapter("small", "v1"),
        "evaluation/small/v1": storage.evaluation("small", "v1"),
        "release/small": storage.release("small"),
        "cache/tokens": storage.cache("tokens"),
    }
    assert {name: str(path) for name, path in places.items()} == {
        name: f"/root-of-it/{name}" for name in places
    }


def test_file_appears_whole_with_its_folders(tmp_path):
    path = tmp_path / "a" / "b" / "text.txt"
    with atomic_path(path) as part:
        part.write_text("new")
        assert not path.exists()
        assert part.parent == path.parent
    assert path.read_text() == "new"
    assert names_in(path.parent) == ["text.txt"]


def test_old_file_stays_when_the_block_raises(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("old")

    def fail_in_mid_write() -> None:
        with atomic_path(path) as part:
            part.write_text("half of the new")
            raise KeyError("a bug")

    with pytest.raises(KeyError):
        fail_in_mid_write()
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["text.txt"]


def test_file_has_the_mode_of_any_other_file(tmp_path):
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "atomic", "")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_kill_in_mid_write_leaves_the_old_content_and_the_next_write_succeeds(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("old")
    with subprocess.Popen(
        [sys.executable, "-c", DIES_IN_MID_WRITE, str(path)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "written\n"
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"


def test_folder_replaces_the_old_one_as_a_whole(tmp_path):
    path = tmp_path / "adapter"
    path.mkdir()
    (path / "old.txt").write_text("old")
    with atomic_folder(path) as part:
        (part / "new.txt").write_text("new")
        assert names_in(path) == ["old.txt"]
    assert names_in(path) == ["new.txt"]
    assert names_in(tmp_path) == ["adapter"]


def test_old_folder_stays_when_the_block_raises(tmp_path):
    path = tmp_path / "adapter"
    path.mkdir()
    (path / "old.txt").write_text("old")

    def fail_in_mid_write() -> None:
        with atomic_folder(path) as part:
            (part / "new.txt").write_text("new")
            raise KeyError("a bug")

    with pytest.raises(KeyError):
        fail_in_mid_write()
    assert names_in(path) == ["old.txt"]
    assert names_in(tmp_path) == ["adapter"]


def test_kill_between_the_two_renames_of_a_folder_loses_nothing(tmp_path):
    path = tmp_path / "adapter"
    path.mkdir()
    (path / "old.txt").write_text("old")
    command = [sys.executable, "-c", DIES_BETWEEN_TWO_RENAMES, str(path)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not path.exists(), "this test needs the moment in which the folder stands aside"
    Storage(tmp_path).recover()
    assert names_in(path) == ["old.txt"]
    assert names_in(tmp_path) == ["adapter"]


def test_recovery_leaves_what_a_living_process_writes(tmp_path):
    with atomic_folder(tmp_path / "adapter") as part, atomic_path(tmp_path / "text") as text:
        text.write_text("new")
        Storage(tmp_path).recover()
        assert part.is_dir()
    assert names_in(tmp_path) == ["adapter", "text"]


def test_recovery_removes_what_killed_writes_left(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", DIES_IN_MID_WRITE, str(tmp_path / "text")],
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.kill()
    assert len(names_in(tmp_path)) == 1
    Storage(tmp_path).recover()
    assert names_in(tmp_path) == []


def test_too_little_space_is_told_with_what_is_missing(tmp_path):
    storage = Storage(tmp_path)
    storage.require_free(0.0, "nothing")
    with pytest.raises(StorageError, match=r"GiB free, a whale needs 1000000\.0\. Free \d"):
        storage.require_free(1e6, "a whale")


def test_root_is_created_and_left_empty(tmp_path):
    storage = Storage(tmp_path / "a" / "b")
    storage.ensure_writable()
    assert names_in(storage.root) == []
    storage.ensure_writable()


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("a-file", id="a-file-in-the-way"),
        pytest.param("a-file/below", id="below-a-file"),
        pytest.param("/dev/null/x", id="below-a-device"),
    ],
)
def test_root_that_cannot_be_written_is_named_with_a_way_out(tmp_path, place):
    (tmp_path / "a-file").write_text("")
    storage = Storage(tmp_path / place)
    with pytest.raises(StorageError) as raised:
        storage.ensure_writable()
    assert str(raised.value).startswith(f"{tmp_path / place}: storage root cannot be written (")
    assert "QWENFT_STORAGE" in str(raised.value)


def test_write_that_fails_names_the_file_not_its_part(tmp_path):
    (tmp_path / "a-file").write_text("")
    path = tmp_path / "a-file" / "manifest.json"
    with pytest.raises(StorageError, match=f"^{path}: cannot be written"):
        write_json(path, {})


def test_lock_is_held_by_one_process_at_a_time(storage):
    takes_the_lock = (
        "import sys; from pathlib import Path; from qwenft_assets.storage.root import Storage\n"
        "with Storage(Path(sys.argv[1])).lock('x'): print('got it', flush=True)"
    )
    with storage.lock("x"):
        child = subprocess.Popen(
            [sys.executable, "-c", takes_the_lock, str(storage.root)],
            stdout=subprocess.PIPE,
            text=True,
        )
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(timeout=1.0)
    output, _ = child.communicate(timeout=30)
    assert output == "got it\n"


def test_parquet_bytes_depend_on_the_table_alone(tmp_path):
    table = pa.table({"text": [f"row {n}" for n in range(20_000)]})
    in_chunks = pa.concat_tables([table.slice(0, 7_000), table.slice(7_000)])
    write_parquet(tmp_path / "a.parquet", table)
    write_parquet(tmp_path / "elsewhere" / "b.parquet", in_chunks)
    assert sha256_of_file(tmp_path / "a.parquet") == sha256_of_file(
        tmp_path / "elsewhere" / "b.parquet"
    )
    assert pq.read_table(tmp_path / "a.parquet").equals(table)


def test_file_is_intact_only_with_exactly_its_hash(tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of_file(path) == digest
    assert is_intact(path, digest)
    assert not is_intact(path, None)
    assert not is_intact(tmp_path / "missing", digest)
    assert not is_intact(tmp_path, digest)
    path.write_bytes(b"abd")
    assert not is_intact(path, digest)
