"""A file of questions: ordered, equal to one by one, and whole after a kill."""

import json

import pytest

from qwenft_assets.errors import PromptError
from qwenft_assets.inference.batch import answer_file, read_questions
from qwenft_assets.text.chatml import render_prompt
from qwenft_assets_tests.tiny_deployment import CHAMPION, make_tiny_models

ROWS = [
    {"instruction": "Why?"},
    {"instruction": "Summarise.", "input": "A regulator\u2028keeps its voltage."},
    {"instruction": "低压差稳压器是什么?", "system": "Be brief.", "output": "ignored"},
    {"instruction": "And then?"},
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_tiny_models(tmp_path_factory.mktemp("deployment"))


@pytest.fixture
def questions(tmp_path):
    file = tmp_path / "questions.jsonl"
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    file.write_text("\n".join(lines), encoding="utf-8")
    return read_questions(file)


class KilledError(Exception):
    """Stands for a kill between two rows."""


@pytest.mark.parametrize("temperature", [0, 0.9], ids=["greedy", "sampled"])
def test_answers_are_those_of_one_question_at_a_time(models, questions, tmp_path, temperature):
    model = models.get(None)
    decoding = models.config.decoding.model_copy(update={"temperature": temperature})
    report = answer_file(model, questions, tmp_path / "out.jsonl", decoding)
    lines = [
        json.loads(line)
        for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").split("\n")
        if line
    ]
    assert [line["instruction"] for line in lines] == [row["instruction"] for row in ROWS]
    seeded = decoding.model_copy(update={"seed": 0})
    for line, row in zip(lines, ROWS, strict=True):
        prompt = render_prompt(row["instruction"], row.get("input", ""), row.get("system"))
        assert line["answer"] == "".join(model.answer(prompt, seeded))
        assert line["adapter_version"] == CHAMPION
        assert line["tokens"] > 0
    assert report.tokens == sum(line["tokens"] for line in lines)


@pytest.mark.parametrize("torn", [b"", b'{"instruction": "And th'], ids=["between", "within"])
def test_a_killed_batch_goes_on_to_the_same_bytes(models, questions, tmp_path, torn):
    model, decoding = models.get(None), models.config.decoding
    answer_file(model, questions, tmp_path / "whole.jsonl", decoding)
    output = tmp_path / "out.jsonl"

    def kill_before_row_three(done, total, note=""):
        if done == 2:
            raise KilledError

    with pytest.raises(KilledError):
        answer_file(model, questions, output, decoding, kill_before_row_three)
    (part,) = tmp_path.glob("out.jsonl.*.part")
    with part.open("ab") as file:
        file.write(torn)
    assert not output.exists()
    report = answer_file(model, questions, output, decoding)
    assert (report.rows, report.resumed) == (4, 2)
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not list(tmp_path.glob("*.part"))


def test_other_settings_do_not_go_on_from_it(models, questions, tmp_path):
    def kill_at_once(done, total, note=""):
        if done == 1:
            raise KilledError

    output, decoding = tmp_path / "out.jsonl", models.config.decoding
    with pytest.raises(KilledError):
        answer_file(models.get(None), questions, output, decoding, kill_at_once)
    other = decoding.model_copy(update={"max_new_tokens": 4})
    assert answer_file(models.get(None), questions, output, other).resumed == 0
    assert answer_file(models.get("none"), questions, output, decoding).resumed == 0


def test_a_row_that_does_not_fit_is_told_before_anything_is_answered(models, tmp_path):
    file = tmp_path / "questions.jsonl"
    file.write_text('{"instruction": "a"}\n{"instruction": "' + "why " * 2000 + '"}\n')
    with pytest.raises(PromptError, match=r"row 2: the prompt has \d+ tokens"):
        answer_file(
            models.get(None), read_questions(file), tmp_path / "out", models.config.decoding
        )
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "cannot be read", id="missing"),
        pytest.param(b"", "has no rows", id="empty"),
        pytest.param(b'{"instruction": "a"}\n{oops\n', "line 2: Invalid JSON", id="not-json"),
        pytest.param(b'{"input": "a"}\n', "line 1: field 'instruction'", id="no-instruction"),
        pytest.param(b'{"instruction": ""}\n', "line 1: field 'instruction'", id="blank"),
        pytest.param(b'{"instruction": "\xff"}\n', "byte 17 is not UTF-8", id="not-utf-8"),
    ],
)
def test_files_that_cannot_be_answered(tmp_path, content, message):
    file = tmp_path / "questions.jsonl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(PromptError, match=message):
        read_questions(file)
