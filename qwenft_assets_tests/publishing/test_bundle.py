"""What leaves: an adapter that others can load, its manifest, and nothing of this machine."""

import json
import subprocess

import pytest

from qwenft_assets.errors import PublishingError
from qwenft_assets.publishing.bundle import build_bundle
from qwenft_assets.publishing.manifest import verify_copy
from qwenft_assets.publishing.subject import find_subject
from qwenft_assets.publishing.weights import read_header, round_to_bf16
from qwenft_assets.records import PublishedManifest
from qwenft_assets_tests.made_up_records import put
from qwenft_assets_tests.publishing.conftest import BASE, MIXTURE, PRIVATE_REPORT, VERSION


def dtypes_of(file):
    return {t["dtype"] for name, t in read_header(file).items() if name != "__metadata__"}


def published_text(folder):
    files = [path for path in folder.rglob("*") if path.suffix not in {".safetensors", ".png"}]
    return "\n".join(path.read_text(encoding="utf-8") for path in files if path.is_file())


def test_the_manifest_says_where_everything_came_from(released):
    bundle = build_bundle(released.subject(), "adapter")
    manifest = verify_copy(bundle.folder).manifest
    assert manifest == bundle.manifest
    assert (manifest.version, manifest.mixture_version) == (VERSION, MIXTURE)
    assert (manifest.base_model, manifest.released) == (BASE, True)
    assert manifest.licenses == {
        "adapter": "apache-2.0",
        "rows": {"CC BY-SA 4.0": 2, "MIT": 6, "private": 1},
    }
    assert manifest.metrics.delta_loss_ci95 == (-0.3, -0.1)
    assert manifest.versions["torch"] == "2.13.0+cpu"
    assert manifest.command == "qwenft run --recipe small --config tiny.yaml"
    assert {file.path for file in manifest.files} >= {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "evaluation.json",
        "requirements.txt", "tokenizer.json", "training.json",
    }  # fmt: skip


def test_only_known_files_leave_and_none_names_this_machine(released):
    folder = build_bundle(released.subject(), "adapter").folder
    text = published_text(folder)
    assert not (folder / "notes.txt").exists()
    assert not (folder / "samples.jsonl").exists()
    assert not (folder / "report.md").exists()
    for private in (str(released.base), str(released.storage.root), PRIVATE_REPORT[:40]):
        assert private not in text
    assert "torch==2.13.0\n" in (folder / "requirements.txt").read_text(encoding="utf-8")


def test_the_same_adapter_gives_the_same_bytes(released):
    first = build_bundle(released.subject(), "adapter").manifest
    assert build_bundle(released.subject(), "adapter").manifest == first


