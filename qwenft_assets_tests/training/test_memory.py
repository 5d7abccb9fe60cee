"""The plan of GPU memory: what fits is taken the fastest way, what does not is refused with the mend."""

import pytest

from qwenft_assets.config import TrainingConfig
from qwenft_assets.errors import DeviceError
from qwenft_assets.training.memory import ModelShape, activation_bytes_per_token, plan_memory

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


def plan(available_gib: float, step_tokens: int = 5_000, longest: int = 2_048, **settings):
    return plan_memory(
        QWEN_7B, TrainingConfig(**settings), LORA_R16, step_tokens, longest, available_gib
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
