"""What `qwenft doctor` looks at: real package metadata, real folders, no network."""

import json
import re
from importlib.metadata import version

import pytest
import typer

from qwenft_assets.cli.doctor import (
    _dagster,
    _disk,
    _examine,
    _gpu_packages,
    _packages,
    _storage,
    doctor,
)
from qwenft_assets.config import PROJECT_ROOT, Config
from qwenft_assets.errors import QwenftError
from qwenft_assets.model.device import Device
from qwenft_assets.storage.files import sha256_of_file, write_json
from qwenft_assets_tests.commands import make_deployment
from qwenft_assets_tests.tiny_model import write_tiny_model


def put_distribution(folder, name, number):
    """Metadata of an installed package, in front of the real one."""
    info = folder / f"{name}-{number}.dist-info"
    info.mkdir()
    content = f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n"
    (info / "METADATA").write_text(content, encoding="utf-8")


def config_in(folder, name="tiny"):
    return Config(name=name, storage_root=str(folder))


@pytest.fixture
def deployment(tmp_path, monkeypatch):
    """A deployment of a tiny base model that this process finds by its environment."""
    write_tiny_model(tmp_path / "base")
    deployment = make_deployment(tmp_path / "deployment", tmp_path / "base")
    # The name `demo` asks for 2 GiB of disk rather than 40.
    deployment.config.write_text(
        "name: demo\n" + deployment.config.read_text(encoding="utf-8"), encoding="utf-8"
    )
    for name in ("DAGSTER_HOME", "QWENFT_CONFIG", "QWENFT_STORAGE", "COLUMNS"):
        monkeypatch.setenv(name, deployment.environment()[name])
    monkeypatch.delenv("QWENFT_SOURCES_ORIGIN", raising=False)
    return deployment


def test_installed_packages_are_within_their_caps():
    found = _packages()
    assert re.match(r"\d+ within their caps: torch ", found)
    assert f"peft {version('peft')}" in found
    assert f"dagster {version('dagster')}" in found


@pytest.mark.parametrize(
    ("name", "number", "cap"),
    [
        pytest.param("peft", "0.1.0", ">=0.20", id="too-old"),
        pytest.param("transformers", "99.0", "<=5.17.0", id="too-new"),
    ],
)
def test_a_package_outside_its_cap_is_named(tmp_path, monkeypatch, name, number, cap):
    put_distribution(tmp_path, name, number)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(QwenftError, match=f"^{name} {number} is not .*{cap}.* Run `make install`"):
        _packages()


def test_every_package_outside_its_cap_is_named_at_once(tmp_path, monkeypatch):
    for name in ("peft", "accelerate"):
        put_distribution(tmp_path, name, "0.1.0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(QwenftError) as caught:
        _packages()
    assert {"peft 0.1.0", "accelerate 0.1.0"} <= set(re.findall(r"\w+ 0\.1\.0", str(caught.value)))


def test_packages_for_a_gpu_are_looked_for_where_there_is_one(tmp_path, monkeypatch):
    gpu = Device("cuda", "H200", 139.0, 140.0)
    monkeypatch.setitem(_gpu_packages.__globals__, "find_gpus", list)
    assert _gpu_packages() == "no GPU, so none is needed"
    monkeypatch.setitem(_gpu_packages.__globals__, "find_gpus", lambda: [gpu])
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert _gpu_packages().startswith("none; bitsandbytes and unsloth missing: `make install`")
    put_distribution(tmp_path, "bitsandbytes", "0.50.2")
    assert _gpu_packages().startswith("bitsandbytes 0.50.2; unsloth missing: `make install`")
    put_distribution(tmp_path, "unsloth", "2026.10.9")
    assert _gpu_packages() == "bitsandbytes 0.50.2, unsloth 2026.10.9"


def test_free_disk_is_told_for_a_storage_that_is_not_there_yet(tmp_path):
    found = _disk(config_in(tmp_path / "not" / "yet", "demo"))
    assert re.fullmatch(r"\d+\.\d GiB free", found)
    assert not (tmp_path / "not").exists()


def test_a_full_disk_is_told_with_what_is_needed():
    """/proc is a file system without a free byte."""
    with pytest.raises(QwenftError, match=r"^0\.0 GiB free, 40 needed .* set QWENFT_STORAGE"):
        _disk(config_in("/proc"))
    with pytest.raises(QwenftError, match=r"^0\.0 GiB free, 2 needed"):
        _disk(config_in("/proc", "demo"))


def test_a_dagster_home_without_its_file_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with pytest.raises(QwenftError, match=r"has no dagster\.yaml, so the GPU would have no queue"):
        _dagster()
    content = (PROJECT_ROOT / "dagster_home" / "dagster.yaml").read_text(encoding="utf-8")
    (tmp_path / "dagster.yaml").write_text(content, encoding="utf-8")
    assert f"runs are kept in {tmp_path};" in _dagster()


def test_a_dagster_home_that_is_not_there_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "gone"))
    with pytest.raises(QwenftError, match="gone: no such folder"):
        _dagster()


