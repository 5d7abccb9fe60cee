"""A second version against the first: on the same rows in the same pass, and refused when worse."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from qwenft_assets.errors import AdapterError
from qwenft_assets.evaluation.evaluate import evaluate
from qwenft_assets.evaluation.job import is_current, plan_evaluation
from qwenft_assets.evaluation.losses import has_room_in_bf16, losses_by_model
from qwenft_assets.evaluation.models import ADAPTER, BASE, CHAMPION, add_champion
from qwenft_assets.inference.load import load_model, resolve_adapter
from qwenft_assets.mixture.build import build_mixture, read_mixture
from qwenft_assets.mixture.deduplication import question_key
from qwenft_assets.mixture.frozen_eval import read_frozen_eval
from qwenft_assets.model.batches import common_start
from qwenft_assets.model.tokens import tokenize_mixture, tokenize_rows
from qwenft_assets.progress import no_progress
from qwenft_assets.release.registry import promote, read_champion, release_adapter, rollback
from qwenft_assets.storage.files import read_parquet, write_parquet
from qwenft_assets.storage.root import Storage
from qwenft_assets.training.forward_passes import mean_loss
from qwenft_assets.training.job import plan_training
from qwenft_assets_tests.evaluation.trained import (
    Trained,
    ignore_line,
    tiny_config,
    train_and_evaluate,
    with_broken_answers,
)


@pytest.fixture(scope="module")
def worse(trained, tmp_path_factory) -> Trained:
    """The first adapter is champion; a second one was trained on answers that make no sense."""
    storage = with_broken_answers(trained, tmp_path_factory.mktemp("worse") / "storage")
    job = plan_evaluation(
        trained.config, plan_training(trained.config, "small", trained.storage, "cpu"), storage
    )
    assert release_adapter(trained.config, job, storage).released
    return train_and_evaluate(trained.config, storage)


def test_the_champion_is_read_on_the_same_rows(trained, worse):
    result = worse.result
    assert result["champion_version"] == trained.job.adapter_version
    assert result["champion_rows"] == result["eval_rows"] == 10
    assert result["champion_eval_loss"] == pytest.approx(trained.result["eval_loss"], rel=1e-6)
    assert result["base_eval_loss"] == pytest.approx(trained.result["base_eval_loss"], rel=1e-6)
    difference = result["eval_loss"] - trained.result["eval_loss"]
    assert result["champion_delta_loss"] == pytest.approx(difference, rel=1e-4)
    folder = worse.storage.evaluation("small", worse.job.adapter_version)
    samples = [json.loads(x) for x in (folder / "samples.jsonl").read_text("utf-8").splitlines()]
    assert all({"base", "champion", "adapter"} <= sample.keys() for sample in samples)


def test_the_adapter_alone_has_the_loss_it_has_beside_the_champion(worse):
    job, storage = worse.job, worse.storage
    loaded = load_model(storage, "small", job.adapter_version, job.base, job.training, "cpu")
    rows = tokenize_mixture(
        read_mixture(storage, "small"),
        job.mixture_version,
        loaded.tokenizer.backend_tokenizer,
        job.training,
        storage,
    )
    alone = mean_loss(loaded.model, [row for row in rows if row.split == "eval"], "full")
    assert worse.result["eval_loss"] == pytest.approx(alone, rel=1e-6)


def test_rows_read_without_padding_have_the_same_losses_under_every_model(worse):
    job, storage = worse.job, worse.storage
    loaded = load_model(storage, "small", job.adapter_version, job.base, job.training, "cpu")
    add_champion(loaded.model, storage.adapter("small", job.champion_version))
    mixed = [item for item in read_mixture(storage, "small") if item.split == "eval"]
    rows = tokenize_rows(mixed, loaded.tokenizer.backend_tokenizer, job.training)
    assert common_start(rows) > 0  # which is read once a batch
    who = (BASE, ADAPTER, CHAMPION)
    padded, flat = (
        losses_by_model(loaded.model, rows, 512, who, flat=flat) for flat in (False, True)
    )
    for name in who:
        for ours, theirs in zip(flat[name], padded[name], strict=True):
            assert ours.full.tokens == theirs.full.tokens
            assert ours.full.nll == pytest.approx(theirs.full.nll, rel=1e-5)
            assert ours.answer.nll == pytest.approx(theirs.answer.nll, rel=1e-5)
    sums = {name: sum(loss.full.nll for loss in flat[name]) for name in who}
    assert len({round(total, 2) for total in sums.values()}) == 3


def test_a_champion_that_does_not_fit_is_told_in_one_line(trained, tmp_path):
    job, storage = trained.job, trained.storage
    other = tmp_path / "other-rank"
    shutil.copytree(storage.adapter("small", job.adapter_version), other)
    settings = json.loads((other / "adapter_config.json").read_text(encoding="utf-8"))
    changed = {**settings, "r": 2 * settings["r"]}
    (other / "adapter_config.json").write_text(json.dumps(changed), encoding="utf-8")
    loaded = load_model(storage, "small", job.adapter_version, job.base, job.training, "cpu")
    with pytest.raises(
        AdapterError, match=r"the champion does not load .*\(Error\(s\) in loading"
    ) as told:
        add_champion(loaded.model, other)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(("free_gib", "fits"), [(19, True), (18, False), (1, False)])
def test_4bit_weights_are_held_in_bf16_where_there_is_room_to_work_beside_them(free_gib, fits):
    assert has_room_in_bf16(7 * 2**30, free_gib * 2**30) is fits


def test_an_adapter_trained_on_nonsense_is_refused_with_the_rule_named(trained, worse):
    report = release_adapter(worse.config, worse.job, worse.storage)
    assert not report.released
    rule = f"not_worse_than_champion: against champion {report.previous}: delta loss +"
    assert any(reason.startswith(rule) for reason in report.reasons)
    champion = read_champion(worse.storage, "small")
    assert champion is not None
    assert champion.version == report.previous == trained.job.adapter_version
    assert release_adapter(worse.config, worse.job, worse.storage).reused


def test_a_comparison_is_not_repeated_when_the_adapter_became_the_champion(worse):
    as_champion = worse.job.model_copy(update={"champion_version": None})
    assert is_current(worse.result, worse.job)
    assert is_current(worse.result, as_champion)
    other = worse.job.model_copy(update={"champion_version": "f" * 16})
    assert not is_current(worse.result, other)


def test_rows_that_the_champion_was_trained_on_are_left_out(worse):
    """A rebuild moves rows between train and eval; what the champion knows would flatter it."""
    folder = worse.storage.evaluation("small", worse.result["champion_version"])
    path = folder / "trained_questions.parquet"
    before = path.read_bytes()
    held_out = [item.row for item in read_mixture(worse.storage, "small") if item.split == "eval"]
    known = {question_key(row) for row in held_out[:4]}
    table = read_parquet(path)
    assert not known & set(table.column("question").to_pylist())
    write_parquet(path, pa.table({"question": pa.array([*known], pa.string())}))
    try:
        result = worse.evaluated_with()
    finally:
        path.write_bytes(before)
    expected = sum(question_key(row) not in known for row in held_out)
    assert result["champion_rows"] == expected < 10
    assert result["eval_rows"] == 10


def test_a_frozen_set_is_evaluated_and_kept_out_of_the_mixture(trained, tmp_path):
    chosen = [item.row for item in read_mixture(trained.storage, "small")[:6]]
    frozen = tmp_path / "frozen.jsonl"
    lines = [
        {"instruction": row.instruction.upper(), "input": row.input, "output": row.output,
         "source": f"frozen_{row.source}"}
        for row in chosen
    ]  # fmt: skip
    frozen.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    config = tiny_config(Path(trained.job.base.path), frozen_eval=str(frozen))
    manifest = build_mixture(config, "small", trained.storage).manifest
    try:
        assert manifest["dropped_frozen_eval"] == len({question_key(row) for row in chosen}) == 6
        asked = {question_key(row) for row in read_frozen_eval(config.evaluation)}
        mixed = read_mixture(trained.storage, "small")
        assert not asked & {question_key(item.row) for item in mixed}
        job = trained.job.model_copy(
            update={"settings": config.evaluation, "adapter_version": trained.job.adapter_version}
        )
        result = evaluate(job, no_progress, ignore_line)
    finally:
        build_mixture(trained.config, "small", trained.storage)
    assert (result["eval_rows"], result["eval_set"]) == (6, "frozen")
    assert set(result["per_source"]) == {f"frozen_{row.source}" for row in chosen}
    assert result["eval_set_version"] != trained.result["eval_set_version"]
    assert result["leaked_rows"] == 0


def test_a_row_in_train_and_in_the_evaluation_set_is_counted_as_leaked(trained, tmp_path):
    mixed = read_mixture(trained.storage, "small")
    row = next(item.row for item in mixed if item.split == "train")
    frozen = tmp_path / "frozen.jsonl"
    line = {"instruction": row.instruction, "input": row.input, "output": row.output}
    other = {"instruction": "What else?", "output": "Nothing."}
    frozen.write_text(f"{json.dumps(line)}\n\n{json.dumps(other)}\n", encoding="utf-8")
    result = trained.evaluated_with(frozen_eval=str(frozen))
    assert (result["leaked_rows"], result["eval_rows"]) == (1, 2)


def test_a_rollback_is_what_infer_resolves_at_once(trained, worse, tmp_path):
    shutil.copytree(worse.storage.root, tmp_path / "storage")
    storage = Storage(tmp_path / "storage")
    version = worse.job.adapter_version
    promote(worse.config, storage, "small", version, "to try it", force=True)
    assert resolve_adapter(storage, "small", None) == version
    rollback(storage, "small", "it talks nonsense")
    assert resolve_adapter(storage, "small", None) == trained.job.adapter_version
