"""The chat's commands on a tiny random Qwen2, shown as plain text: one conversation in whole."""

import json

import pytest

from qwenft_assets.cli.chat import PlainView
from qwenft_assets.cli.chat_commands import COMMANDS, Chat
from qwenft_assets.cli.chat_terminal import end_of_whole_blocks
from qwenft_assets.text.chatml import SYSTEM_PROMPT, Turn, render_conversation
from qwenft_assets_tests.tiny_deployment import CHAMPION, LATEST, make_tiny_models


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_tiny_models(tmp_path_factory.mktemp("deployment"))


@pytest.fixture
def chat(models):
    return Chat(models, None, PlainView())


def answer_of(models, adapter, *contents, system=None):
    """What the model with that adapter says to a conversation, greedily."""
    turns = [
        Turn("user" if n % 2 == 0 else "assistant", content) for n, content in enumerate(contents)
    ]
    prompt = render_conversation(turns, system)
    return "".join(models.get(adapter).answer(prompt, models.config.decoding))


CUT = "(cut at 8 tokens: /set max_new_tokens allows more)\n"


def test_a_conversation_in_whole(models, chat, capsys, tmp_path):
    file = tmp_path / "talk.jsonl"
    why = answer_of(models, None, "Why?")
    then = answer_of(models, None, "Why?", why, "And then?")
    brief = answer_of(models, None, "Why?", why, "And then?", system="Be brief.")
    base = answer_of(models, "none", "Why?", why, "And then?", brief, "Sure?", system="Be brief.")
    ours = answer_of(models, None, "Why?", why, "And then?", brief, "Sure?", system="Be brief.")
    assert len({why, then, brief, base, ours}) == 5
    script = [
        ("Why?", f"{why}\n", CUT),
        ("And then?", f"{then}\n", CUT),
        ("/system Be brief.", "", "(system prompt: Be brief.)\n"),
        ("/retry", f"{brief}\n", CUT),
        ("/compare Sure?", f"[base]\n{base}\n[{CHAMPION}]\n{ours}\n", ""),
        (f"/save {file}", "", f"({file}: 2 training rows added)\n"),
        ("/undo", "", "(taken back: And then?)\n"),
        ("/reset", "", "(forgotten; system prompt and settings stay)\n"),
        (f"/load {file}", "", f"({file}: 2 exchanges loaded)\n"),
        ("/system default", "", f"(system prompt: {SYSTEM_PROMPT})\n"),
        ("/set temperature hot", "", None),
        ("/set top_p 0.5", "", "(top_p 0.5)\n"),
        ("/adapter", "", f"({models.get(None).base_name}, adapter {CHAMPION})\n"),
        ("/adapter latest", "", f"({models.get(None).base_name}, adapter {LATEST})\n"),
        ("/nonsense", "", "(/nonsense: no such command. /help lists them.)\n"),
        ("", "", ""),
    ]
    for line, shown, note in script:
        assert chat.handle(line)
        printed = capsys.readouterr()
        assert printed.out == shown, line
        assert note is None or printed.err.endswith(note), line
    assert not chat.handle("exit")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [(row["instruction"], row["system"]) for row in rows] == [
        ("Why?", "Be brief."),
        ("And then?", "Be brief."),
    ]


@pytest.mark.parametrize("line", ["exit", "QUIT", " quit ", "/quit", "/exit"])
def test_words_that_leave(chat, line):
    assert not chat.handle(line)


def test_a_question_may_begin_with_such_a_word(chat, capsys):
    assert chat.handle("exit codes?")
    assert capsys.readouterr().out.strip()


def test_help_lists_every_command(chat, capsys):
    chat.handle("/help")
    printed = capsys.readouterr().out
    assert [line.split("\t")[0].split()[0] for line in printed.splitlines()] == [
        f"/{name}" for name in COMMANDS
    ]


