"""The flat decoder is the model's own forward: same hidden states, same gradients, no row in another."""

import math
from dataclasses import replace
from typing import Any

import pytest

from qwenft_assets.config import LoraConfig
from qwenft_assets.errors import ConfigError
from qwenft_assets.model.batches import flatten
from qwenft_assets.model.decoder import FlatDecoder, neftune_noise
from qwenft_assets.model.engines.peft import add_lora, load_base
from qwenft_assets.model.head import losses, sum_of_losses
from qwenft_assets.training.forward_passes import padded_sum_of_losses
from qwenft_assets_tests.training.tiny_rows import token_rows

ROWS = token_rows(30, 12, 47, 7, 21)


def adapted(folder: Any, weights: str = "fp32", **lora: Any) -> Any:
    """A model whose adapter does something: B is not zero."""
    import torch

    torch.manual_seed(1)
    settings = LoraConfig.model_validate({"rank": 4, "alpha": 8} | lora)
    model = add_lora(load_base(folder, weights, "cpu"), settings)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn_like(parameter) * 0.1
    return model


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """Llama's arithmetic: no bias, head and embedding are one."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=600,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def gradients(model: Any) -> dict[str, Any]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    for parameter in model.parameters():
        parameter.grad = None
    return found


def flat_sum(decoder: FlatDecoder, supervise: str, **mode: Any) -> Any:
    batch = flatten(ROWS, supervise)
    hidden = decoder.hidden_states(batch, **mode)[batch.counted]
    return sum_of_losses(hidden, decoder.head, batch.targets)


@pytest.mark.parametrize("supervise", ["full", "answer"])
@pytest.mark.parametrize("family", ["qwen2", "llama"])
@pytest.mark.parametrize(
    "lora",
    [
        pytest.param({}, id="all-layers"),
        pytest.param({"target_modules": ("k_proj", "up_proj")}, id="some-layers"),
    ],
)
def test_loss_and_gradients_are_those_of_the_models_own_forward(
    tiny_model, llama, family, supervise, lora
):
    model = adapted(tiny_model if family == "qwen2" else llama, **lora)
    expected, _ = padded_sum_of_losses(model, ROWS, supervise, None)
    expected.backward()
    wanted = gradients(model)
    decoder = FlatDecoder(model, weights="fp32")
    for checkpointing in (False, True):
        found = flat_sum(decoder, supervise, training=True, checkpointing=checkpointing)
        found.backward()
        assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
        for name, gradient in gradients(model).items():
            assert gradient.isclose(wanted[name], rtol=1e-4, atol=1e-5).all(), name


def test_the_base_alone_is_the_model_without_its_adapter(tiny_model, base):
    decoder = FlatDecoder(adapted(tiny_model), weights="fp32")
    plain = FlatDecoder(base, weights="fp32")
    batch = flatten(ROWS, "full")
    without = decoder.hidden_states(batch, adapted=False)
    assert without.isclose(plain.hidden_states(batch), atol=1e-5).all()
    assert not without.isclose(decoder.hidden_states(batch), atol=1e-2).all()


def test_adapters_of_other_ranks_and_layers_can_be_used_in_turn(tiny_model):
    import torch
    from peft import LoraConfig as PeftConfig

    model = adapted(tiny_model)
    other = PeftConfig(r=6, lora_alpha=18, target_modules=["q_proj", "up_proj"])
    model.add_adapter("other", other)
    for name, parameter in model.named_parameters():
        if ".other." in name:
            parameter.data = torch.randn_like(parameter) * 0.1
    expected = {}
    for name in ("default", "other"):
        model.set_adapter(name)
        with torch.no_grad():
            expected[name] = float(padded_sum_of_losses(model, ROWS, "full", None)[0])
    decoder = FlatDecoder(model, weights="fp32", adapters=("default", "other"))
    assert decoder.layers[0].gate_up.weight_with_b is not None
    for name in ("default", "other", "default", "other"):
        decoder.use_adapter(name)
        with torch.no_grad():
            assert float(flat_sum(decoder, "full")) == pytest.approx(expected[name], rel=1e-6)
    with pytest.raises(ValueError, match="built for default, other"):
        decoder.use_adapter("third")


def test_no_row_sees_another(tiny_model):
    decoder = FlatDecoder(adapted(tiny_model), weights="fp32")
    before = decoder.hidden_states(flatten(ROWS, "full"))
    changed = [ROWS[0], replace(ROWS[1], input_ids=[9] * 12), *ROWS[2:]]
    after = decoder.hidden_states(flatten(changed, "full"))
    same = before.isclose(after, atol=1e-6).all(dim=1)
    assert same[:30].all()
    assert same[42:].all()
    assert not same[30:42].any()


@pytest.mark.parametrize("family", ["qwen2", "llama"])
@pytest.mark.parametrize("with_adapter", [True, False])
def test_a_start_that_rows_share_is_computed_once_with_the_losses_of_each_row(
    tiny_model, llama, family, with_adapter
):
    import torch

    model = adapted(tiny_model if family == "qwen2" else llama)
    decoder = FlatDecoder(model, weights="fp32")
    start = token_rows(11)[0].input_ids
    rows = [replace(row, input_ids=start + row.input_ids) for row in ROWS]

    def losses_of(some: Any, shared_tokens: int) -> Any:
        batch = flatten(some, "full", shared_tokens=shared_tokens)
        with torch.no_grad():
            hidden = decoder.hidden_states(batch, adapted=with_adapter)
            found = losses(hidden[batch.counted], decoder.head, batch.targets)
        return found[batch.shared.counted_of_rows] if batch.shared else found

    apart, together = losses_of(rows, 0), losses_of(rows, 11)
    assert together.isclose(apart, atol=1e-5).all()
    changed = [rows[0], replace(rows[1], input_ids=start + [9] * 12), *rows[2:]]
    same = losses_of(changed, 11).isclose(together, atol=1e-6)
    begins, ends = 40 + 10, 40 + 22  # of the second row: where it leaves the start, and ends
    assert same[:begins].all()
    assert same[ends:].all()
    assert not same[begins:ends].any()


def test_the_model_stays_usable_and_nothing_is_held_twice(tiny_model):
    model = adapted(tiny_model)
    expected, _ = padded_sum_of_losses(model, ROWS, "full", None)
    decoder = FlatDecoder(model, weights="fp32")
    again, _ = padded_sum_of_losses(model, ROWS, "full", None)
    assert float(again.detach()) == float(expected.detach())
    attention = model.get_base_model().model.layers[0].self_attn
    stacked = decoder.layers[0].qkv.weight.weight
    assert attention.q_proj.base_layer.weight.data_ptr() == stacked.data_ptr()


def test_dropout_drops_inputs_of_the_adapter_in_training_only(tiny_model):
    import torch

    decoder = FlatDecoder(adapted(tiny_model, dropout=0.5), weights="fp32")
    plain = FlatDecoder(adapted(tiny_model), weights="fp32")
    batch = flatten(ROWS, "full")
    assert decoder.hidden_states(batch).equal(plain.hidden_states(batch))
    torch.manual_seed(3)
    dropped = decoder.hidden_states(batch, training=True)
    torch.manual_seed(3)
    assert dropped.equal(decoder.hidden_states(batch, training=True))
    assert not dropped.isclose(plain.hidden_states(batch), atol=1e-3).all()
    dropped.sum().backward()


def test_noise_of_a_row_follows_from_its_own_length(base):
    import torch

    rows = token_rows(400, 25, 100)
    batch = flatten(rows, "full")
    embedded = torch.zeros(525, 32)
    noise = neftune_noise(batch, embedded, alpha=5.0)
    for length, part in zip((400, 25, 100), noise.split([400, 25, 100]), strict=True):
        bound = 5.0 / math.sqrt(length * 32)
        assert 0.97 * bound < float(part.abs().max()) <= bound
        assert float(part.mean()) == pytest.approx(0, abs=bound / 10)
    stock = 5.0 / math.sqrt(525 * 32)
    assert float(noise[400:425].abs().max()) > 4 * stock


def test_rounding_to_8_bits_changes_the_loss_a_little(tiny_model):
    expected = flat_sum(FlatDecoder(adapted(tiny_model), weights="fp32"), "full")
    model = adapted(tiny_model)
    decoder = FlatDecoder(model, weights="fp8")
    found = flat_sum(decoder, "full", training=True)
    found.backward()
    assert float(found.detach()) != float(expected.detach())
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=0.01)
    assert all(float(gradient.abs().max()) > 0 for gradient in gradients(model).values())


def test_losses_of_tokens_add_up_to_their_sum(base):
    import torch

    torch.manual_seed(0)
    hidden, targets = torch.randn(5000, 32), torch.randint(0, 600, (5000,))
    head = base.lm_head.weight.detach()
    expected = torch.nn.functional.cross_entropy(hidden @ head.t(), targets, reduction="none")
    assert losses(hidden, head, targets).isclose(expected, atol=1e-5).all()
    ours, theirs = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    (sum_of_losses(ours, head, targets) / 7).backward()
    (torch.nn.functional.cross_entropy(theirs @ head.t(), targets, reduction="sum") / 7).backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert ours.grad.isclose(theirs.grad, atol=1e-6).all()


def test_a_model_of_another_family_is_refused_with_the_way_out(tmp_path):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    other = GPT2LMHeadModel(GPT2Config(vocab_size=100, n_embd=16, n_layer=1, n_head=2))
    with pytest.raises(ConfigError, match=r"gpt2: .* Set training\.batching to padded"):
        FlatDecoder(other, weights="fp32")