def test_a_copy_loads_with_plain_transformers_and_peft_and_answers_as_the_original(
    released, tmp_path
):
    import peft
    import torch
    import transformers

    outcome = released.prepare("folder", where=str(tmp_path / "copies")).publish()
    assert not outcome.unchanged
    config = json.loads((tmp_path / outcome.where / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (BASE, None)
    logits = []
    for folder in (released.adapter, outcome.where):
        base = transformers.AutoModelForCausalLM.from_pretrained(released.base)
        model = peft.PeftModel.from_pretrained(base, folder).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        prompt = tokenizer("What does an LDO do?", return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            logits.append(model(input_ids=prompt).logits)
    assert (logits[0] - logits[1]).abs().max() < 0.02
    again = released.prepare("folder", where=str(tmp_path / "copies")).publish()
    assert again.unchanged


def test_bf16_weights_are_rounded_as_torch_rounds_them(released, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    values = torch.randn(3000) * torch.logspace(-30, 30, 3000)
    ties = torch.tensor([1.00390625, 1.01171875, -1.00390625, 0.0, -0.0])
    save_file({"b": values, "a": ties, "int": torch.arange(5)}, tmp_path / "fp32.safetensors")
    round_to_bf16(tmp_path / "fp32.safetensors", tmp_path / "bf16.safetensors")
    rounded = load_file(tmp_path / "bf16.safetensors")
    assert torch.equal(rounded["b"], values.to(torch.bfloat16))
    assert torch.equal(rounded["a"], ties.to(torch.bfloat16))
    assert torch.equal(rounded["int"], torch.arange(5))
    folder = build_bundle(released.subject(), "adapter").folder
    assert dtypes_of(folder / "adapter_model.safetensors") == {"BF16"}
    assert dtypes_of(released.adapter / "adapter_model.safetensors") == {"F32"}


def test_the_dataset_holds_public_rows_only_with_their_origin(released):
    bundle = build_bundle(released.subject(), "dataset")
    rows = [
        json.loads(line)
        for split in ("train", "eval")
        for line in (bundle.folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert bundle.manifest.rows == {
        "dropped_personal_data": 1, "dropped_private": 1, "eval": 1, "train": 6,
    }  # fmt: skip
    assert {row["license"] for row in rows} == {"MIT", "CC BY-SA 4.0"}
    assert {row["author"] for row in rows if row["source"] == "stackexchange_ai"} == {"Ada"}
    assert all(row["url"].startswith("https://") for row in rows)
    assert "license: cc-by-sa-4.0" in bundle.card


def test_a_base_without_a_public_name_is_refused(released):
    with pytest.raises(PublishingError, match=r"a folder of this machine\. Set publishing\.base_m"):
        released.subject(base_model=None)


def test_a_version_that_was_not_evaluated_is_refused(released):
    (released.storage.evaluation("small", VERSION) / "evaluation.json").unlink()
    with pytest.raises(PublishingError, match="was not evaluated"):
        released.subject()


def test_before_a_release_a_version_must_be_named(released):
    (released.storage.release("small") / "champion.json").unlink()
    with pytest.raises(PublishingError, match=r"nothing was released yet\..*--version"):
        released.subject()
    subject = find_subject(released.config, "small", "latest", released.storage)
    assert (subject.version, subject.released) == (VERSION, False)


def test_the_dataset_of_a_mixture_that_is_gone_is_refused_and_the_adapter_is_not(released):
    manifest = released.storage.mixed_dataset("small") / "manifest.json"
    manifest.write_text('{"version": "another"}', encoding="utf-8")
    with pytest.raises(PublishingError, match="was rebuilt since"):
        build_bundle(released.subject(), "dataset")
    assert "rebuilt since" in build_bundle(released.subject(), "adapter").card


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        pytest.param(lambda f: f.unlink(), "missing", id="missing"),
        pytest.param(lambda f: f.write_bytes(f.read_bytes()[:-1]), "bytes, the man", id="cut"),
        pytest.param(
            lambda f: f.write_bytes(b"\0" + f.read_bytes()[1:]), "sha256 is", id="changed"
        ),
        pytest.param(
            lambda f: f.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid x\n"),
            "Git LFS pointer",
            id="pointer",
        ),
    ],
)
def test_verify_names_the_file_that_differs(released, damage, complaint):
    folder = build_bundle(released.subject(), "adapter").folder
    damage(folder / "adapter_model.safetensors")
    answer = released.run("verify", str(folder))
    assert answer.returncode == 2
    assert complaint in answer.stderr
    assert f"{folder}/adapter_model.safetensors" in answer.stderr


def test_verify_accepts_a_copy_and_names_what_was_added(released):
    folder = build_bundle(released.subject(), "adapter").folder
    (folder / "extra.txt").write_text("x", encoding="utf-8")
    answer = released.run("verify", str(folder))
    assert answer.returncode == 0, answer.stderr
    assert f"adapter {VERSION} ({BASE}" in answer.stdout
    assert "not in the manifest: extra.txt" in answer.stdout


def test_a_manifest_cannot_lead_outside_the_copy(tmp_path):
    entry = {"path": "../secret", "bytes": 1, "sha256": "0"}
    put(tmp_path, PublishedManifest, files=[entry])
    with pytest.raises(PublishingError, match="outside the copy"):
        verify_copy(tmp_path)


def test_code_leaves_without_private_reports_and_uncommitted_files(released, tmp_path):
    from qwenft_assets.publishing.project_code import restore_modes, write_code

    project = tmp_path / "project"
    (project / "data").mkdir(parents=True)
    (project / "data" / "my_dataset.json").write_text("[]", encoding="utf-8")
    (project / "run.sh").write_text("echo\n", encoding="utf-8")
    (project / "run.sh").chmod(0o755)
    git = ("git", "-C", str(project), "-c", "user.name=a", "-c", "user.email=a@example.org")
    for command in (("init", "-q"), ("add", "."), ("commit", "-qm", "first")):
        subprocess.run([*git, *command], check=True)
    (project / "later.txt").write_text("not committed", encoding="utf-8")
    sources = released.config.sources
    own = sources.local_reports.model_copy(update={"path": "data/my_dataset.json"})
    config = released.config.model_copy(
        update={"sources": sources.model_copy(update={"local_reports": own})}
    )
    folder = tmp_path / "copy"
    folder.mkdir()
    commit = write_code(config, folder, project)
    assert len(commit) == 40
    (folder / "run.sh").chmod(0o644)
    restore_modes(folder, project)
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == [
        ".gitattributes", ".gitignore", "requirements.txt", "run.sh",
    ]  # fmt: skip
    assert "/data/my_dataset.json\n" in (folder / ".gitignore").read_text(encoding="utf-8")
    assert "*.safetensors filter=lfs" in (folder / ".gitattributes").read_text(encoding="utf-8")
    assert (folder / "run.sh").stat().st_mode & 0o111
    (project / "model.safetensors").write_bytes(b"w")
    for command in (("add", "."), ("commit", "-qm", "weights")):
        subprocess.run([*git, *command], check=True)
    with pytest.raises(PublishingError, match=r"model\.safetensors: weights are committed"):
        write_code(config, folder, project)
