"""The stage on a tiny Qwen2 that was really trained: files, figures, and what they depend on."""

import json

import pytest

from qwenft_assets.errors import EvaluationError
from qwenft_assets.evaluation.evaluate import evaluate
from qwenft_assets.evaluation.job import plan_evaluation, read_evaluation
from qwenft_assets.inference.load import load_model
from qwenft_assets.mixture.build import read_mixture
from qwenft_assets.model.tokens import tokenize_mixture
from qwenft_assets.progress import no_progress
from qwenft_assets.storage.files import read_parquet, write_json
from qwenft_assets.training.forward_passes import mean_loss
from qwenft_assets_tests.evaluation.trained import SHARES, ignore_line

FIGURES = {
    "eval_loss",
    "perplexity",
    "base_eval_loss",
    "base_perplexity",
    "eval_tokens",
    "eval_rows",
    "truncated_rows",
    "delta_loss",
    "delta_loss_ci95",
}
CONTRACT = FIGURES | {
    "per_source",
    "adapter_version",
    "mixture_version",
    "base_model",
    "base_revision",
    "base_path",
    "engine",
    "attention",
    "max_length_tokens",
    "seconds",
}


def test_every_key_of_the_contract_is_in_the_file(trained):
    result = evaluate(trained.job, no_progress, ignore_line)
    assert read_evaluation(trained.storage, "small", trained.job.adapter_version) == result
    assert result.keys() >= CONTRACT
    assert set(result["per_source"]) == set(SHARES)
    assert all(own.keys() >= FIGURES for own in result["per_source"].values())
    assert result["adapter_version"] == trained.training.version
    assert result["base_path"] == trained.job.base.path
    assert (result["max_length_tokens"], result["engine"]) == (256, "peft")
    assert result["eval_rows"] == 10


def test_an_adapter_that_learnt_is_measured_as_better(trained):
    assert trained.result["perplexity"] < 0.95 * trained.result["base_perplexity"]
    assert trained.result["delta_loss_ci95"][1] < 0


def test_figures_do_not_depend_on_the_batch(trained):
    one_by_one, at_once = (trained.evaluated_with(batch_tokens=size) for size in (64, 100_000))
    for name in FIGURES:
        assert one_by_one[name] == pytest.approx(at_once[name], rel=1e-5, abs=1e-7)
    assert one_by_one["eval_loss"] == pytest.approx(trained.result["eval_loss"], rel=1e-5)


def test_base_figures_are_those_of_the_model_without_an_adapter(trained):
    job, storage = trained.job, trained.storage
    loaded = load_model(storage, "small", None, job.base, job.training, "cpu")
    rows = tokenize_mixture(
        read_mixture(storage, "small"),
        job.mixture_version,
        loaded.tokenizer.backend_tokenizer,
        job.training,
        storage,
    )
    held_out = [row for row in rows if row.split == "eval"]
    alone = mean_loss(loaded.model, held_out, "full")
    assert trained.result["base_eval_loss"] == pytest.approx(alone, rel=1e-6)
    assert trained.result["eval_tokens"] == sum(len(row.input_ids) - 1 for row in held_out)


def test_answer_only_counts_answers_alone(trained):
    """PubMedQA's prompts fill all 256 tokens, so its rows have no answer to judge."""
    answers = trained.evaluated_with({"supervise": "answer"})
    assert set(answers["per_source"]) == {"local_reports", "slimorca"}
    counted = sum(own["eval_tokens"] for own in answers["per_source"].values())
    assert 0 < counted == answers["eval_tokens"] < trained.result["eval_tokens"]
    assert (answers["supervise"], answers["eval_rows"]) == ("answer", 10)


def test_parts_and_spans_are_measured_from_the_same_pass(trained):
    result = trained.result
    for parts in (result["per_source"], result["per_length"], {"": result["per_span"]["full"]}):
        counted = sum(own["eval_tokens"] for own in parts.values())
        assert counted == result["eval_tokens"]
    assert list(result["per_length"]) == sorted(result["per_length"])
    answers = trained.evaluated_with({"supervise": "answer"})
    for name in FIGURES:
        assert answers[name] == pytest.approx(result["per_span"]["answer"][name], rel=1e-5)


