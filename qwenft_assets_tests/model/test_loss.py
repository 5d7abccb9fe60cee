"""Loss by row: the same figure whatever stands beside it, equal to the plain computation."""

from collections.abc import Sequence

import pytest

from qwenft_assets.config import LoraConfig
from qwenft_assets.errors import EvaluationError
from qwenft_assets.model import loss as loss_module
from qwenft_assets.model.engines.peft import add_lora, load_base
from qwenft_assets.model.loss import RowLoss, batches_by_length, row_losses
from qwenft_assets.model.tokens import TokenRow
from qwenft_assets_tests.training.tiny_rows import token_row, token_rows

ROWS = token_rows(17, 3, 64, 29, 64, 8, 41, 2)
BOTH = pytest.mark.parametrize("supervise", ["full", "answer"])


def naive_loss(model, row: TokenRow, supervise: str) -> RowLoss:
    """All logits of one row without padding, then cross entropy over the shifted labels."""
    import torch
    from torch.nn.functional import cross_entropy

    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row.input_ids])).logits[0]
    labels = torch.tensor(row.labels(supervise))[1:]
    nll = cross_entropy(logits[:-1], labels, ignore_index=-100, reduction="sum")
    return RowLoss(float(nll), int((labels != -100).sum()))


def one_by_one(model, rows: Sequence[TokenRow], supervise: str) -> list[RowLoss]:
    return [loss for row in rows for loss in row_losses(model, [row], supervise)]


def assert_same(losses: Sequence[RowLoss], expected: Sequence[RowLoss]) -> None:
    assert [loss.tokens for loss in losses] == [loss.tokens for loss in expected]
    assert [loss.nll for loss in losses] == pytest.approx([x.nll for x in expected], abs=1e-4)


@pytest.fixture
def adapted(tiny_model):
    """A PeftModel whose adapter does something: B is not zero."""
    import torch

    model = add_lora(load_base(tiny_model, "fp32", "cpu"), LoraConfig(rank=4)).eval()
    draw = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=draw) * 0.1
    return model


@BOTH
def test_a_row_has_its_naive_loss(base, supervise):
    expected = [naive_loss(base, row, supervise) for row in ROWS]
    assert_same(row_losses(base, ROWS, supervise), expected)
    assert all(loss.nll > 1 for loss in expected)


@BOTH
def test_a_batch_gives_what_single_rows_give(base, supervise):
    assert_same(row_losses(base, ROWS, supervise), one_by_one(base, ROWS, supervise))


@BOTH
@pytest.mark.parametrize(
    "order",
    [
        pytest.param([7, 6, 5, 4, 3, 2, 1, 0], id="reversed"),
        pytest.param([2, 4, 6, 3, 0, 5, 1, 7], id="longest-first"),
        pytest.param([3, 0, 7, 5, 1, 6, 4, 2], id="mixed"),
    ],
)
def test_order_within_a_batch_does_not_matter(base, supervise, order):
    expected = row_losses(base, ROWS, supervise)
    assert_same(row_losses(base, [ROWS[n] for n in order], supervise), [expected[n] for n in order])


def test_tokens_are_the_supervised_ones(base):
    assert [loss.tokens for loss in row_losses(base, ROWS, "full")] == [
        len(row.input_ids) - 1 for row in ROWS
    ]
    assert [loss.tokens for loss in row_losses(base, ROWS, "answer")] == [
        len(row.input_ids) - row.answer_start for row in ROWS
    ]


def test_a_row_without_an_answer_has_no_loss(base):
    cut_in_prompt = token_row(1, length=20, answer_start=30)
    assert row_losses(base, [cut_in_prompt, ROWS[0]], "answer")[0] == RowLoss(0.0, 0)
    assert row_losses(base, [cut_in_prompt], "answer") == [RowLoss(0.0, 0)]


