"""Our loss against lm-eval's: another implementation, on the same text and tokens."""

import importlib.util
from typing import Any

import pytest

from qwenft_assets.evaluation.losses import losses_by_model
from qwenft_assets.evaluation.models import ADAPTER, BASE, using_adapter_of
from qwenft_assets.inference.load import load_model
from qwenft_assets.mixture.build import read_mixture
from qwenft_assets.model.tokens import tokenize_rows

needs_lm_eval = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed (extra `bench`)"
)


@pytest.fixture(scope="module")
def loaded(trained):
    job = trained.job
    return load_model(trained.storage, "small", job.adapter_version, job.base, job.training, "cpu")


@pytest.fixture(scope="module")
def held_out(trained, loaded):
    """Held-out rows that no limit has cut."""
    mixed = [item for item in read_mixture(trained.storage, "small") if item.split == "eval"]
    whole = trained.job.training.model_copy(update={"max_length_tokens": 1024})
    tokens = tokenize_rows(mixed, loaded.tokenizer.backend_tokenizer, whole)
    rows = [row for row in tokens if not row.truncated]
    assert len(rows) >= 4
    return rows


@needs_lm_eval
@pytest.mark.filterwarnings("ignore")
def test_answers_have_the_log_likelihood_that_lm_eval_gives_them(loaded, held_out):
    lm_eval: Any = pytest.importorskip("lm_eval.models.huggingface")
    model = lm_eval.HFLM(
        pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=2, add_bos_token=False
    )
    # As tokens: from text, lm-eval would count the newline before the answer as part of it.
    requests = [
        (("", ""), row.input_ids[: row.answer_start], row.input_ids[row.answer_start :])
        for row in held_out
    ]
    for who in (BASE, ADAPTER):
        ours = losses_by_model(loaded.model, held_out, 512, (who,))[who]
        with using_adapter_of(loaded.model, who):
            theirs = model._loglikelihood_tokens(requests, disable_tqdm=True)
        for loss, (log_likelihood, _) in zip(ours, theirs, strict=True):
            assert loss.answer.nll == pytest.approx(-log_likelihood, rel=1e-4)
        assert sum(loss.answer.nll for loss in ours) > 100


def test_whole_texts_have_the_loss_of_all_logits_at_once(loaded, held_out):
    import torch

    for who in (BASE, ADAPTER):
        ours = losses_by_model(loaded.model, held_out, 512, (who,))[who]
        for row, loss in zip(held_out, ours, strict=True):
            ids = torch.tensor([row.input_ids])
            with using_adapter_of(loaded.model, who), torch.inference_mode():
                logits = loaded.model(input_ids=ids).logits[0].float()
            chosen = logits.log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[:, 0]
            assert loss.full.nll == pytest.approx(-float(chosen.double().sum()), rel=1e-5)
            assert loss.full.tokens == len(row.input_ids) - 1
            start = row.answer_start - 1
            assert loss.answer.nll == pytest.approx(-float(chosen[start:].double().sum()), rel=1e-5)