def test_row_losses_are_kept_and_sum_to_the_figures(trained):
    evaluate(trained.job, no_progress, ignore_line)
    folder = trained.storage.evaluation("small", trained.job.adapter_version)
    rows = read_parquet(folder / "row_losses.parquet").to_pylist()
    tokens = sum(row["full_tokens"] for row in rows)
    for model, figure in (("base", "base_eval_loss"), ("adapter", "eval_loss")):
        loss = sum(row[f"{model}_full_nll"] for row in rows) / tokens
        assert loss == pytest.approx(trained.result[figure], rel=1e-9)
    assert {row["champion_full_nll"] for row in rows} == {None}


def test_samples_hold_the_same_held_out_rows_answered_by_both(trained):
    evaluate(trained.job, no_progress, ignore_line)
    folder = trained.storage.evaluation("small", trained.job.adapter_version)
    lines = (folder / "samples.jsonl").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    everything = [json.loads(line) for line in lines]
    prompts = [sample for sample in everything if sample["kind"] == "prompt"]
    samples = [sample for sample in everything if sample["kind"] == "held_out"]
    assert [prompt["id"] for prompt in prompts] == ["ai-overfitting", "ai-lora"]
    assert all(prompt["stopped"].keys() == {"base", "adapter"} for prompt in prompts)
    held_out = {
        item.row.row_id: item.row
        for item in read_mixture(trained.storage, "small")
        if item.split == "eval"
    }
    assert len(samples) == 2
    for sample in samples:
        row = held_out[sample["row_id"]]
        assert sample["instruction"] == row.instruction
        assert sample["reference"] == row.output
        assert {"source", "input", "base", "adapter"} <= sample.keys()
        assert f"reference:\n\n```text\n{row.output}" in (folder / "report.md").read_text("utf-8")
    assert sorted(path.name for path in folder.iterdir()) == [
        "evaluation.json",
        "loss_by_length.png",
        "loss_by_source.png",
        "loss_curve.png",
        "report.md",
        "row_losses.parquet",
        "samples.jsonl",
        "trained_questions.parquet",
    ]


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"batch_tokens": 64}, id="batch"),
        pytest.param({"seed": 1}, id="seed"),
        pytest.param({"bootstrap_resamples": 100}, id="resamples"),
        pytest.param({"sample_rows": 0}, id="samples"),
    ],
)
def test_other_settings_have_other_inputs(trained, changed):
    evaluation = trained.config.evaluation.model_copy(update=changed)
    config = trained.config.model_copy(update={"evaluation": evaluation})
    planned = plan_evaluation(config, trained.training, trained.storage)
    assert planned.inputs != trained.job.inputs
    assert plan_evaluation(trained.config, trained.training, trained.storage) == trained.job


def test_an_adapter_that_was_never_trained_cannot_be_evaluated(trained):
    missing = trained.training.model_copy(update={"version": "0" * 16})
    with pytest.raises(EvaluationError, match=f"{'0' * 16}: no adapter .*`qwenft run"):
        plan_evaluation(trained.config, missing, trained.storage)


def test_weights_that_are_not_numbers_make_no_evaluation(trained):
    """A ruined adapter ends in one line, and the evaluation that was there stays as it was."""
    from safetensors.torch import load_file, save_file

    storage, version = trained.storage, "f" * 16
    ruined = storage.adapter("small", version)
    ruined.mkdir()
    for file in storage.adapter("small", trained.job.adapter_version).iterdir():
        (ruined / file.name).write_bytes(file.read_bytes())
    weights = load_file(ruined / "adapter_model.safetensors")
    save_file(
        {name: tensor * float("nan") for name, tensor in weights.items()},
        ruined / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    write_json(storage.evaluation("small", version) / "evaluation.json", {"old": True})
    job = trained.job.model_copy(update={"adapter_version": version})
    with pytest.raises(EvaluationError, match=r"loss is not finite .* nan"):
        evaluate(job, no_progress, ignore_line)
    assert read_evaluation(storage, "small", version) == {"old": True}
