"""The stage on a real small mixture: what the adapter's folder holds, and what changes its version."""

import json
import shutil

import pytest

from qwenft_assets.config import load_config
from qwenft_assets.errors import MixtureError, TrainingError
from qwenft_assets.mixture.build import build_mixture
from qwenft_assets.model.tokens import TokenRow
from qwenft_assets.sources.sample import sample_source
from qwenft_assets.storage.root import Storage
from qwenft_assets.text.chatml import render_prompt, render_training_text
from qwenft_assets.training.job import latest_version, plan_training, training_record
from qwenft_assets.training.run import TrainingRun
from qwenft_assets.training.train import choose_eval_rows, train
from qwenft_assets_tests.tiny_model import write_tiny_model

SETTINGS = {
    "device": "cpu",
    "weights": "fp32",
    "min_vram_gib": 0,
    "max_length_tokens": 256,
    "epochs": 1,
    "peak_learning_rate": 0.01,
    "warmup_steps": 0,
    "evaluate_every_steps": 2,
    "gradient_checkpointing": False,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_model):
    """Config, storage and training record of one finished training."""
    config = load_config("configs/demo.yaml")
    small = config.mixture.recipes["small"].model_copy(update={"rows": 40})
    settings = config.training.model_copy(update={"base_model": str(tiny_model), **SETTINGS})
    mixture = config.mixture.model_copy(update={"recipes": {"small": small}})
    config = config.model_copy(update={"training": settings, "mixture": mixture})
    storage = Storage(tmp_path_factory.mktemp("trained"))
    for source in ("local_reports", "slimorca", "pubmedqa"):
        sample_source(config, source, storage)
    build_mixture(config, "small", storage)
    job = plan_training(config, "small", storage, "cpu")
    log: list[str] = []
    record = train(TrainingRun(job, log=log.append))
    return config, storage, job, record, log


def changed(config, **settings):
    return config.model_copy(update={"training": config.training.model_copy(update=settings)})


def test_the_folder_holds_all_that_an_adapter_needs(trained):
    _, storage, job, record, _ = trained
    folder = storage.adapter("small", job.version)
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "loss.png",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.json",
    ]
    assert {oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {"0o644"}
    assert latest_version(storage, "small") == job.version
    assert training_record(storage, "small", job.version) == json.loads(json.dumps(record))
    assert sorted(path.name for path in storage.adapters("small").iterdir()) == sorted(
        [job.version, "latest.json"]
    )


def test_the_record_says_what_was_done(trained):
    config, _, job, record, log = trained
    assert record["train_rows"] == 36
    assert record["eval_rows"] == 4
    assert record["steps"] == 5
    assert record["best_eval_loss"] == min(loss for _, loss in record["loss_history"]["eval"])
    assert [step for step, _ in record["loss_history"]["train"]] == [1, 2, 3, 4, 5]
    assert [step for step, _ in record["loss_history"]["eval"]] == [2, 4, 5]
    assert record["mixture_version"] == job.mixture_version
    assert record["settings"] == config.training.model_dump(mode="json")
    assert any(line.startswith("step 1/5 loss") for line in log)


def test_the_adapter_loads_with_plain_peft_and_asks_as_it_was_trained(trained, tiny_model):
    import peft
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _, storage, job, _, _ = trained
    folder = storage.adapter("small", job.version)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    model = peft.PeftModel.from_pretrained(base, folder)
    assert isinstance(model.peft_config["default"], peft.LoraConfig)
    assert model.peft_config["default"].r == 16
    assert model.peft_config["default"].base_model_name_or_path == job.base.name
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = [{"role": "user", "content": "What is a PLL?"}]
    assert tokenizer.apply_chat_template(
        asked, tokenize=False, add_generation_prompt=True
    ) == render_prompt("What is a PLL?", "")
    answered = [*asked, {"role": "assistant", "content": "A phase-locked loop."}]
    assert tokenizer.apply_chat_template(answered, tokenize=False) == render_training_text(
        "What is a PLL?", "", "A phase-locked loop."
    )
    assert tokenizer.pad_token != tokenizer.eos_token == "<|im_end|>"  # noqa: S105


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        pytest.param({"peak_learning_rate": 0.02}, False, id="learning-rate"),
        pytest.param({"supervise": "answer"}, False, id="supervise"),
        pytest.param({"device": "auto"}, True, id="device"),
        pytest.param({"min_vram_gib": 3}, True, id="min-vram"),
        pytest.param({"shard_base_weights": False}, True, id="shard-base-weights"),
    ],
)
def test_the_version_follows_what_would_be_learnt(trained, settings, same):
    config, storage, job, _, _ = trained
    other = plan_training(changed(config, **settings), "small", storage, "cpu")
    assert (other.version == job.version) is same


def test_the_version_follows_the_mixture(trained, tmp_path):
    config, storage, job, _, _ = trained
    moved = Storage(shutil.copytree(storage.root, tmp_path / "moved"))
    assert plan_training(config, "small", moved, "cpu").version == job.version
    manifest = moved.mixed_dataset("small") / "manifest.json"
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(text.replace(job.mixture_version, "0" * 16), encoding="utf-8")
    other = plan_training(config, "small", moved, "cpu")
    assert other.mixture_version == "0" * 16
    assert other.version != job.version


def test_the_version_follows_the_base_weights(trained, tiny_model, tmp_path):
    config, storage, _, _, _ = trained
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    at_copy = changed(config, base_model=str(copy))
    before = plan_training(at_copy, "small", storage, "cpu")
    write_tiny_model(copy, seed=1)
    after = plan_training(at_copy, "small", storage, "cpu")
    assert after.base.name == before.base.name
    assert after.version != before.version


def test_training_that_diverges_leaves_the_last_good_adapter(trained):
    config, storage, job, _, _ = trained
    absurd = plan_training(changed(config, peak_learning_rate=1e30), "small", storage, "cpu")
    with pytest.raises(TrainingError, match="training diverged, nothing was saved"):
        train(TrainingRun(absurd))
    left = sorted(path.name for path in storage.adapters("small").iterdir())
    assert left == sorted([job.version, "latest.json"])
    assert latest_version(storage, "small") == job.version


def test_training_needs_a_mixture(trained, tmp_path):
    with pytest.raises(MixtureError, match="no mixture yet"):
        plan_training(trained[0], "small", Storage(tmp_path), "cpu")


def test_the_eval_rows_of_training_are_the_same_each_time():
    rows = [
        TokenRow(f"row{n}", "s", "eval" if n % 2 else "train", [1], 0, False) for n in range(40)
    ]
    chosen = choose_eval_rows(rows, 5, seed=1)
    assert {row.split for row in chosen} == {"eval"}
    assert chosen == choose_eval_rows(list(reversed(rows)), 5, seed=1)
    assert chosen == choose_eval_rows(rows, 10, seed=1)[:5]
    assert len(choose_eval_rows(rows, None, seed=1)) == 20