def test_a_storage_root_that_cannot_be_one_is_told(tmp_path, monkeypatch):
    monkeypatch.delenv("QWENFT_STORAGE", raising=False)
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(QwenftError, match=r"file/out: storage root cannot be written \(Not a dir"):
        _storage(config_in(tmp_path / "file" / "out"))
    assert _storage(config_in(tmp_path / "out")) == str(tmp_path / "out")


def test_a_mistake_is_a_finding_and_a_bug_is_not():
    def look(error):
        raise error

    examined = _examine("disk", lambda: look(QwenftError("full. Free space.")))
    assert examined == ("disk", False, "full. Free space.")
    with pytest.raises(ZeroDivisionError):
        _examine("disk", lambda: look(ZeroDivisionError()))


def test_a_sound_machine_passes_and_every_look_is_shown(deployment, capsys):
    doctor(as_json=True)
    results = json.loads(capsys.readouterr().out)
    assert [result["name"] for result in results] == [
        "python", "packages", "config", "device", "GPU packages", "engine", "base model", "storage", "disk", "dagster",
    ]  # fmt: skip
    assert all(result["ok"] for result in results), results
    found = {result["name"]: result["found"] for result in results}
    assert "small 40 rows" in found["config"]
    assert found["device"].startswith("cpu, ")
    assert found["storage"] == str(deployment.storage)


def test_what_is_wrong_stands_in_the_table_and_the_exit_code_is_2(deployment, monkeypatch, capsys):
    broken = deployment.folder / "a [gpu] file"
    broken.write_text("", encoding="utf-8")
    monkeypatch.setenv("QWENFT_STORAGE", str(broken / "out"))
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(typer.Exit) as caught:
        doctor()
    assert caught.value.exit_code == 2
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if " storage " in line and "cannot be written" in line]
    assert line.split()[0] == "no"
    assert f"{broken}/out: storage root cannot be written" in line
    assert [text for text in lines if text.split()[:2] == ["ok", "packages"]]


def test_verify_reads_every_artifact_again(deployment, capsys):
    folder = deployment.storage / "source_sample" / "slimorca"
    folder.mkdir(parents=True)
    rows = folder / "rows.parquet"
    rows.write_bytes(b"rows")
    write_json(folder / "manifest.json", {"sha256": sha256_of_file(rows)})

    def looked_at():
        found = json.loads(capsys.readouterr().out)
        return next(look for look in found if look["name"] == "source_sample/slimorca")

    doctor(verify=True, as_json=True)
    assert looked_at() == {
        "name": "source_sample/slimorca",
        "ok": True,
        "found": "1 files as recorded",
    }
    rows.write_bytes(b"row5")
    with pytest.raises(typer.Exit):
        doctor(verify=True, as_json=True)
    damaged = looked_at()
    assert not damaged["ok"]
    assert damaged["found"].startswith(f"{rows} is damaged: another sha256. Delete {folder}")