@BOTH
def test_the_head_in_chunks_gives_the_same(base, supervise, monkeypatch):
    expected = row_losses(base, ROWS, supervise)
    monkeypatch.setattr(loss_module, "HEAD_CHUNK_TOKENS", 7)
    assert_same(row_losses(base, ROWS, supervise), expected)


@BOTH
def test_a_disabled_adapter_is_the_base(base, adapted, supervise):
    with adapted.disable_adapter():
        off = row_losses(adapted, ROWS, supervise)
    assert off == row_losses(base, ROWS, supervise)


@BOTH
def test_an_adapter_counts(base, adapted, supervise):
    losses = row_losses(adapted, ROWS, supervise)
    assert_same(losses, [naive_loss(adapted, row, supervise) for row in ROWS])
    plain = row_losses(base, ROWS, supervise)
    assert abs(losses[2].nll - plain[2].nll) > 0.1


def test_a_fresh_adapter_changes_nothing(base, tiny_model):
    fresh = add_lora(load_base(tiny_model, "fp32", "cpu"), LoraConfig()).eval()
    assert row_losses(fresh, ROWS, "full") == row_losses(base, ROWS, "full")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("final_logit_softcapping", 30.0, id="gemma"),
        pytest.param("logit_scale", 0.0625, id="cohere"),
        pytest.param("logits_scaling", 8.0, id="granite"),
        pytest.param("lm_head_multiplier", 0.5, id="falcon-h1"),
    ],
)
def test_a_model_that_scales_its_logits_is_refused(tiny_model, name, value):
    model = load_base(tiny_model, "fp32", "cpu")
    setattr(model.config, name, value)
    with pytest.raises(EvaluationError, match=f"^qwen2: its {name} is not supported"):
        row_losses(model, ROWS, "full")


def test_a_scale_of_one_is_no_scale(tiny_model, base):
    model = load_base(tiny_model, "fp32", "cpu").eval()
    model.config.logit_scale = 1.0
    assert row_losses(model, ROWS, "full") == row_losses(base, ROWS, "full")


@pytest.mark.parametrize(
    ("lengths", "budget", "expected"),
    [
        pytest.param([5, 9, 3], 100, [[1, 0, 2]], id="all-in-one"),
        pytest.param([10, 10, 10], 20, [[0, 1], [2]], id="exactly-the-budget"),
        pytest.param([10, 10, 10], 19, [[0], [1], [2]], id="one-short-of-two"),
        pytest.param([4, 50, 5], 20, [[1], [2, 0]], id="over-long-alone"),
        pytest.param([50, 60], 20, [[1], [0]], id="each-over-long"),
        pytest.param([2, 9, 2, 9, 2], 18, [[1, 3], [0, 2, 4]], id="padding-counts"),
        pytest.param([], 20, [], id="none"),
    ],
)
def test_batches_hold_the_longest_first(lengths, budget, expected):
    assert list(batches_by_length(token_rows(*lengths), budget)) == expected


@pytest.mark.parametrize("budget", [1, 40, 64, 129, 1_000, 100_000])
def test_batches_cover_every_row_once_within_the_budget(budget):
    rows = token_rows(*[2 + (n * 37) % 101 for n in range(200)])
    batches = list(batches_by_length(rows, budget))
    assert sorted(n for batch in batches for n in batch) == list(range(200))
    for batch in batches:
        padded = len(batch) * max(len(rows[n].input_ids) for n in batch)
        assert padded <= budget or len(batch) == 1


@BOTH
@pytest.mark.parametrize("budget", [1, 64, 200])
def test_the_mean_over_batches_does_not_depend_on_them(base, supervise, budget):
    losses = [
        loss
        for batch in batches_by_length(ROWS, budget)
        for loss in row_losses(base, [ROWS[n] for n in batch], supervise)
    ]
    mean = sum(loss.nll for loss in losses) / sum(loss.tokens for loss in losses)
    naive = [naive_loss(base, row, supervise) for row in ROWS]
    expected = sum(x.nll for x in naive) / sum(x.tokens for x in naive)
    assert mean == pytest.approx(expected, abs=1e-5)
