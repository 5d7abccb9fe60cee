"""Rows of known length and content, as mixed rows and as token rows; and a run to train them in."""

import random
from pathlib import Path
from typing import Any

from qwenft_assets.config import TrainingConfig
from qwenft_assets.mixture.build import MixedRow
from qwenft_assets.model.base import BaseModelRef
from qwenft_assets.model.tokens import TokenRow
from qwenft_assets.rows import make_row
from qwenft_assets.training.job import TrainingJob
from qwenft_assets.training.run import TrainingRun

FIRST_ORDINARY_ID = 3
"""The ids below are the control tokens of tiny_model's tokenizer."""


def mixed_row(
    instruction: str,
    output: str,
    input: str = "",  # noqa: A002
    system: str | None = None,
    split: str = "train",
) -> MixedRow:
    row = make_row(
        source="local_reports",
        upstream_id=f"{instruction}\0{output}",
        instruction=instruction,
        input=input,
        output=output,
        system=system,
        license="MIT",
        revision="abc",
        admitted_by="all",
    )
    return MixedRow(row, split, 0)


def token_row(number: int, length: int, answer_start: int | None = None, split: str = "train"):
    """Random ids, the same for the same arguments; the answer is the second half unless told."""
    draw = random.Random(f"{number}:{length}")
    return TokenRow(
        row_id=f"row-{number}",
        source="local_reports",
        split=split,
        input_ids=[draw.randrange(FIRST_ORDINARY_ID, 600) for _ in range(length)],
        answer_start=length // 2 if answer_start is None else answer_start,
        truncated=False,
    )


def token_rows(*lengths: int, split: str = "train") -> list[TokenRow]:
    return [token_row(number, length, split=split) for number, length in enumerate(lengths)]


def training_run(
    settings: TrainingConfig, root: Path, *, device: str = "cpu", version: str = "v", **reports: Any
) -> TrainingRun:
    """A run without a mixture; its checkpoints are in `root`."""
    job = TrainingJob(
        recipe="small",
        version=version,
        mixture_version="",
        base=BaseModelRef(name="base", revision="", kind="folder", path=""),
        settings=settings,
        device=device,
        engine=settings.engine_name,
        storage_root=root,
    )
    return TrainingRun(job, **reports)


def expected_order(rows: int, epochs: int, seed: int, step_rows: int) -> list[list[int]]:
    """The plan: in each epoch a permutation of all rows by its seed, in steps of `step_rows`."""
    import torch

    steps = []
    for epoch in range(epochs):
        draw = torch.Generator().manual_seed(seed + epoch)
        order = torch.randperm(rows, generator=draw).tolist()
        steps += [order[start : start + step_rows] for start in range(0, rows, step_rows)]
    return steps
