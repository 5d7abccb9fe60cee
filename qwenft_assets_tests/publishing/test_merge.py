"""Merged weights answer as base and adapter do, or nothing leaves; GGUF asks for its converter."""

import re

import pytest

from qwenft_assets.errors import PublishingError
from qwenft_assets.model.base import find_base_model
from qwenft_assets.model.engines.peft import load_adapter, load_base, load_tokenizer
from qwenft_assets.progress import no_progress
from qwenft_assets.publishing import merge
from qwenft_assets.publishing.bundle import build_bundle
from qwenft_assets.publishing.gguf import render_modelfile
from qwenft_assets.publishing.manifest import verify_copy
from qwenft_assets.publishing.merge import PROMPTS, behaviour, merged_weights, require_equal
from qwenft_assets.storage.files import read_json, write_json
from qwenft_assets.text.chatml import SYSTEM_PROMPT, Turn, render_conversation


@pytest.fixture
def mergeable(released):
    """With the base's true revision in the record."""
    base = find_base_model(released.config.training, released.storage)
    path = released.adapter / "training.json"
    write_json(path, {**(read_json(path) or {}), "base_revision": base.revision})
    return released, base


def test_a_merged_model_is_base_plus_adapter_on_twenty_prompts(mergeable):
    import transformers

    released, base = mergeable
    folder = merged_weights(released.subject(shard_gb=0.0001), base, "float32", no_progress)
    assert len(list(folder.glob("*.safetensors"))) > 1
    tokenizer = load_tokenizer(released.base)
    separate = load_adapter(load_base(released.base, "fp32", "cpu"), released.adapter)
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder)
    expected = behaviour(separate, tokenizer)
    assert len(expected.answers) == len(PROMPTS) == 20
    merged = behaviour(plain.eval(), tokenizer)
    assert merged.answers == expected.answers
    assert require_equal(expected, merged) <= 1e-4
    base_alone = behaviour(load_base(released.base, "fp32", "cpu").eval(), tokenizer)
    with pytest.raises(PublishingError, match=r"is not base \+ adapter: logits differ"):
        require_equal(expected, base_alone)


@pytest.mark.parametrize(("weights", "dtype"), [("bf16", "bfloat16"), ("fp16", "float16")])
def test_a_merged_copy_in_16_bits_carries_its_verification(mergeable, tmp_path, weights, dtype):
    released, _ = mergeable
    bundle = build_bundle(released.subject(merged_weights=weights), "merged")
    proof = bundle.manifest.verification
    assert proof is not None
    assert (proof["prompts"], proof["same_greedy_answers_fp32"], proof["dtype"]) == (20, 20, dtype)
    assert proof["max_logit_difference_fp32"] <= 1e-4
    assert proof["mean_kl_nats"] < 0.02
    assert "base_model_relation: finetune" in bundle.card
    outcome = released.prepare("folder", content="merged", where=str(tmp_path)).publish()
    verify_copy(tmp_path / outcome.where)


def test_weights_too_coarse_for_the_model_are_refused_with_the_way_out(mergeable, monkeypatch):
    released, base = mergeable
    monkeypatch.setattr(merge, "MAX_ROUNDING_KL_NATS", 0.0)
    with pytest.raises(
        PublishingError, match=r"adapter, or set publishing\.merged_weights to fp16\."
    ):
        merge.merged_weights(released.subject(), base, "bfloat16", no_progress)
    assert not list(released.storage.cache("merged").glob("[!.]*"))


def test_gguf_without_a_converter_names_the_setting(released):
    with pytest.raises(PublishingError, match=r"publishing\.llama_cpp is not set"):
        build_bundle(released.subject(), "gguf")
    with pytest.raises(PublishingError, match=r"convert_hf_to_gguf\.py is not there"):
        build_bundle(released.subject(llama_cpp="/nowhere"), "gguf")


def render_go_template(template, messages):
    """The part of Go's text/template that the Modelfile uses: range, fields, trimmed blanks."""
    template = re.sub(r"\s*\{\{-", "{{", template)
    before, rest = template.split("{{ range .Messages }}")
    body, after = rest.split("{{ end }}")
    said = (
        body.replace("{{ .Role }}", role).replace("{{ .Content }}", content)
        for role, content in messages
    )
    return before + "".join(said) + after


def test_the_modelfile_renders_as_training_did(released):
    modelfile = render_modelfile(released.config.decoding)
    quoted = dict(re.findall(r'^([A-Z]+) """(.*?)"""$', modelfile, re.DOTALL | re.MULTILINE))
    turns = [Turn("user", "Hi\n\nthere"), Turn("assistant", "Yes."), Turn("user", "And?")]
    assert quoted["SYSTEM"] == SYSTEM_PROMPT
    rendered = render_go_template(quoted["TEMPLATE"], [("system", quoted["SYSTEM"]), *turns])
    assert rendered == render_conversation(turns)
    assert 'PARAMETER stop "<|im_end|>"' in modelfile
    assert "PARAMETER repeat_penalty 1.3" in modelfile
