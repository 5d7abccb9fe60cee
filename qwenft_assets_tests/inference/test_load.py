"""Which adapter is meant, and that it never answers on another base model."""

import pytest

from qwenft_assets.config import TrainingConfig
from qwenft_assets.errors import AdapterError, BaseModelError
from qwenft_assets.inference.load import load_model, resolve_adapter
from qwenft_assets.model.base import BaseModelRef, find_base_model
from qwenft_assets.records import Champion
from qwenft_assets.storage.files import write_json
from qwenft_assets.storage.root import Storage
from qwenft_assets.text.chatml import TURN_END
from qwenft_assets_tests.made_up_records import put
from qwenft_assets_tests.tiny_model import write_tiny_model

OLD, NEW = "aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb"


def put_adapter(storage, version, base="tiny", revision="1"):
    record = {"version": version, "base_model": base, "base_revision": revision}
    write_json(storage.adapter("small", version) / "training.json", record)
    write_json(storage.adapters("small") / "latest.json", {"version": version})


def put_champion(storage, version):
    put(storage.release("small"), Champion, version=version)


@pytest.fixture
def two_adapters(storage):
    put_adapter(storage, OLD)
    put_adapter(storage, NEW)
    return storage


@pytest.mark.parametrize(
    ("champion", "which", "version"),
    [
        pytest.param(OLD, None, OLD, id="champion-by-default"),
        pytest.param(None, None, NEW, id="latest-by-default-without-champion"),
        pytest.param(OLD, "champion", OLD, id="champion"),
        pytest.param(OLD, "latest", NEW, id="latest-beside-a-champion"),
        pytest.param(None, "latest", NEW, id="latest"),
        pytest.param(OLD, NEW, NEW, id="version-beside-a-champion"),
        pytest.param(None, OLD, OLD, id="older-version"),
        pytest.param(OLD, "none", None, id="none"),
    ],
)
def test_what_each_name_means(two_adapters, champion, which, version):
    if champion:
        put_champion(two_adapters, champion)
    assert resolve_adapter(two_adapters, "small", which) == version


@pytest.mark.parametrize(
    ("which", "message"),
    [
        pytest.param("champion", "nothing was released yet.*--adapter latest", id="no-champion"),
        pytest.param("abc", f"abc: no such adapter. There is: {OLD}, {NEW}", id="unknown"),
        pytest.param("", "no such adapter", id="empty"),
        pytest.param("..", "no such adapter", id="parent-folder"),
    ],
)
def test_names_that_mean_nothing(two_adapters, which, message):
    with pytest.raises(AdapterError, match=message):
        resolve_adapter(two_adapters, "small", which)


@pytest.mark.parametrize("which", [None, "latest"])
def test_before_anything_was_trained(storage, which):
    with pytest.raises(AdapterError, match=r"no adapter yet\. Run `qwenft run --recipe small`"):
        resolve_adapter(storage, "small", which)


def test_none_needs_nothing_trained(storage):
    assert resolve_adapter(storage, "small", "none") is None


def test_another_recipe_has_adapters_of_its_own(two_adapters):
    with pytest.raises(AdapterError, match="There is: none"):
        resolve_adapter(two_adapters, "large", OLD)


def test_a_champion_whose_folder_is_gone_is_named(two_adapters):
    put_champion(two_adapters, "c" * 16)
    with pytest.raises(AdapterError, match="cccc: no such adapter"):
        resolve_adapter(two_adapters, "small", None)


@pytest.mark.parametrize(
    ("name", "revision"),
    [
        pytest.param("other", "1", id="other-model"),
        pytest.param("tiny", "2", id="other-revision"),
    ],
)
def test_an_adapter_of_another_base_is_refused_before_anything_is_loaded(storage, name, revision):
    put_adapter(storage, OLD, base="tiny", revision="1")
    base = BaseModelRef(name=name, revision=revision, kind="folder", path="/nowhere")
    message = f"trained on tiny at 1, this config names {name} at {revision}"
    with pytest.raises(AdapterError, match=message):
        load_model(storage, "small", OLD, base, TrainingConfig(weights="fp32"), "cpu")


def test_weights_of_another_shape_are_refused(storage: Storage, tmp_path):
    """The record fits, the weights do not: as after a folder was replaced by hand."""
    import peft
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path / "tiny"
    write_tiny_model(folder)
    settings = TrainingConfig(base_model=str(folder), weights="fp32")
    base = find_base_model(settings, storage)
    put_adapter(storage, OLD, base=base.name, revision=base.revision)
    wider = Qwen2ForCausalLM(Qwen2Config(vocab_size=600, hidden_size=64, intermediate_size=64,
        num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2))  # fmt: skip
    lora = peft.LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    peft.get_peft_model(wider, lora).save_pretrained(str(storage.adapter("small", OLD)))
    with pytest.raises(AdapterError, match="does not load on this base model") as caught:
        load_model(storage, "small", OLD, base, settings, "cpu")
    assert "\n" not in str(caught.value)


def test_the_base_alone_is_loaded_without_an_adapter(storage, tmp_path):
    folder = tmp_path / "tiny"
    write_tiny_model(folder)
    settings = TrainingConfig(base_model=str(folder), weights="fp32")
    loaded = load_model(storage, "small", None, find_base_model(settings, storage), settings, "cpu")
    assert loaded.adapter_version is None
    assert loaded.base_path == folder
    assert loaded.model.training is False
    assert loaded.tokenizer.eos_token == TURN_END


def test_a_folder_without_safetensors_is_no_base(storage, tmp_path):
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BaseModelError, match=r"needs a config\.json and \*\.safetensors"):
        find_base_model(TrainingConfig(base_model=str(tmp_path)), storage)