def test_params_are_the_settings_that_hold(chat, capsys):
    chat.handle("/set seed 5")
    capsys.readouterr()
    chat.handle("/params")
    shown = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert (shown["seed"], shown["temperature"], shown["window_tokens"]) == ("5", "0.0", "1024")


def test_two_named_adapters_answer_with_the_same_seed(models, chat, capsys):
    chat.handle("/set temperature 0.9")
    chat.handle("/compare champion champion Why?")
    first, second = capsys.readouterr().out.split("[champion aaaaaaaaaaaaaaaa]\n")[1:]
    assert first == second != "\n"
    chat.handle("/compare champion candidate Why?")
    printed = capsys.readouterr().out
    assert f"[champion {CHAMPION}]" in printed
    assert f"[latest {LATEST}]" in printed
    assert chat.conversation.exchanges == [], "a comparison is no part of the conversation"


@pytest.mark.parametrize(
    ("line", "note"),
    [
        pytest.param("/retry", "nothing to try again", id="retry"),
        pytest.param("/undo", "nothing to undo", id="undo"),
        pytest.param("/compare", "needs a question", id="compare"),
        pytest.param("/stats", "no figures yet", id="stats"),
        pytest.param("/save talk.json", "nothing to save", id="save"),
        pytest.param("/save", "takes one file", id="save-nothing"),
        pytest.param("/load none.json", "cannot be read", id="load"),
        pytest.param("/adapter abc", "abc: no such adapter", id="adapter"),
        pytest.param("/set", "takes a name and a value", id="set"),
        pytest.param("/set compile false", "fixed once the model is loaded", id="fixed"),
        pytest.param("/set temperature hot", "temperature hot: input should be", id="hot"),
        pytest.param("why " * 2000, "Shorten it", id="longer-than-the-window"),
    ],
)
def test_mistakes_are_one_line_and_the_chat_goes_on(chat, capsys, line, note):
    assert chat.handle(line)
    printed = capsys.readouterr()
    assert note in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out.strip() == ""
    assert chat.conversation.exchanges == []


def test_stats_are_those_of_the_last_answer(chat, capsys):
    chat.handle("Why?")
    capsys.readouterr()
    chat.handle("/stats")
    shown = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    answer = chat.conversation.last_answer
    assert shown["prompt"] == f"{answer.prompt_tokens} tokens"
    assert shown["answer"] == "8 tokens, ended by length"
    assert shown["speed"] == f"{answer.tokens_per_second:.1f} tokens/s"
    assert shown["seed"] == str(answer.seed)
    assert shown["window"] == f"{chat.conversation.used_tokens()} of 1024 tokens"


def test_the_last_question_is_compared_as_it_was_asked(models, chat, capsys):
    chat.handle("Why?")
    chat.handle("And then?")
    answers = [exchange.answer for exchange in chat.conversation.exchanges]
    capsys.readouterr()
    chat.handle("/compare")
    base = answer_of(models, "none", "Why?", answers[0], "And then?")
    assert capsys.readouterr().out == f"[base]\n{base}\n[{CHAMPION}]\n{answers[1]}\n"
    assert base != answers[1]


def test_a_retry_that_no_longer_fits_takes_nothing_away(chat, capsys):
    chat.handle("Why?")
    chat.handle(f"/system {'Be brief. ' * 1000}")
    chat.handle("/retry")
    assert "Shorten it" in capsys.readouterr().err
    assert [exchange.question for exchange in chat.conversation.exchanges] == ["Why?"]


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        pytest.param("One", "", id="still-growing"),
        pytest.param("One\n\nTwo", "One\n\n", id="a-paragraph"),
        pytest.param("```\na\n\nb", "", id="inside-a-fence"),
        pytest.param("```\na\n\nb\n```\n\nT", "```\na\n\nb\n```\n\n", id="behind-a-fence"),
        pytest.param("One\n\n\nTwo\n\nT", "One\n\n\nTwo\n\n", id="several"),
    ],
)
def test_blocks_are_printed_when_they_are_whole(text, whole):
    assert text[: end_of_whole_blocks(text, 0)] == whole
