"""Completion in a real bash: commands, options, and the names that may stand there."""

import os
import shlex
import shutil
import subprocess

import pytest

from qwenft_assets_tests.commands import BIN

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")


def completed(*words: str) -> set[str]:
    """What bash offers for the last of the words, once it has read the script of completion."""
    script = f"""
eval "$(_QWENFT_COMPLETE=source_bash qwenft)"
COMP_WORDS=({" ".join(shlex.quote(word) for word in words)})
COMP_CWORD={len(words) - 1}
_qwenft_completion qwenft
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    answer = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(answer.stdout.split())


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        pytest.param(("qwenft", "re"), {"releases"}, id="command"),
        pytest.param(("qwenft", "releases", "ro"), {"rollback"}, id="command-below"),
        pytest.param(("qwenft", "sample", "stackexchange_i"), {"stackexchange_ic"}, id="source"),
        pytest.param(("qwenft", "run", "--recipe", ""), {"small", "large"}, id="recipe"),
        pytest.param(("qwenft", "run", "--con"), {"--config"}, id="option"),
        pytest.param(
            ("qwenft", "publish", "--target", "git"), {"git-lfs", "github-release"}, id="choice"
        ),
    ],
)
def test_tab_offers_what_may_stand_there(words, offered):
    assert completed(*words) == offered
