"""What is said when a remote root cannot be used: one line that names the URL and what to change."""

import socket
import subprocess
import sys

import pytest

from qwenft_assets.config import Config
from qwenft_assets.errors import StorageError
from qwenft_assets.storage.object_store import ObjectStore
from qwenft_assets.storage.root import Storage
from qwenft_assets_tests.commands import make_deployment
from qwenft_assets_tests.loopback_s3 import BUCKET, REFUSED_KEY


def complaint(url, tmp_path):
    with pytest.raises(StorageError) as raised:
        Storage(tmp_path, url).ensure_writable()
    text = str(raised.value)
    assert "\n" not in text
    assert text.startswith(url)
    assert "QWENFT_STORAGE" in text
    return text


def test_a_root_that_can_be_written_is_left_as_it_was(s3, tmp_path):
    Storage(tmp_path, f"s3://{BUCKET}/root").ensure_writable()
    assert ObjectStore(f"s3://{BUCKET}/root").keys() == []


def test_a_missing_bucket(s3, tmp_path):
    assert "bucket does not exist" in complaint("s3://no-such-bucket/root", tmp_path)
    with pytest.raises(StorageError, match="bucket does not exist"):
        ObjectStore("s3://no-such-bucket/root").read("any/current.json")


def test_a_key_that_the_store_refuses_is_not_tried_again(s3, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", REFUSED_KEY)
    assert "failed: " in complaint(f"s3://{BUCKET}/refused", tmp_path)
    assert len(s3.met) == 1


def test_no_keys_at_all(s3, tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    assert "credentials" in complaint(f"s3://{BUCKET}/no-keys", tmp_path).lower()


@pytest.mark.usefixtures("s3")
def test_a_store_that_cannot_be_reached(tmp_path, monkeypatch):
    monkeypatch.setattr("qwenft_assets.storage.object_store.ATTEMPTS", 2)
    monkeypatch.setattr("qwenft_assets.retries.LONGEST_WAIT_SECONDS", 0.01)
    retries = {"mode": "standard", "total_max_attempts": 1}
    settings = {"s3": {"config_kwargs": {"retries": retries}}}
    monkeypatch.setattr("qwenft_assets.storage.object_store.CLIENT_SETTINGS", settings)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed_port()}")
    assert "failed after 2 attempts: " in complaint(f"s3://{BUCKET}/down", tmp_path)


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [("s3://bucket/x", "s3fs", "s3"), ("gs://bucket/x", "gcsfs", "gs")],
)
def test_a_client_that_is_not_installed(url, module, extra):
    script = (
        "import sys; sys.modules[sys.argv[2]] = None\n"
        "from qwenft_assets.storage.object_store import ObjectStore\n"
        "from qwenft_assets.errors import StorageError\n"
        "try:\n    ObjectStore(sys.argv[1]).read('x')\n"
        "except StorageError as error:\n    print(error)"
    )
    told = subprocess.run(
        [sys.executable, "-c", script, url, module], capture_output=True, text=True, check=True
    ).stdout
    assert told.startswith(f"{url}: needs {module}. Run `pip install ")
    assert f"'.[{extra}]'" in told


def test_the_command_line_ends_with_2_and_one_line(s3, tmp_path):
    deployment = make_deployment(tmp_path, "no/model")
    answer = deployment.run(
        "qwenft", "releases", "list",
        more_environment={"QWENFT_STORAGE": "s3://no-such-bucket/root", **s3.environment()},
    )  # fmt: skip
    assert answer.returncode == 2, answer.stderr
    (line,) = answer.stderr.splitlines()
    assert line.startswith("qwenft: s3://no-such-bucket/root: failed: ")


@pytest.mark.parametrize("root", ["ftp://host/x", "s3://", "S3://bucket"])
def test_a_root_of_another_kind_is_refused_by_the_config(root):
    with pytest.raises(ValueError, match="neither a folder nor one of s3://, gs://, memory://"):
        Config(name="x", storage_root=root)


def test_each_remote_root_has_a_stage_of_its_own():
    one, other = (Config(name="x", storage_root=f"s3://bucket/{name}") for name in "ab")
    assert one.storage_path() != other.storage_path()
    assert Config(name="x", storage_root="s3://bucket/a/").storage_path() == one.storage_path()
    assert Config(
        name="x", storage_root="s3://b", stage_root="/fast"
    ).storage_path().as_posix() == ("/fast")
    assert Config(name="x", storage_root="out").storage_url() is None
