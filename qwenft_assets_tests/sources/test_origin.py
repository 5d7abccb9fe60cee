"""Folders and the Hub are read by one code, and what is not there is named."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qwenft_assets.errors import SourceError
from qwenft_assets.sources.origin import SAMPLES_FOLDER, Repository, open_repository

REPO_ID = "owner/name"
OPENS_THE_HUB = """
from qwenft_assets.errors import SourceError
from qwenft_assets.sources.origin import open_repository
try:
    open_repository("hub", "owner/name")
except SourceError as error:
    print(error)
"""


@pytest.fixture
def repository(tmp_path) -> Repository:
    data = tmp_path / "owner" / "name" / "data"
    (data / "sub").mkdir(parents=True)
    (data / "sub" / "b.parquet").write_bytes(b"b")
    (data / "a.parquet").write_bytes(b"a")
    (data / "README.md").write_bytes(b"no data")
    return open_repository(str(tmp_path), REPO_ID)


def hub_message(**environment: str) -> str:
    """What opening a Hub repository says in a process of its own: the client reads it once."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    result = subprocess.run(
        [sys.executable, "-c", OPENS_THE_HUB],
        env=known | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return result.stdout


def test_files_are_sorted_and_relative_to_the_repository(repository):
    assert repository.files("data", ".parquet") == ["data/a.parquet", "data/sub/b.parquet"]
    assert repository.files("", ".md") == ["data/README.md"]
    assert repository.files("elsewhere", ".parquet") == []


def test_file_is_read_by_its_path(repository):
    with repository.open("data/sub/b.parquet") as file:
        assert file.read() == b"b"
        assert file.seek(0) == 0


def test_folder_that_is_not_there_is_named_with_the_choices(tmp_path):
    with pytest.raises(SourceError) as raised:
        open_repository(str(tmp_path / "nowhere"), REPO_ID)
    message = str(raised.value)
    assert message.startswith(f"{tmp_path / 'nowhere' / 'owner' / 'name'}: no such folder.")
    assert "QWENFT_SOURCES_ORIGIN" in message
    assert "`samples`, `hub`, or a folder" in message


def test_file_instead_of_a_repository_folder_is_refused(tmp_path):
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name").write_text("")
    with pytest.raises(SourceError, match="no such folder"):
        open_repository(str(tmp_path), REPO_ID)


def test_no_file_of_the_kind_is_an_error_that_names_the_folder(repository):
    with pytest.raises(SourceError, match=rf"^{repository.root}/data: holds no \*\.jsonl file"):
        repository.require_files("data", ".jsonl")


def test_file_that_vanished_is_named(repository):
    with (
        pytest.raises(SourceError, match=r"gone\.parquet: cannot be read: .*No such file"),
        repository.open("data/gone.parquet"),
    ):
        pass


def test_bundled_samples_hold_the_three_repositories():
    for repo_id in (
        "Open-Orca/SlimOrca",
        "qiaojin/PubMedQA",
        "HuggingFaceH4/stack-exchange-preferences",
    ):
        repository = open_repository("samples", repo_id)
        assert Path(repository.root) == SAMPLES_FOLDER / repo_id
        assert repository.commit is None


def test_home_and_parent_folders_may_be_named(tmp_path, monkeypatch, repository):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "below").mkdir()
    for origin in ("~", str(tmp_path / "below" / "..")):
        found = open_repository(origin, REPO_ID).files("data", ".parquet")
        assert found == repository.files("data", ".parquet")


def test_revision_of_a_folder_is_the_same_wherever_it_lies(tmp_path, repository):
    shutil.copytree(tmp_path / "owner", tmp_path / "copy" / "owner")
    copy = open_repository(str(tmp_path / "copy"), REPO_ID)
    files = repository.files("data", ".parquet")
    assert copy.revision_of(files) == repository.revision_of(files)
    assert len(repository.revision_of(files)) == 64


def test_revision_of_a_folder_follows_its_files(tmp_path, repository):
    files = repository.files("data", ".parquet")
    before = repository.revision_of(files)
    assert repository.revision_of(files[:1]) != before
    (tmp_path / "owner" / "name" / "data" / "README.md").write_bytes(b"changed")
    assert repository.revision_of(files) == before
    (tmp_path / "owner" / "name" / "data" / "a.parquet").write_bytes(b"A")
    changed = repository.revision_of(files)
    assert changed != before
    (tmp_path / "owner" / "name" / "data" / "a.parquet").rename(
        tmp_path / "owner" / "name" / "data" / "c.parquet"
    )
    assert repository.revision_of(repository.files("data", ".parquet")) not in {before, changed}


def test_hub_that_is_switched_off_is_said_in_one_line():
    message = hub_message(HF_HUB_OFFLINE="1")
    assert message.startswith("owner/name: HF_HUB_OFFLINE is set")
    assert message.count("\n") == 1


def test_hub_that_cannot_be_reached_is_said_in_one_line():
    # Port 9 of this machine: nobody listens there.
    message = hub_message(HF_ENDPOINT="http://127.0.0.1:9")
    assert message.startswith("owner/name@main: http://127.0.0.1:9 failed after 8 attempts: ")
    assert "QWENFT_SOURCES_ORIGIN=samples" in message
    assert message.count("\n") == 1
