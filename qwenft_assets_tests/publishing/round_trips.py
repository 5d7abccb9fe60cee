"""Each way out and back, by the real command: a dry run, the publication, and a fresh copy of it.

The Hub and GitHub are servers on loopback, git repositories real bare ones; copies are fetched as
anybody would: `git clone`, the Hub's client, an HTTP client, `cp`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from qwenft_assets_tests.loopback_github import LoopbackGitHub
from qwenft_assets_tests.loopback_hub_writes import LoopbackHub
from qwenft_assets_tests.loopback_server import LoopbackServer, serving

HUB_REPO, GITHUB_REPO = "me/my-adapter", "me/project"
QUESTIONS = (
    "What does a low-dropout regulator do?",
    "Explain overfitting to a new colleague.",
    "How do beta blockers act?",
)
LOAD = """
import json, sys
import peft, torch, transformers
base, questions, *adapters = json.loads(sys.argv[1])
torch.set_num_threads(1)
for adapter in adapters:
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(model, adapter).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(adapter)
    answers = []
    for question in questions:
        turns = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_dict=True, return_tensors="pt")
        tokens = model.generate(**prompt, max_new_tokens=16, do_sample=False)[0]
        answers.append(tokenizer.decode(tokens[prompt["input_ids"].shape[1]:]))
    print(json.dumps(answers))
assert not [name for name in sys.modules if name.startswith("qwenft")]
"""


@dataclass(frozen=True)
class Place:
    """Where copies go in a round trip."""

    to: str
    traces: Callable[[], Any]
    """Whatever a request or a write would change."""
    fetch: Callable[[Path], None]
    """Get a copy as anybody would."""


@dataclass(frozen=True)
class RoundTrip:
    """What became of one target."""

    dry_run: dict[str, Any]
    asked_by_dry_run: bool
    published: dict[str, Any]
    arrived: dict[str, int]
    """Bytes by path in the fresh copy."""
    verified: dict[str, Any]
    again: dict[str, Any]
    copy: Path


@contextmanager
def places(
    folder: Path, environment: dict[str, str], base_model: str, base: Path
) -> Iterator[dict[str, Place]]:
    """A place for every target, below `folder`; `environment` gets what leads the clients there.

    The Hub also has the base model, whose files are in the folder `base`.
    """
    with ExitStack() as stack:
        hub = stack.enter_context(serving(LoopbackHub()))
        hub.add_repo(base_model, base)
        github = stack.enter_context(serving(LoopbackGitHub()))
        environment |= {
            "HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "HF_TOKEN": "hf_loopback",
            "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
            "GITHUB_API_URL": github.url, "GITHUB_TOKEN": "secret-token",
        }  # fmt: skip

        def from_hub(copy: Path) -> None:
            code = "import sys, huggingface_hub as h; h.snapshot_download(sys.argv[1], local_dir=sys.argv[2])"
            run(environment, sys.executable, "-c", code, HUB_REPO, str(copy))

        def from_github(copy: Path) -> None:
            headers = {"Authorization": "Bearer secret-token"}
            latest = httpx.get(f"{github.url}/repos/{GITHUB_REPO}/releases/latest", headers=headers)
            copy.mkdir()
            for asset in latest.raise_for_status().json()["assets"]:
                answer = httpx.get(asset["browser_download_url"], headers=headers)
                (copy / asset["name"]).write_bytes(answer.raise_for_status().content)

        def from_folder(copy: Path) -> None:
            (source,) = (folder / "copies").iterdir()
            shutil.copytree(source, copy)

        yield {
            "code-only": _bare_repository(folder / "code.git", "main"),
            "git-lfs": _bare_repository(folder / "models.git", "adapter"),
            "hub": Place(HUB_REPO, _request_log(hub), from_hub),
            "github-release": Place(GITHUB_REPO, _request_log(github), from_github),
            "folder": Place(str(folder / "copies"), (folder / "copies").exists, from_folder),
        }


def _request_log(server: LoopbackServer) -> Callable[[], Any]:
    return lambda: [str(request) for request in server.requests]


def _bare_repository(bare: Path, branch: str) -> Place:
    run({}, "git", "init", "--quiet", "--bare", str(bare))

    def clone(copy: Path) -> None:
        run({}, "git", "clone", "--quiet", "--branch", branch, bare.as_uri(), str(copy))

    return Place(str(bare), lambda: sorted(map(str, bare.rglob("*"))), clone)


def run(environment: dict[str, str], *command: str) -> str:
    """The standard output of a command that must succeed."""
    answer = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, f"{command}: {answer.stderr}"
    return answer.stdout


def round_trip(
    target: str, place: Place, folder: Path, qwenft: Callable[..., dict[str, Any]]
) -> RoundTrip:
    """Dry run, publication, a fresh copy and its verification, and the same publication again."""
    publish = ("publish", "--target", target, "--to", place.to, "--json")
    before = place.traces()
    planned = qwenft(*publish)
    asked = place.traces() != before
    published = qwenft(*publish, "--no-dry-run")
    copy = folder / f"fresh-{target}"
    place.fetch(copy)
    arrived = {
        path.relative_to(copy).as_posix(): path.stat().st_size
        for path in copy.rglob("*")
        if path.is_file() and not {".git", ".cache"} & set(path.relative_to(copy).parts)
    }
    return RoundTrip(
        dry_run=planned,
        asked_by_dry_run=asked,
        published=published,
        arrived=arrived,
        verified=qwenft("verify", str(copy), "--json"),
        again=qwenft(*publish, "--no-dry-run"),
        copy=copy,
    )


def answers(base: Path, adapters: list[Path]) -> list[list[str]]:
    """Greedy answers by plain transformers and peft, in a process that never imports this project."""
    request = json.dumps([str(base), QUESTIONS, *map(str, adapters)])
    shown = run({"HF_HUB_OFFLINE": "1"}, sys.executable, "-c", LOAD, request)
    return [json.loads(line) for line in shown.splitlines()]


def run_card(card: str, environment: dict[str, str]) -> str:
    """What the lines under `Use` in a model card print, run as they stand."""
    block = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert block
    return run(environment, sys.executable, "-c", block[1])
