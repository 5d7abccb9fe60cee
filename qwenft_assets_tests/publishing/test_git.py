"""A real bare repository, real git and real git-lfs."""

import shutil
import subprocess

import pytest

from qwenft_assets.errors import PublishingError
from qwenft_assets.progress import no_progress
from qwenft_assets.publishing.manifest import verify_copy
from qwenft_assets.publishing.targets import git as git_target
from qwenft_assets_tests.publishing.conftest import BASE

needs_lfs = pytest.mark.skipif(shutil.which("git-lfs") is None, reason="git-lfs is not installed")


def git(*arguments):
    return subprocess.run(
        ["git", "-c", "protocol.file.allow=always", *arguments],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip


@pytest.fixture
def bare(tmp_path):
    git("init", "--quiet", "--bare", str(tmp_path / "models.git"))
    return tmp_path / "models.git"


@needs_lfs
def test_a_clone_holds_the_copy_with_weights_from_lfs(released, bare, tmp_path):
    publication = released.prepare("git-lfs", where=str(bare))
    planned = publication.as_json()["files"]
    ways = {file["path"]: file["as"] for file in planned}
    assert ways["adapter_model.safetensors"] == ways["tokenizer.json"] == "git lfs"
    assert ways["README.md"] == "git"
    assert not publication.publish().unchanged
    pointer = git("-C", str(bare), "show", "adapter:adapter_model.safetensors")
    assert pointer.startswith("version https://git-lfs.github.com/spec/v1")
    git("clone", "--quiet", "--branch", "adapter", bare.as_uri(), str(tmp_path / "clone"))
    git("-C", str(tmp_path / "clone"), "lfs", "pull")
    arrived = git("-C", str(tmp_path / "clone"), "ls-files").splitlines()
    sizes = {path: (tmp_path / "clone" / path).stat().st_size for path in arrived}
    assert sizes == {file["path"]: file["bytes"] for file in planned}
    assert verify_copy(tmp_path / "clone").manifest.base_model == BASE
    assert "*.safetensors filter=lfs" in (tmp_path / "clone" / ".gitattributes").read_text()

    import peft
    import transformers

    base = transformers.AutoModelForCausalLM.from_pretrained(released.base)
    assert peft.PeftModel.from_pretrained(base, tmp_path / "clone").active_adapter == "default"
    again = released.prepare("git-lfs", where=str(bare)).publish()
    assert again.unchanged
    assert git("-C", str(bare), "rev-list", "--count", "adapter") == "1"


@needs_lfs
def test_after_a_refused_push_the_next_run_completes_it(released, bare):
    hook = bare / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    hook.chmod(0o755)
    publication = released.prepare("git-lfs", where=str(bare))
    with pytest.raises(PublishingError, match="git push failed"):
        publication.publish()
    assert git("-C", str(bare), "branch", "--list") == ""
    hook.unlink()
    publication.publish()
    assert git("-C", str(bare), "rev-list", "--count", "adapter") == "1"


def test_a_branch_that_holds_something_else_is_left_alone(released, bare, tmp_path):
    work = tmp_path / "work"
    git("init", "--quiet", "--initial-branch=adapter", str(work))
    (work / "thesis.txt").write_text("x", encoding="utf-8")
    git("-C", str(work), "add", ".")
    author = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    git("-C", str(work), *author, "commit", "--quiet", "-m", "mine")
    git("-C", str(work), "push", "--quiet", str(bare), "adapter")
    bundle = released.prepare("folder", where=str(tmp_path / "x")).bundle
    target = git_target.GitTarget(bare.as_uri(), "adapter", use_lfs=False)
    with pytest.raises(PublishingError, match="holds something else"):
        target.publish(bundle, no_progress)
    assert git("-C", str(bare), "show", "adapter:thesis.txt") == "x"


def test_a_large_file_outside_lfs_is_refused(released, bare, tmp_path, monkeypatch):
    monkeypatch.setattr(git_target, "MAX_PLAIN_BYTES", 10_000)
    bundle = released.prepare("folder", where=str(tmp_path / "x")).bundle
    target = git_target.GitTarget(bare.as_uri(), "adapter", use_lfs=False)
    with pytest.raises(PublishingError, match="and not in Git LFS"):
        target.publish(bundle, no_progress)
    assert git("-C", str(bare), "branch", "--list") == ""


def test_errors_of_git_name_no_token(released, tmp_path):
    bundle = released.prepare("folder", where=str(tmp_path / "x")).bundle
    address = "http://user:very-secret@127.0.0.1:9/none.git"
    target = git_target.GitTarget(address, "adapter", use_lfs=False)
    assert "very-secret" not in target.describe(bundle)
    with pytest.raises(PublishingError, match="git ls-remote failed") as failure:
        target.publish(bundle, no_progress)
    assert "very-secret" not in str(failure.value)
