"""GitHub releases over REST on loopback: whole, or a draft that nobody sees."""

import pytest

from qwenft_assets.errors import PublishingError
from qwenft_assets.publishing.manifest import verify_copy
from qwenft_assets_tests.loopback_github import LoopbackGitHub
from qwenft_assets_tests.loopback_server import Fault, serving
from qwenft_assets_tests.publishing.conftest import VERSION

TAG = f"adapter-small-{VERSION}"


@pytest.fixture
def github(monkeypatch):
    with serving(LoopbackGitHub()) as running:
        monkeypatch.setenv("GITHUB_API_URL", running.url)
        monkeypatch.setenv("GITHUB_TOKEN", "secret-token")
        yield running


def verify_latest(github, folder):
    folder.mkdir()
    for name, content in github.published_files().items():
        (folder / name).write_bytes(content)
    return verify_copy(folder)


def test_preparing_asks_nobody(released, github):
    plan = released.prepare("github-release").as_json()
    assert plan["where"] == f"release {TAG} of me/project on GitHub"
    assert {file["as"] for file in plan["files"]} == {"asset"}
    assert github.requests == []


def test_a_draft_is_filled_and_then_becomes_the_latest(released, github, tmp_path):
    publication = released.prepare("github-release")
    outcome = publication.publish()
    assert (outcome.unchanged, outcome.where) == (False, f"{github.url}/releases/{TAG}")
    (release,) = github.releases
    assert (release["draft"], github.latest) == (False, release["id"])
    assert release["body"].startswith("# tiny-lora")
    assert verify_latest(github, tmp_path / "copy").unlisted == ()
    lines = [str(request) for request in github.requests if request.method != "GET"]
    assert lines[0].startswith("POST /repos/me/project/releases")
    assert lines[-1].startswith("PATCH /repos/me/project/releases/")
    assert publication.publish().unchanged
    assert len(github.releases) == 1


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault("POST /repos/.*/releases", 502), id="create-fails"),
        pytest.param(Fault("POST /repos/.*/releases", "lost"), id="answer-to-create-is-lost"),
        pytest.param(Fault("POST /uploads/.*safetensors", "cut"), id="upload-is-cut"),
        pytest.param(Fault("POST /uploads/.*README", "lost"), id="answer-to-upload-is-lost"),
        pytest.param(Fault("PATCH /repos/", 503), id="publishing-fails"),
    ],
)
def test_a_passing_fault_is_got_over_without_duplicates(released, github, tmp_path, fault):
    github.faults.append(fault)
    publication = released.prepare("github-release")
    publication.publish()
    assert fault.times == 0
    assert len(github.releases) == 1
    assert sorted(github.published_files()) == sorted(publication.bundle.files)
    verify_latest(github, tmp_path / "copy")


def test_half_a_release_stays_a_draft_and_the_next_run_completes_it(released, github, tmp_path):
    github.faults.append(Fault("POST /uploads/.*requirements", 500, times=99))
    publication = released.prepare("github-release")
    with pytest.raises(PublishingError, match="failed after 5 attempts") as failure:
        publication.publish()
    assert "secret-token" not in str(failure.value)
    assert (github.releases[0]["draft"], github.latest) == (True, None)
    github.faults.clear()
    before = len(github.sent("POST /uploads/"))
    publication.publish()
    sent = {request.query["name"] for request in github.sent("POST /uploads/")[before:]}
    assert "requirements.txt" in sent
    assert "README.md" not in sent
    assert len(github.releases) == 1
    verify_latest(github, tmp_path / "copy")


def test_a_published_release_with_other_files_is_not_touched(released, github):
    released.prepare("github-release").publish()
    asset = github.releases[0]["assets"][0]
    asset["digest"] = "sha256:other"
    with pytest.raises(PublishingError, match=f"is there with another {asset['name']}"):
        released.prepare("github-release").publish()


def test_without_a_token_or_with_a_wrong_one_one_line_says_so(released, github, monkeypatch):
    publication = released.prepare("github-release")
    monkeypatch.setenv("GITHUB_TOKEN", "wrong-one")
    with pytest.raises(PublishingError, match="401 Unauthorized") as failure:
        publication.publish()
    assert "wrong-one" not in str(failure.value)
    monkeypatch.delenv("GITHUB_TOKEN")
    with pytest.raises(PublishingError, match="GITHUB_TOKEN is not set"):
        publication.publish()
