"""`infer` as a process: one question, a question on standard input, a file of questions."""

import json

from qwenft_assets_tests.answering_deployment import GREEDY, QUESTION, VERSION


def test_infer_tells_the_figures_of_its_answer(inferred):
    assert inferred["adapter_version"] == VERSION
    assert inferred["finish_reason"] == "length"
    assert inferred["tokens"] == 8
    assert inferred["seconds"] > 0
    assert "<|im" not in inferred["answer"]


def test_infer_chat_and_batch_give_the_same_greedy_answer(deployment, inferred, tmp_path):
    streamed = deployment.run("qwenft", "infer", "-", *GREEDY, text=QUESTION)
    assert streamed.stdout == inferred["answer"] + "\n"
    talked = deployment.run("qwenft", "chat", *GREEDY, text=f"{QUESTION}\nexit\n")
    assert talked.stdout == inferred["answer"] + "\n"
    file = tmp_path / "questions.jsonl"
    file.write_text(json.dumps({"instruction": QUESTION}) + "\n", encoding="utf-8")
    batch = deployment.run("qwenft", "infer", "--batch", str(file), *GREEDY)
    assert batch.returncode == 0, batch.stderr
    (line,) = (tmp_path / "questions.answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["answer"] == inferred["answer"]
