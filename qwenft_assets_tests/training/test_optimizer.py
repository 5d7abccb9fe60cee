"""The adapter's flat buffers: one for each group of parameters, trained with the group's options."""

import pytest

from qwenft_assets.config import TrainingConfig
from qwenft_assets.model.engines.peft import add_lora, load_base, load_tokenizer
from qwenft_assets.training.optimizer import BLOCK, AdapterBuffers
from qwenft_assets.training.trainer import make_trainer
from qwenft_assets_tests.training.test_trainer import EVAL_ROWS, SETTINGS, TRAIN_ROWS
from qwenft_assets_tests.training.tiny_rows import training_run


@pytest.fixture
def make(tiny_model, tmp_path):
    """A run and its trainer; keywords change SETTINGS."""

    def make_one(folder="run", **changes):
        from transformers import set_seed

        settings = TrainingConfig.model_validate(SETTINGS | changes)
        set_seed(settings.seed)
        model = add_lora(load_base(tiny_model, settings.weights, "cpu"), settings.lora)
        run = training_run(settings, tmp_path / folder)
        tokenizer = load_tokenizer(tiny_model)
        return run, make_trainer(run, model, tokenizer, TRAIN_ROWS, EVAL_ROWS, plan=None)

    return make_one


def trainable(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("ratio", [None, 16.0], ids=["one-group", "lora-plus"])
def test_one_eight_bit_block_never_holds_two_parameters(tiny_model, ratio):
    settings = TrainingConfig.model_validate(SETTINGS | {"lora_plus_ratio": ratio})
    model = add_lora(load_base(tiny_model, "fp32", "cpu"), settings.lora)
    before = {name: p.detach().clone() for name, p in trainable(model).items()}
    buffers = AdapterBuffers(model, settings)
    assert len(buffers.groups) == (1 if ratio is None else 2)
    placed = 0
    for group in buffers.groups:
        start, end = group.flat.data_ptr(), group.flat.data_ptr() + 4 * group.flat.numel()
        for name, parameter in trainable(model).items():
            assert (parameter == before[name]).all()
            if start <= parameter.data_ptr() < end:
                assert (parameter.data_ptr() - start) % (4 * BLOCK) == 0
                placed += 1
    assert placed == len(before)


def test_parameters_that_a_library_replaced_come_back_as_they_were(make):
    """TRL rounds the adapter of a 4-bit base to bf16 in its constructor."""
    import torch

    _, trainer = make()
    model = trainer.model
    settings = TrainingConfig.model_validate(SETTINGS)
    buffers = AdapterBuffers(model, settings)
    before = {name: p.detach().clone() for name, p in trainable(model).items()}
    for parameter in trainable(model).values():
        parameter.data = parameter.data.to(torch.bfloat16)
    buffers.attach()
    for name, parameter in trainable(model).items():
        assert parameter.dtype == torch.float32
        assert (parameter == before[name]).all()


def test_the_adapter_of_a_4_bit_base_stays_in_float32(make, monkeypatch):
    import torch
    from peft import PeftModel

    # What TRL asks to see whether the base is in 4 bits, which needs a GPU.
    monkeypatch.setattr(PeftModel, "is_loaded_in_4bit", True, raising=False)
    run, trainer = make()
    trainer.train()
    assert {p.dtype for p in trainable(trainer.model).values()} == {torch.float32}
    assert run.history.train[-1][1] != run.history.train[0][1]


def test_lora_plus_trains_b_at_its_own_rate(make):
    run, trainer = make(lora_plus_ratio=16, peak_learning_rate=1e-3, lr_schedule="linear")
    trainer.train()
    of_a, of_b = trainer.optimizer.param_groups
    assert of_a["initial_lr"] == 1e-3
    assert of_b["initial_lr"] == pytest.approx(16e-3)
    assert of_a["weight_decay"] == of_b["weight_decay"] == run.settings.weight_decay
    assert max(rate for _, rate in run.history.learning_rate) == 1e-3  # the logged rate is A's
    b = [p for name, p in trainable(trainer.model).items() if ".lora_B." in name]
    sizes = [sum(p.numel() for p in group) for group in (b, trainable(trainer.model).values())]
    flat = [group["params"][0].numel() for group in trainer.optimizer.param_groups]
    assert flat[1] >= sizes[0]
    assert sum(flat) >= sizes[1]


def test_a_ratio_of_1_trains_the_same_adapter(make):
    (plain, trainer), (plus, other) = make("plain"), make("plus", lora_plus_ratio=1)
    trainer.train()
    other.train()
    assert plus.history.train == plain.history.train
    assert plus.history.eval == plain.history.eval
    for name, parameter in trainable(trainer.model).items():
        assert (parameter == trainable(other.model)[name]).all(), name


def test_a_higher_rate_of_b_is_another_training(make):
    (plain, trainer), (plus, other) = make("plain"), make("plus", lora_plus_ratio=16)
    trainer.train()
    other.train()
    assert plus.history.train[0] == plain.history.train[0]
    assert plus.history.train[-1] != plain.history.train[-1]


def test_lora_plus_resumes_where_it_was_cut_off(make):
    _, whole = make("whole", lora_plus_ratio=4)
    whole.train()
    _, cut = make("cut", lora_plus_ratio=4)
    cut.args.max_steps = 4
    run, _ = make("cut", lora_plus_ratio=4)
    cut.train()
    _, resumed = make("cut", lora_plus_ratio=4)
    resumed.train(resume_from_checkpoint=str(run.checkpoints / "checkpoint-4"))
    assert resumed.state.global_step == whole.state.global_step == 6
    for name, parameter in trainable(whole.model).items():
        assert (parameter - trainable(resumed.model)[name]).abs().max() < 1e-6, name
