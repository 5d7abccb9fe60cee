"""What a damaged base model or adapter ends in: one line that names the folder, never a traceback."""

import json
import shutil

import pytest

from qwenft_assets.config import LoraConfig, TrainingConfig
from qwenft_assets.errors import AdapterError, BaseModelError, ConfigError, DeviceError
from qwenft_assets.model.engines.peft import (
    add_lora,
    flat_forward,
    load_adapter,
    load_base,
    load_tokenizer,
)

WEIGHTS = "model.safetensors"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def rewrite(path, change):
    """Replace the tensors of a safetensors file by `change` of them."""
    from safetensors.torch import load_file, save_file

    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def cut_weights(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:1000])


def leave_lfs_pointer(folder):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 135\n"
    (folder / WEIGHTS).write_text(pointer, encoding="utf-8")


def lose_a_shard(folder):
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    shards = {
        "model.norm.weight": "model-00001-of-00002.safetensors",
        "lm_head.weight": "model-00002-of-00002.safetensors",
    }
    index = json.dumps({"metadata": {}, "weight_map": shards})
    (folder / "model.safetensors.index.json").write_text(index, encoding="utf-8")


def lose_a_tensor(folder):
    lost = "model.layers.1.mlp.up_proj.weight"
    rewrite(folder / WEIGHTS, lambda tensors: {n: t for n, t in tensors.items() if n != lost})


def config_of(text):
    def write(folder):
        (folder / "config.json").write_text(text, encoding="utf-8")

    return write


def cut_adapter(folder):
    (folder / ADAPTER_WEIGHTS).write_bytes((folder / ADAPTER_WEIGHTS).read_bytes()[:500])


def lose_a_layer(folder):
    rewrite(
        folder / ADAPTER_WEIGHTS,
        lambda tensors: {name: t for name, t in tensors.items() if ".layers.0." in name},
    )


def name_layers_otherwise(folder):
    rewrite(
        folder / ADAPTER_WEIGHTS,
        lambda tensors: {name.replace("layers", "blocks"): t for name, t in tensors.items()},
    )


def adapter_config_of(text):
    def write(folder):
        (folder / "adapter_config.json").write_text(text, encoding="utf-8")

    return write


@pytest.fixture
def folder(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "model")


@pytest.fixture
def adapter(tiny_model, tmp_path):
    """Folder of an adapter whose B is one instead of zero."""
    import torch

    model = add_lora(load_base(tiny_model, "fp32", "cpu"), LoraConfig(rank=2))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(parameter)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        pytest.param(cut_weights, "invalid header length", id="cut-weights"),
        pytest.param(leave_lfs_pointer, "header too large", id="git-lfs-pointer"),
        pytest.param(lose_a_shard, "model-00002-of-00002.safetensors", id="missing-shard"),
        pytest.param(config_of("{"), "not a valid JSON file", id="broken-config"),
        pytest.param(config_of("{}"), "Unrecognized model", id="empty-config"),
        pytest.param(config_of('{"model_type": "qwen99"}'), "qwen99", id="unknown-architecture"),
    ],
)
def test_a_base_model_that_cannot_be_read(folder, damage, problem):
    damage(folder)
    with pytest.raises(BaseModelError, match="base model cannot be read") as caught:
        load_base(folder, "fp32", "cpu")
    message = str(caught.value)
    assert message.startswith(f"{folder}: ")
    assert problem in message
    assert "\n" not in message


def test_weights_that_are_not_all_there_are_not_made_up(folder):
    """Transformers would fill the gap with random numbers, and training would go on."""
    lose_a_tensor(folder)
    with pytest.raises(BaseModelError, match=r"1 of .* missing, .*layers\.1\.mlp\.up_proj\.weight"):
        load_base(folder, "fp32", "cpu")


def test_a_head_tied_to_the_embeddings_is_not_missing(tmp_path):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=600,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    model = load_base(tmp_path, "bf16", "cpu")
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(None, "has no tokenizer.json", id="missing"),
        pytest.param("{", "the base model cannot be read", id="broken"),
    ],
)
def test_a_tokenizer_that_cannot_be_read(folder, text, message):
    file = folder / "tokenizer.json"
    file.unlink()
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(BaseModelError) as caught:
        load_tokenizer(folder)
    assert str(caught.value).startswith(f"{folder}: {message}")


def test_a_tokenizer_without_chatml_is_refused_by_name(folder):
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_text(text.replace("<|im_start|>", "<|begin|>"), "utf-8")
    with pytest.raises(AdapterError, match=r"tokenizer has no <\|im_start\|>.* tuned on ChatML"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("targets", "unknown"),
    [
        pytest.param(("c_attn",), "c_attn", id="none-known"),
        pytest.param(("q_proj", "vproj"), "vproj", id="one-misspelt"),
        pytest.param(("proj",), "proj", id="part-of-a-name"),
    ],
)
def test_target_modules_that_the_base_does_not_have(tiny_model, targets, unknown):
    with pytest.raises(ConfigError, match=f"target_modules: the base model has no '{unknown}'"):
        add_lora(load_base(tiny_model, "fp32", "cpu"), LoraConfig(target_modules=targets))


def test_target_modules_may_name_their_parent(tiny_model):
    chosen = LoraConfig(target_modules=("mlp.up_proj",))
    model = add_lora(load_base(tiny_model, "fp32", "cpu"), chosen)
    adapted = {name.split(".lora_")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".", 4)[4] for name in adapted} == {"0.mlp.up_proj", "1.mlp.up_proj"}


def test_a_card_before_ada_does_not_train_in_fp8(tiny_model, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA A100")
    model = add_lora(load_base(tiny_model, "fp32", "cpu"), LoraConfig())
    with pytest.raises(DeviceError, match=r"NVIDIA A100\. Set training.weights to bf16"):
        flat_forward(model, TrainingConfig(weights="fp8"), None, 1)


def test_fp8_rounds_a_base_that_was_loaded_in_bf16(tiny_model):
    import torch

    model = add_lora(load_base(tiny_model, "fp8", "cpu"), LoraConfig())
    assert model.get_base_model().model.layers[0].mlp.down_proj.weight.dtype == torch.bfloat16
    decoder = flat_forward(model, TrainingConfig(weights="fp8"), None, 1)
    held = decoder.layers[0].down.weight
    assert held.forward_weight.dtype == held.backward_weight.dtype == torch.float8_e4m3fn


def test_an_adapter_loads_with_the_weights_it_was_saved_with(tiny_model, adapter):
    model = load_adapter(load_base(tiny_model, "fp32", "cpu"), adapter)
    weights = [p for name, p in model.named_parameters() if "lora_B" in name]
    assert len(weights) == 2 * 7
    assert all((weight == 1).all() for weight in weights)
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        pytest.param(cut_adapter, "invalid header length", id="cut-weights"),
        pytest.param(lose_a_layer, "missing adapter keys", id="a-layer-is-missing"),
        pytest.param(name_layers_otherwise, "missing adapter keys", id="other-names"),
        pytest.param(adapter_config_of("{"), "property name", id="broken-config"),
        pytest.param(adapter_config_of("{}"), "peft_type", id="empty-config"),
    ],
)
def test_a_damaged_adapter_is_refused_and_never_answers_as_the_base(
    tiny_model, adapter, damage, problem
):
    damage(adapter)
    with pytest.raises(AdapterError, match="does not load on this base model") as caught:
        load_adapter(load_base(tiny_model, "fp32", "cpu"), adapter)
    message = str(caught.value)
    assert problem in message
    assert "\n" not in message
    assert len(message) < 500
