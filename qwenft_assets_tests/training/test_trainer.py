"""Training a tiny model in fp32: the loss of a step is a sum over its tokens.

Eight rows an optimizer step, however they are cut into passes: that is a matter of memory alone.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from qwenft_assets.config import TrainingConfig
from qwenft_assets.model.engines.peft import add_lora, load_base, load_tokenizer
from qwenft_assets.model.loss import row_losses
from qwenft_assets.model.tokens import TokenRow
from qwenft_assets.training.forward_passes import mean_loss
from qwenft_assets.training.run import LossHistory
from qwenft_assets.training.trainer import TokenSteps, make_trainer
from qwenft_assets_tests.training.tiny_rows import expected_order, token_rows, training_run

TRAIN_ROWS = token_rows(*[5 + (n * 23) % 57 for n in range(24)])
EVAL_ROWS = token_rows(30, 12, 47, 7, 21, split="eval")
FEW_IDS = [replace(row, input_ids=[10 + n % 6 for n in row.input_ids]) for row in TRAIN_ROWS]
LOSS_TOLERANCE = 2e-5
"""Nats per token: fp32 sums in another order."""
WEIGHT_TOLERANCE = 2e-4
"""Of adapter weights after steps of 1e-2: Adam divides by tiny second moments."""
SETTINGS = {
    "device": "cpu",
    "weights": "fp32",
    "max_length_tokens": 64,
    "lora": {"rank": 4, "alpha": 8},
    "epochs": 2,
    "peak_learning_rate": 1e-2,
    "lr_schedule": "constant",
    "warmup_steps": 0,
    "optimizer": "adamw_torch",
    "neftune_alpha": None,
    "gradient_checkpointing": False,
    "evaluate_every_steps": 2,
}
LAYOUTS = {
    "one-flat-pass": {},
    "flat-one-row-a-pass": {"micro_batch_rows": 1},
    "flat-60-tokens-a-pass": {"micro_batch_tokens": 60},
    "flat-computed-again": {"gradient_checkpointing": True},
    "padded-8x1": {"batching": "padded", "micro_batch_rows": 8},
    "padded-2x4": {"batching": "padded", "micro_batch_rows": 2},
    "padded-1x8": {"batching": "padded", "micro_batch_rows": 1},
}


@dataclass
class Finished:
    """What one training run leaves."""

    history: LossHistory
    model: Any
    log: list[str]
    progress: list[tuple[int, int]]
    steps: int

    def adapter(self) -> dict[str, Any]:
        return {n: p.detach() for n, p in self.model.named_parameters() if p.requires_grad}


@pytest.fixture
def run(tiny_model, tmp_path):
    """Trains a fresh adapter; keywords change SETTINGS."""

    def train(train_rows: Sequence[TokenRow] = TRAIN_ROWS, **changes: Any) -> Finished:
        from transformers import set_seed

        settings = TrainingConfig.model_validate(SETTINGS | changes)
        set_seed(settings.seed)
        model = add_lora(load_base(tiny_model, settings.weights, "cpu"), settings.lora)
        log, progress = [], []

        def report(done: float, total: int, note: str = "") -> None:
            progress.append((done, total))

        run = training_run(settings, tmp_path, log=log.append, report_progress=report)
        shutil.rmtree(run.checkpoints, ignore_errors=True)
        tokenizer = load_tokenizer(tiny_model)
        trainer = make_trainer(run, model, tokenizer, train_rows, EVAL_ROWS, plan=None)
        trainer.train()
        return Finished(run.history, model, log, progress, trainer.state.global_step)

    return train


def losses_of(points: Sequence[tuple[int, float]]) -> list[float]:
    return [loss for _, loss in points]


def exact_mean(model: Any, rows: Sequence[TokenRow], supervise: str) -> float:
    """Nats per token over rows, one row a pass."""
    losses = [row_losses(model, [row], supervise)[0] for row in rows]
    return sum(loss.nll for loss in losses) / sum(loss.tokens for loss in losses)


@pytest.mark.parametrize("supervise", ["full", "answer"])
def test_the_split_into_passes_does_not_matter_in_21_steps(run, supervise):
    runs = {
        name: run(epochs=7, evaluate_every_steps=7, supervise=supervise, **layout)
        for name, layout in LAYOUTS.items()
    }
    first = runs.pop("padded-2x4")
    weights = first.adapter()
    assert [step for step, _ in first.history.train] == list(range(1, 22))
    for name, other in runs.items():
        for kind in ("train", "eval"):
            ours, theirs = getattr(first.history, kind), getattr(other.history, kind)
            assert [step for step, _ in ours] == [step for step, _ in theirs]
            assert losses_of(ours) == pytest.approx(losses_of(theirs), abs=LOSS_TOLERANCE), name
        for parameter, value in other.adapter().items():
            assert (value - weights[parameter]).abs().max() < WEIGHT_TOLERANCE, (name, parameter)


def test_packed_rows_give_the_unpacked_loss(run, base):
    # 24 rows of 5 to 61 tokens are 13 or so packs of 64; all of them are one step.
    done = run(batching="packed", step_sequences=24, epochs=1)
    assert done.steps == 1
    assert done.history.train == [
        (1, pytest.approx(exact_mean(base, TRAIN_ROWS, "full"), abs=1e-4))
    ]
    assert done.history.train_tokens == sum(len(row.input_ids) for row in TRAIN_ROWS)
    assert done.history.padding_tokens == 0


def test_padding_is_counted_apart(run):
    padded = run(TRAIN_ROWS[:8], epochs=1, batching="padded", micro_batch_rows=8).history
    lengths = [len(row.input_ids) for row in TRAIN_ROWS[:8]]
    assert padded.train_tokens == sum(lengths)
    assert padded.padding_tokens == 8 * max(lengths) - sum(lengths)


def test_the_same_run_again_is_bit_identical(run):
    first, second = run(neftune_alpha=5.0), run(neftune_alpha=5.0)
    assert first.history.train == second.history.train
    assert first.history.eval == second.history.eval
    for name, value in second.adapter().items():
        assert (value == first.adapter()[name]).all(), name


def test_another_seed_is_another_run(run):
    assert run().history.train != run(seed=1).history.train


def test_the_seed_orders_the_rows(run):
    # Nothing is learnt, so that only the order decides what loss a step shows.
    first, second = (run(seed=n, epochs=1, peak_learning_rate=1e-12).history.train for n in (1, 2))
    assert losses_of(first) != pytest.approx(losses_of(second), abs=1e-4)


@pytest.mark.parametrize("supervise", ["full", "answer"])
@pytest.mark.parametrize("layout", ["one-flat-pass", "flat-60-tokens-a-pass", "padded-2x4"])
def test_the_first_loss_is_that_of_the_base_over_all_tokens_of_the_step(
    run, base, supervise, layout
):
    # Eight rows are one step, in whatever order; B of LoRA is still zero.
    rows = TRAIN_ROWS[:8]
    done = run(rows, supervise=supervise, epochs=1, **LAYOUTS[layout])
    assert done.steps == 1
    expected = exact_mean(base, rows, supervise)
    assert done.history.train == [(1, pytest.approx(expected, abs=1e-4))]
    means = [exact_mean(base, [row], supervise) for row in rows]
    assert abs(sum(means) / len(means) - expected) > 1e-3, "a mean of row means would pass"


def test_a_short_last_step_counts_its_own_tokens(run, base):
    # 3 rows in passes of 2: the second pass has one row only.
    rows = TRAIN_ROWS[:3]
    done = run(rows, micro_batch_rows=2, epochs=1)
    assert done.history.train == [(1, pytest.approx(exact_mean(base, rows, "full"), abs=1e-4))]


@pytest.mark.parametrize("supervise", ["full", "answer"])
def test_eval_loss_is_nats_per_token_of_the_model_kept(run, supervise):
    done = run(supervise=supervise)
    best = min(losses_of(done.history.eval))
    assert exact_mean(done.model.eval(), EVAL_ROWS, supervise) == pytest.approx(best, abs=1e-5)


def test_eval_loss_before_learning_is_that_of_the_base(run, base):
    done = run(peak_learning_rate=1e-12, epochs=1)
    expected = exact_mean(base, EVAL_ROWS, "full")
    assert losses_of(done.history.eval) == pytest.approx([expected] * 2, abs=1e-5)


def test_the_checkpoint_with_the_lowest_eval_loss_is_kept(run, tmp_path):
    # Train rows of six ids only: the better they are known, the worse the eval rows of all ids.
    done = run(FEW_IDS, epochs=6, peak_learning_rate=0.05)
    losses = losses_of(done.history.eval)
    best = losses.index(min(losses))
    assert len(losses) == 9
    assert losses[-1] > losses[best] + 0.002
    assert mean_loss(done.model.eval(), EVAL_ROWS, "full") == pytest.approx(min(losses), abs=1e-6)
    best_step = done.history.eval[best][0]
    kept = {path.name for path in tmp_path.glob("**/checkpoint-*")}
    assert f"checkpoint-{best_step}" in kept
    assert len(kept) <= 2


def test_the_last_step_is_always_evaluated_once(run):
    done = run(epochs=1, evaluate_every_steps=2)
    assert [step for step, _ in done.history.eval] == [2, 3]
    assert [step for step, _ in run(epochs=1, evaluate_every_steps=50).history.eval] == [3]
    assert [step for step, _ in run(epochs=1, evaluate_every_steps=3).history.eval] == [3]


def test_training_learns_what_it_is_given(run):
    # The final norm and the frozen head bound what this model can learn to about 0.6 nats.
    history = run(FEW_IDS, epochs=6, peak_learning_rate=0.05).history
    assert history.train[-1][1] < history.train[0][1] - 0.1


def test_supervise_answer_learns_the_answer_and_not_the_prompt(run, base):
    rows = [replace(row, input_ids=[5, 6, 7], answer_start=2) for row in TRAIN_ROWS[:8]]
    answer, prompt = rows[0], replace(rows[0], input_ids=[5, 6])
    gained = {}
    for supervise in ("answer", "full"):
        learnt = run(rows, supervise=supervise, epochs=20, peak_learning_rate=0.05).model.eval()
        gained[supervise] = [
            exact_mean(base, [row], what) - exact_mean(learnt, [row], what)
            for row, what in ((answer, "answer"), (prompt, "full"))
        ]
    assert gained["answer"][0] > 0.2
    assert gained["answer"][1] < min(gained["answer"][0], gained["full"][1]) / 2
    assert min(gained["full"]) > 0.2


def test_losses_go_to_the_log_and_progress_to_the_reporter(run):
    done = run(epochs=1)
    assert done.progress == [(1, 3), (2, 3), (3, 3)]
    assert done.log[0].startswith("step 1/3 loss ")
    assert [line.split(" ")[1:3:2] for line in done.log if "eval_loss" in line] == [
        ["2/3"],
        ["3/3"],
    ]
    assert " tokens/s, " in done.log[0]
    assert done.log[0].endswith(" s left")
    assert f"eval_loss {done.history.eval[-1][1]:.4f}" in done.log[-1]
    assert done.history.eval_seconds > 0


def test_only_the_adapter_is_trained_and_stays_fp32(run, base):
    import torch

    done = run(weights="bf16", epochs=1)
    assert {p.dtype for p in done.adapter().values()} == {torch.float32}
    assert all("lora_" in name for name in done.adapter())
    frozen = dict(done.model.get_base_model().named_parameters())
    assert frozen["model.embed_tokens.weight"].dtype == torch.bfloat16


def test_bf16_weights_start_near_the_fp32_loss(run, base):
    done = run(TRAIN_ROWS[:8], weights="bf16", epochs=1)
    expected = exact_mean(base, TRAIN_ROWS[:8], "full")
    assert done.history.train[0][1] == pytest.approx(expected, abs=0.02)


def test_long_runs_evaluate_at_wider_intervals(run):
    done = run(epochs=4, evaluate_every_steps=1, max_evaluations=3)
    assert [step for step, _ in done.history.eval] == [4, 8, 12]


def test_training_stops_when_the_eval_loss_gets_no_better(run):
    done = run(FEW_IDS, epochs=12, peak_learning_rate=0.05, patience_evaluations=2)
    losses = losses_of(done.history.eval)
    assert done.steps < 36
    assert losses.index(min(losses)) == len(losses) - 3


@pytest.mark.parametrize("rows", [24, 19])
def test_every_step_takes_the_rows_of_the_plan_in_its_order(run, monkeypatch, rows):
    seen, train = [], TokenSteps.train

    def noted(self, chosen, step):
        seen.append((step, list(chosen)))
        return train(self, chosen, step)

    monkeypatch.setattr(TokenSteps, "train", noted)
    run(TRAIN_ROWS[:rows], epochs=2, seed=11)
    assert [step for step, _ in seen] == list(range(len(seen)))
    assert [chosen for _, chosen in seen] == expected_order(rows, 2, 11, 8)


def test_a_checkpoint_holds_neither_a_tokenizer_nor_a_model_card(run, tmp_path):
    run(epochs=1)
    checkpoints = tmp_path / "lora_adapter" / "small" / ".v.checkpoints"
    names = {path.name for path in checkpoints.rglob("*") if path.is_file()}
    assert "adapter_model.safetensors" in names
    assert [name for name in names if "token" in name] == []
    assert not (checkpoints / "README.md").exists()
