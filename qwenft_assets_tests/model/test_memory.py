"""The plan of GPU memory: what fits is taken the fastest way, what does not is refused with the mend."""

import pytest

from qwenft_assets.config import TrainingConfig
from qwenft_assets.errors import DeviceError
from qwenft_assets.model.memory import (
    ModelShape,
    activation_bytes_per_token,
    fixed_gib,
    plan_memory,
    shards_of,
)
from qwenft_assets.processes.ranks import Ranks

QWEN_7B = ModelShape(
    layers=28,
    hidden=3584,
    intermediate=18944,
    query_width=3584,
    key_width=512,
    vocabulary=152_064,
    tied=False,
)
LORA_R16 = 40_370_176


def plan(
    available_gib: float,
    step_tokens: int = 5_000,
    longest: int = 2_048,
    processes: int = 1,
    **settings,
):
    return plan_memory(
        QWEN_7B,
        TrainingConfig(**settings),
        LORA_R16,
        step_tokens,
        longest,
        available_gib,
        processes,
    )


def test_the_shape_counts_the_models_weights():
    assert QWEN_7B.linear_weights + QWEN_7B.vocabulary_weights == pytest.approx(7.615e9, rel=1e-3)


def test_a_large_card_takes_the_whole_step_at_once_in_bf16():
    found = plan(139)
    assert (found.keep_4bit, found.checkpointing, found.micro_batch_tokens) == (False, False, 5_000)
    assert found.peak_gib < 60


def test_a_small_card_keeps_4_bits_and_computes_layers_again():
    found = plan(10)
    assert (found.keep_4bit, found.checkpointing) == (True, True)
    assert found.micro_batch_tokens >= 2_048
    assert found.peak_gib <= 10


@pytest.mark.parametrize(
    ("weights", "available_gib"),
    [("nf4", gib) for gib in (10, 16, 24, 40, 80, 139)]
    + [(kind, gib) for kind in ("bf16", "fp8") for gib in (24, 80, 139)],
)
def test_what_is_planned_fits(available_gib, weights):
    found = plan(available_gib, weights=weights)
    assert found.peak_gib <= available_gib
    assert 2_048 <= found.micro_batch_tokens <= 5_000
    assert sum(found.parts_gib.values()) == pytest.approx(found.peak_gib)


def test_weights_in_bf16_do_not_fit_where_4_bits_do():
    with pytest.raises(DeviceError, match="or use weights: nf4"):
        plan(16, weights="bf16")


def test_too_little_memory_is_refused_with_parts_and_the_settings_that_help():
    with pytest.raises(DeviceError) as raised:
        plan(6)
    message = str(raised.value)
    assert "training needs " in message
    assert "weights 5.7" in message
    assert "training.max_length_tokens" in message
    assert "\n" not in message


def test_what_the_settings_fix_stays_fixed():
    assert plan(139, gradient_checkpointing=True).checkpointing
    assert not plan(60, gradient_checkpointing=False).checkpointing
    assert plan(139, micro_batch_tokens=2_500).micro_batch_tokens == 2_500
    with pytest.raises(DeviceError):
        plan(10, gradient_checkpointing=False)


def test_computing_layers_again_keeps_a_tenth():
    kept = activation_bytes_per_token(QWEN_7B, checkpointing=False)
    assert activation_bytes_per_token(QWEN_7B, checkpointing=True) < kept / 7


def test_several_gpus_hold_together_what_one_cannot_hold_and_only_that():
    """14 GiB of bf16: whole in 24 GiB, where layers are computed again rather than sharded."""
    assert plan(24, weights="bf16", processes=4).shards == 1
    assert plan(24, weights="bf16", processes=4).checkpointing
    found = plan(12, weights="bf16", processes=4)
    assert (found.shards, found.keep_4bit) == (4, False)
    assert found.peak_gib <= 12
    assert plan(24, weights="bf16", processes=4, shard_base_weights=True).shards == 4
    assert plan(24, weights="bf16", shard_base_weights=True).shards == 1
    with pytest.raises(
        DeviceError, match=r"needs \d+\.\d GiB of GPU memory on each of 2 GPUs with"
    ):
        plan(6, weights="bf16", processes=2)


def test_sharded_weights_are_a_part_of_the_layers_three_whole_ones_and_the_vocabulary():
    settings = TrainingConfig(weights="bf16")
    found = fixed_gib(QWEN_7B, settings, LORA_R16, keep_4bit=False, shards=4)["weights"]
    layers, of_vocabulary = 2 * QWEN_7B.linear_weights, 2 * QWEN_7B.vocabulary_weights
    expected = layers / 4 + 3 * layers / QWEN_7B.layers + of_vocabulary
    assert found * 2**30 == pytest.approx(expected)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"shard_base_weights": False}, id="off"),
        pytest.param({"weights": "nf4", "gradient_checkpointing": False}, id="4-bit"),
        pytest.param({"batching": "padded"}, id="padded"),
        pytest.param({"engine": "unsloth"}, id="unsloth"),
    ],
)
def test_where_sharding_is_ruled_out_several_gpus_have_no_more_room_than_one(settings):
    with pytest.raises(DeviceError, match="of GPU memory with passes of one row"):
        plan(12, processes=4, **{"weights": "bf16", **settings})


@pytest.mark.parametrize(
    ("asked", "size", "expected"),
    [(True, 2, 2), (True, 1, 1), ("auto", 2, 1), (False, 2, 1)],
)
def test_a_cpu_shards_only_where_the_settings_say_so(asked, size, expected):
    settings = TrainingConfig(weights="fp32", shard_base_weights=asked)
    assert shards_of(settings, None, Ranks(0, size)) == expected
    on_gpu = plan(139, weights="bf16")
    assert shards_of(settings, on_gpu, Ranks(0, size)) == 1
