"""Whether the processes of an evaluation hold the base together; a job on another machine; the process."""

from contextlib import contextmanager
from pathlib import Path

import pytest

from qwenft_assets.errors import EvaluationError
from qwenft_assets.evaluation import worker
from qwenft_assets.evaluation.models import load_models, must_shard
from qwenft_assets.model.device import GIB
from qwenft_assets.processes.ranks import Ranks
from qwenft_assets_tests.evaluation.trained import ignore_line


class OfTwo(Ranks):
    """The first of two processes, the other of which has the same, and is waited for by nobody."""

    def gather(self, items):
        return [*items, *items]

    @contextmanager
    def main_process_first(self):
        yield


FIRST_OF_TWO = OfTwo(0, 2)


def two_of(trained, device="cpu", **training):
    return trained.job.model_copy(
        update={"device": device, "training": trained.job.training.model_copy(update=training)}
    )


@pytest.mark.parametrize(
    ("asked", "device", "free_gib", "sharded"),
    [
        pytest.param(True, "cpu", 0, True, id="asked-for"),
        pytest.param("auto", "cpu", 0, False, id="on-a-cpu-only-if-asked-for"),
        pytest.param("auto", "cuda", 80, False, id="a-gpu-with-room"),
        pytest.param("auto", "cuda", 1, True, id="a-gpu-without"),
        pytest.param(False, "cuda", 1, False, id="ruled-out"),
    ],
)
def test_the_base_is_held_together_where_it_does_not_fit(
    trained, monkeypatch, asked, device, free_gib, sharded
):
    import torch

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free_gib * GIB, 80 * GIB))
    job = two_of(trained, device, shard_base_weights=asked)
    assert must_shard(job, Path(job.base.path), FIRST_OF_TWO) is sharded
    assert not must_shard(job, Path(job.base.path), Ranks())


def test_benchmarks_and_a_base_held_together_exclude_each_other(trained):
    job = two_of(trained, shard_base_weights=True)
    settings = job.settings.model_copy(update={"benchmarks": ["arc_easy"]})
    with pytest.raises(EvaluationError, match="lm-eval runs in one process, and 2 hold the base"):
        load_models(
            job.model_copy(update={"settings": settings}),
            trained.storage,
            ignore_line,
            FIRST_OF_TWO,
        )


def test_a_job_goes_to_another_machine_with_what_it_reads(trained):
    staged = trained.job.staged(trained.storage)
    assert staged.storage_root == trained.storage.root
    assert staged.base.path == trained.job.base.path
    assert staged.inputs == trained.job.inputs


def test_other_inputs_on_that_machine_are_refused(trained):
    job = trained.job.model_copy(update={"inputs": "another"})
    with pytest.raises(EvaluationError, match="not the same as on the machine that runs the step"):
        job.staged(trained.storage)


def test_the_process_evaluates_as_its_asset_is_told(trained):
    found = worker.work(trained.job, ignore_line)
    for name in ("eval_loss", "base_eval_loss", "adapter_version", "eval_rows"):
        assert found[name] == trained.result[name], name
