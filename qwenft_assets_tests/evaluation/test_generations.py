"""The prompts that every version is asked: bundled ones, the user's, and how answers end."""

import json

import pytest

from qwenft_assets.config import EvaluationConfig
from qwenft_assets.errors import EvaluationError
from qwenft_assets.evaluation.canaries import main_script
from qwenft_assets.evaluation.generations import answer_greedily, load_prompts
from qwenft_assets.inference.load import load_model
from qwenft_assets.text.chatml import TURN_END, render_prompt


def own_prompts(tmp_path, *lines):
    path = tmp_path / "eval_prompts.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return EvaluationConfig(prompts_path=str(path))


def test_the_bundled_prompts_cover_the_three_domains_and_chinese():
    prompts = load_prompts(EvaluationConfig(prompts_path="no/such/file.jsonl"))
    assert len(prompts) == 12
    assert {prompt.id.partition("-")[0] for prompt in prompts} >= {"ai", "ic", "biomed", "zh"}
    assert [main_script(p.instruction) for p in prompts].count("han") == 1


def test_prompts_of_the_user_are_added_where_the_file_is_there(tmp_path):
    line = {"id": "mine", "instruction": "What is in report 7?", "input": "Report 7: x"}
    settings = own_prompts(tmp_path, json.dumps(line), "")
    assert [prompt.id for prompt in load_prompts(settings)][-1] == "mine"
    alone = settings.model_copy(update={"bundled_prompts": 0})
    assert [prompt.model_dump() for prompt in load_prompts(alone)] == [{**line, "system": None}]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param("{oops", r"line 2: .*A line looks like", id="not-json"),
        pytest.param('{"id": "x"}', r"line 2: field 'instruction': ", id="no-question"),
        pytest.param('{"id": "x", "instruction": 5}', r"line 2: field 'instruction'", id="type"),
        pytest.param('{"id": "x", "instruction": "?", "a": 1}', r"field 'a'", id="unknown-key"),
        pytest.param('{"id": "ic-ldo", "instruction": "?"}', r"the id 'ic-ldo' is taken", id="id"),
    ],
)
def test_a_wrong_prompt_is_named_with_its_line(tmp_path, line, message):
    settings = own_prompts(tmp_path, '{"id": "fine", "instruction": "?"}', line)
    with pytest.raises(EvaluationError, match=message):
        load_prompts(settings)


def test_answers_in_a_batch_are_those_of_prompts_alone(trained):
    job = trained.job
    loaded = load_model(
        trained.storage, "small", job.adapter_version, job.base, job.training, "cpu"
    )
    prompts = [render_prompt(text, "") for text in ("Why?", "What is a transistor for? " * 5, "So")]
    together = answer_greedily(loaded.model, loaded.tokenizer, prompts, 6)
    alone = [answer_greedily(loaded.model, loaded.tokenizer, [one], 6)[0] for one in prompts]
    assert together == alone
    assert not any(TURN_END in answer.text for answer in together)
