"""A whole run with its root on S3, a tenth of the requests failing: the same bytes as below a folder.

Two machines: one runs, the other, with an empty stage, reads what that left.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from s3fs import S3FileSystem

from qwenft_assets.storage.integrity import check_artifacts
from qwenft_assets.storage.root import ALL, Storage
from qwenft_assets_tests.commands import Deployment, make_deployment
from qwenft_assets_tests.faults.random_kills import content_of
from qwenft_assets_tests.loopback_s3 import BUCKET, serving_s3

FAILING = 0.1
SOURCES = ("local_reports", "slimorca", "pubmedqa")
KINDS = (*(f"source_sample/{name}" for name in SOURCES), "mixed_dataset/small", "lora_adapter/small",
         "evaluation/small")  # fmt: skip


@pytest.fixture(scope="module")
def s3():
    with serving_s3(FAILING) as server:
        yield server


@pytest.fixture(scope="module")
def on_s3(tmp_path_factory, base_model, s3):
    """A deployment after `qwenft run`, and the same on another machine that has run nothing."""
    url = f"s3://{BUCKET}/tiny"
    S3FileSystem.clear_instance_cache()
    more = {"QWENFT_STORAGE": url, **s3.environment()}
    here, there = (OnS3(tmp_path_factory.mktemp(name), more) for name in ("here", "there"))
    for one in (here, there):
        make_deployment(one.folder, base_model)
    answer = here.run("qwenft", "run", "--recipe", "small")
    assert answer.returncode == 0, answer.stderr
    return here, there


@dataclass(frozen=True)
class OnS3(Deployment):
    """A deployment whose storage root is remote; `storage` is its stage."""

    more: Mapping[str, str]

    def environment(self):
        stage = {"QWENFT_STAGE": str(self.storage)}
        return {**super().environment(), **stage, **self.more}


def files_below(root, kind):
    found = (path for path in sorted((root / kind).rglob("*")) if path.is_file())
    return {
        str(path.relative_to(root)): content_of(path)
        for path in found
        if not any(part.startswith(".") for part in path.relative_to(root).parts)
    }


def test_the_bytes_are_those_of_a_local_root(rebuilt, on_s3, s3):
    here, _ = on_s3
    for kind in KINDS:
        expected = files_below(rebuilt.storage, kind)
        assert expected, kind
        assert files_below(here.storage, kind) == expected
    assert sum(s3.faults.values()) > 10, "too few requests failed to prove anything"


def test_another_machine_fetches_whole_artifacts(on_s3, monkeypatch):
    here, there = on_s3
    for name, value in there.more.items():
        monkeypatch.setenv(name, value)
    storage = Storage(there.storage, there.more["QWENFT_STORAGE"])
    storage.fetch(storage.root / ALL)
    checked = list(check_artifacts(storage))
    assert len(checked) == 6
    assert {found.problem for found in checked} == {None}
    for kind in KINDS:
        assert files_below(there.storage, kind) == files_below(here.storage, kind)


def test_another_machine_publishes_and_answers_the_same(rebuilt, on_s3):
    _, there = on_s3
    verified = []
    for deployment in (rebuilt, there):
        target = deployment.folder / "copies"
        name = {"QWENFT_CONFIG": str(with_public_name(deployment))}
        sent = deployment.run(
            "qwenft", "publish", "--target", "folder", "--to", str(target), "--no-dry-run", "--json",
            more_environment=name,
        )  # fmt: skip
        assert sent.returncode == 0, sent.stderr
        copy = json.loads(sent.stdout)["published"].removeprefix("folder ")
        verified.append(json.loads(deployment.run("qwenft", "verify", copy, "--json").stdout))
        shutil.rmtree(target)
    hashes = [
        {entry["path"]: entry["sha256"] for entry in one["manifest"]["files"]} for one in verified
    ]
    assert verified[0]["verified_files"] == verified[1]["verified_files"] > 0
    assert hashes[0]["adapter_model.safetensors"] == hashes[1]["adapter_model.safetensors"]
    asked = ("qwenft", "infer", "What does a low-dropout regulator do?", "--temperature", "0")
    answers = [deployment.run(*asked).stdout for deployment in (rebuilt, there)]
    assert answers[0] == answers[1] != ""


def test_a_rerun_elsewhere_does_nothing_again(on_s3):
    _, there = on_s3
    answer = there.run("qwenft", "run", "--recipe", "small", "--json")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["unchanged"] == [
        "mixed_dataset", "lora_adapter", "evaluation", "release",
    ]  # fmt: skip


def with_public_name(deployment):
    """The deployment's config with a base model that can be named to others."""
    config = deployment.folder / "named.yaml"
    text = deployment.config.read_text(encoding="utf-8")
    config.write_text(
        f"name: tiny\n{text}\npublishing: {{base_model: Example/Tiny, base_revision: main}}\n",
        encoding="utf-8",
    )
    return config
