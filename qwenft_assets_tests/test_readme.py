"""README's commands work as printed, and its two languages say the same.

Every command is read by the program it names; those that need neither GPU, network nor a server are
run. `pytest -m readme` also runs what takes minutes, in a clean clone.
"""

import os
import re
import shlex
import subprocess

import click
import pytest
import typer.main

from qwenft_assets.cli import app
from qwenft_assets.config import PROJECT_ROOT
from qwenft_assets_tests.commands import make_deployment

LANGUAGES = ("README.md", "README.zh-CN.md")
DOCUMENTS = (
    *LANGUAGES,
    "CONTRIBUTING.md",
    *(f"docs/{p.name}" for p in (PROJECT_ROOT / "docs").glob("*.md")),
)
BASH = re.compile(r"```bash\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
MODULE = re.compile(r"(?<![\w/.<{*-])((?:[\w-]+/)*\w+\.py)\b")
PACKAGE = re.compile(r"`(\w+)/`")
ROOTS = [PROJECT_ROOT / name for name in ("qwenft_assets", "qwenft_assets_tests", "benchmarks")]
CURRENT = [name for name in DOCUMENTS if name != "docs/LOG.md"]
"""Without the log, which names modules as they were then."""
GPU = "--config configs/qwen2.5-7b.yaml"
NOT_RUN_HERE = {
    "make": "installs, trains or serves: `-m readme`",
    ".venv/bin/pip": "installs",
    "export": "needs a bucket: test_remote_*.py",
    "qwenft chat": "answers after a training: test_chat.py",
    "qwenft serve": "stays: test_serve.py",
    "qwenft infer": "answers after a training: test_infer.py",
    "qwenft run": "trains: test_end_to_end.py, `-m readme`",
    "qwenft publish": "sends a release: publishing/test_round_trips.py",
    ".venv/bin/dagster": "trains: test_end_to_end.py",
}


def text_of(name: str) -> str:
    return (PROJECT_ROOT / name).read_text(encoding="utf-8")


def commands_of(name: str) -> list[str]:
    """What its bash blocks say, line by line, without comments."""
    lines = [line for block in BASH.findall(text_of(name)) for line in block.splitlines()]
    return [shlex.join(words) for line in lines if (words := shlex.split(line, comments=True))]


COMMANDS = commands_of("README.md")
QWENFT = [c.removeprefix(".venv/bin/") for c in COMMANDS if c.startswith(".venv/bin/qwenft ")]
CHEAP = [c for c in QWENFT if GPU not in c and not c.startswith(tuple(NOT_RUN_HERE))]


def read_by_the_program(words: list[str]) -> None:
    """Let the command line read them, down to the last option, and run nothing."""
    command: click.Command = typer.main.get_command(app)
    context = click.Context(command, info_name=words[0])
    rest = words[1:]
    while isinstance(command, click.Group):
        name, below, rest = command.resolve_command(context, rest)
        assert below is not None, name
        command = below
    command.make_context(" ".join(words), rest, parent=context)


@pytest.mark.parametrize("command", QWENFT)
def test_a_command_has_only_options_that_exist(command):
    read_by_the_program(shlex.split(command))


def test_an_option_that_does_not_exist_is_found():
    with pytest.raises(click.UsageError, match="--epochs"):
        read_by_the_program(["qwenft", "run", "--epochs", "3"])


def test_every_command_is_run_here_or_named_with_what_stands_in_its_way():
    others = [c for c in COMMANDS if c.removeprefix(".venv/bin/") not in CHEAP and GPU not in c]
    left = [c for c in others if not c.removeprefix(".venv/bin/").startswith(tuple(NOT_RUN_HERE))
            and not c.startswith(tuple(NOT_RUN_HERE))]  # fmt: skip
    assert left == []
    assert len(CHEAP) >= 4


def test_make_has_every_target_that_is_named():
    makefile = text_of("Makefile")
    for document in DOCUMENTS:
        for target in re.findall(r"(?:^|`)make ([a-z]+)", text_of(document), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{document}: make {target}"


@pytest.mark.parametrize("command", CHEAP)
def test_a_command_that_needs_no_gpu_works_as_printed(command, tmp_path):
    deployment = make_deployment(tmp_path, "unused")
    answer = deployment.run(*shlex.split(command))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert answer.stdout + answer.stderr


def test_both_languages_have_the_same_commands_figures_and_links():
    english, chinese = (text_of(name) for name in LANGUAGES)
    assert commands_of(LANGUAGES[0]) == commands_of(LANGUAGES[1])
    for pattern in (r"^#+ ", r"^\|", r"^!\[", r"^```"):
        found = [len(re.findall(pattern, text, re.MULTILINE)) for text in (english, chinese)]
        assert found[0] == found[1], pattern
    links = [sorted(set(LINK.findall(text)) - set(LANGUAGES)) for text in (english, chinese)]
    assert links[0] == links[1]
    numbers = [sorted(re.findall(r"\d[\d,.]*\d", text)) for text in (english, chinese)]
    assert set(numbers[0]) - set(numbers[1]) <= {"135"}  # million, which Chinese counts in 亿
    assert set(numbers[1]) - set(numbers[0]) <= {"1.35", "11"}  # 亿, and November as a number


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files_and_headings_that_are_there(document):
    for link in LINK.findall(text_of(document)):
        if link.startswith(("http", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (PROJECT_ROOT / document).parent / path if path else PROJECT_ROOT / document
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in slugs, link


@pytest.mark.parametrize("document", [*CURRENT, "benchmarks/RESULTS.md"])
def test_modules_and_packages_that_are_named_exist(document):
    text = text_of(document)
    added_by_the_reader = set(re.findall(r"^# (\S+\.py)$", text, re.MULTILINE))
    for path in set(MODULE.findall(text)) - added_by_the_reader:
        found = [(root / path).exists() if "/" in path else any(root.rglob(path)) for root in ROOTS]
        assert any(found) or (PROJECT_ROOT / path).exists(), path
    for name in set(PACKAGE.findall(text)) - {"published_adapter"}:  # a folder of artifacts
        assert any((root / name).is_dir() for root in (PROJECT_ROOT, *ROOTS)), f"{name}/"


@pytest.mark.parametrize(
    ("said", "where"),
    [
        pytest.param(figure, section, id=figure)
        for figure, section in {
            "15,415": "Training throughput", "1,788": "Training throughput", "6,799": "Training throughput",
            "18,020": "Training throughput", "34,070": "Training on two GPUs", "45,403": "Evaluation",
            "8,797": "Evaluation", "11,248": "Evaluation",
            "144.7": "Answering on one H200", "30.0": "Answering on one H200",
            "100,679": "Scanning Stack Exchange", "78.1": "Mixture: building `large`",
        }.items()
    ],
)  # fmt: skip
def test_a_figure_stands_in_the_results_it_is_linked_to(said, where):
    assert said in text_of("README.md")
    section = text_of("benchmarks/RESULTS.md").split(f"## {where}\n", 1)[1].split("\n## ", 1)[0]
    assert said in section


@pytest.mark.readme
@pytest.mark.timeout(3600)
def test_a_clean_clone_runs_the_commands_one_after_another(tmp_path):
    clone = tmp_path / "qwenft"
    subprocess.run(["git", "clone", "-q", str(PROJECT_ROOT), str(clone)], check=True)
    stays = ("make ui", ".venv/bin/qwenft chat", ".venv/bin/qwenft serve")
    # To hosts and buckets that are not here, and for GPUs.
    away = (" hub ", "github-release", "git-lfs", "code-only", "export", "bitsandbytes", "unsloth")
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("QWENFT_", "DAGSTER_"))
    }
    environment = {**ours, "DAGSTER_HOME": str(clone / "dagster_home")}
    for command in COMMANDS:
        if command in stays or GPU in command or any(word in command for word in away):
            continue
        answer = subprocess.run(
            shlex.split(command),
            cwd=clone,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.returncode == 0, f"{command}\n{answer.stdout}{answer.stderr}"
