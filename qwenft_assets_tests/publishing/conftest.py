"""A released LoRA adapter of a tiny real model, with its mixture and evaluation, in one storage."""

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from qwenft_assets.config import Config, LoraConfig, load_config
from qwenft_assets.publishing.publish import prepare
from qwenft_assets.publishing.subject import find_subject
from qwenft_assets.records import Champion
from qwenft_assets.rows import MIXED_SCHEMA, make_row, rows_to_table
from qwenft_assets.storage.files import write_json, write_parquet
from qwenft_assets.storage.root import Storage
from qwenft_assets_tests.commands import Deployment, make_deployment
from qwenft_assets_tests.made_up_records import put
from qwenft_assets_tests.tiny_model import write_tiny_model

VERSION = "0123456789abcdef"
MIXTURE = "fedcba9876543210"
COMMIT = "1" * 40
BASE = "tiny/base-model"
# Backwards, since this file is part of the code that may be published, and the scan would find it.
_PRIVATE_REPORT_BACKWARDS = (
    "package. wrong the for chosen were capacitors load crystal the because "
    "degrees twenty minus at fails Meridian customer of prototype The"
)
PRIVATE_REPORT = " ".join(_PRIVATE_REPORT_BACKWARDS.split()[::-1])
PUBLISHING = """
publishing:
  base_model: tiny/base-model
  hub_repo: me/tiny-lora
  hub_dataset_repo: me/tiny-mixture
  github_repo: me/project
"""
FIGURES = {
    "eval_loss": 2.0, "perplexity": 7.389, "base_eval_loss": 2.2, "base_perplexity": 9.025,
    "delta_loss": -0.2, "delta_loss_ci95": [-0.3, -0.1], "eval_tokens": 400, "eval_rows": 4,
    "truncated_rows": 0,
}  # fmt: skip


def mixed_rows():
    """Three sources, one of them private, and an e-mail address in a public row."""

    def row(source, upstream_id, instruction, output, license_, **provenance):
        return make_row(
            source=source,
            upstream_id=upstream_id,
            instruction=instruction,
            output=output,
            license=license_,
            **{"revision": COMMIT, "admitted_by": "all", **provenance},
        )

    def answer(number, text, author):
        url = f"https://ai.stackexchange.com/q/{number}"
        source, license_ = "stackexchange_ai", "CC BY-SA 4.0"
        return row(source, number, "What is it?", text, license_, url=url, author=author)

    abstracts = [
        row(
            "pubmedqa", str(n), f"Question {n}?", f"Yes, in {n} of nine trials.", "MIT",
            input="A short abstract.", url=f"https://pubmed.ncbi.nlm.nih.gov/{n}",
        )
        for n in range(6)
    ]  # fmt: skip
    return [
        row(
            "local_reports", "1", "Why does it fail?", PRIVATE_REPORT, "private", revision="f" * 64
        ),
        *abstracts,
        answer("7", "Write to jane.doe@university.edu about it.", "Jane"),
        answer("8", "The direction of steepest ascent.", "Ada"),
    ]


def write_mixture(storage):
    rows = mixed_rows()
    table = rows_to_table(rows)
    sides = ["eval" if n % 4 == 3 else "train" for n in range(len(rows))]
    columns = [*table.columns, pa.array(sides), pa.array([0] * len(rows), pa.int32())]
    folder = storage.mixed_dataset("small")
    write_parquet(folder / "rows.parquet", pa.table(columns, schema=MIXED_SCHEMA))
    write_json(folder / "manifest.json", {"version": MIXTURE})


def write_adapter(storage, base):
    """A LoRA adapter whose B is not zero, so that it changes what the model says."""
    import torch

    from qwenft_assets.model.engines.peft import add_lora, load_base, load_tokenizer

    torch.manual_seed(1)
    model = add_lora(load_base(base, "fp32", "cpu"), LoraConfig(rank=4, alpha=8))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    folder = storage.adapter("small", VERSION)
    model.save_pretrained(folder)
    load_tokenizer(base).save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    (folder / "notes.txt").write_text("left by somebody, /home/anna/secret", encoding="utf-8")
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = str(base)
    write_json(folder / "adapter_config.json", config)


def write_records(storage, config, base):
    settings = config.training.model_copy(update={"lora": LoraConfig(rank=4, alpha=8)})
    record = {
        "version": VERSION, "recipe": "small", "mixture_version": MIXTURE, "base_model": str(base),
        "base_revision": "files-sha256:abc", "base_path": str(base), "engine": "peft",
        "device": "cpu", "settings": settings.model_dump(mode="json"), "steps": 20,
        "versions": {"torch": "2.13.0+cpu", "peft": "0.21.2"},
    }  # fmt: skip
    write_json(storage.adapter("small", VERSION) / "training.json", record)
    write_json(storage.adapters("small") / "latest.json", {"version": VERSION})
    per_source = dict.fromkeys(("local_reports", "pubmedqa", "stackexchange_ai"), FIGURES)
    evaluation = {
        **FIGURES, "per_source": per_source, "adapter_version": VERSION, "base_model": str(base),
        "base_revision": "files-sha256:abc", "base_path": str(base), "mixture_version": MIXTURE,
        "inputs": "i",
    }  # fmt: skip
    folder = storage.evaluation("small", VERSION)
    write_json(folder / "evaluation.json", evaluation)
    (folder / "report.md").write_text(PRIVATE_REPORT, encoding="utf-8")
    (folder / "samples.jsonl").write_text(json.dumps({"a": PRIVATE_REPORT}), encoding="utf-8")
    put(storage.release("small"), Champion, version=VERSION)


@dataclass(frozen=True)
class Released:
    """A deployment with a champion."""

    deployment: Deployment
    base: Path
    config: Config
    storage: Storage

    @property
    def adapter(self) -> Path:
        return self.storage.adapter("small", VERSION)

    def subject(self, **publishing):
        changed = self.config.publishing.model_copy(update=publishing)
        config = self.config.model_copy(update={"publishing": changed})
        return find_subject(config, "small", None, self.storage)

    def prepare(self, target, **options):
        return prepare(self.config, "small", target, self.storage, **options)

    def run(self, *command, **environment):
        return self.deployment.run("qwenft", *command, more_environment=environment)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("publishing") / "tiny-qwen2"
    write_tiny_model(folder)
    return folder


@pytest.fixture
def released(tmp_path, tiny_base, monkeypatch):
    deployment = make_deployment(tmp_path / "deployment", tiny_base)
    text = deployment.config.read_text(encoding="utf-8")
    text = text.replace("sources:\n", "sources:\n  origin: hub\n", 1)
    deployment.config.write_text(text + PUBLISHING, encoding="utf-8")
    monkeypatch.setenv("QWENFT_CONFIG", str(deployment.config))
    monkeypatch.setenv("QWENFT_STORAGE", str(deployment.storage))
    config = load_config()
    storage = Storage(deployment.storage)
    write_mixture(storage)
    write_adapter(storage, tiny_base)
    write_records(storage, config, tiny_base)
    return Released(deployment, tiny_base, config, storage)
