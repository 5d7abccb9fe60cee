"""Tokens per second of the evaluation against `Trainer.evaluate` at the original's 2 rows a batch.

    python benchmarks/evaluation_throughput.py --model FOLDER --rows 2000 --device cuda \
        [--reference-rows 200] [--pubmedqa FILE.parquet] [--originals unsloth trl]

FOLDER holds a model as safetensors, and its tokenizer; random weights cost what real ones do. Without
--model a tiny random model is written, which shows that the script runs and nothing about speed. Rows
begin with the fixed system prompt, as a mixture's do, and go on with random tokens; --pubmedqa takes
real ones. All sides read the same rows, once as the base and once with the adapter: transformers'
Trainer and this project in one process, which also reads random rows that begin differently, then each
of the originals, the trainer that scripts call `evaluate` of, in a process of its own. Prints one JSON
line each.
"""

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

PROJECT_ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT_ROOT), str(PROJECT_ROOT / "benchmarks")]
if sys.argv[-2:] == ["--child", "unsloth"]:
    import unsloth  # noqa: F401  (first, so that its patches apply)

import original_recipe  # noqa: E402
import torch  # noqa: E402, TID253
from evaluation_rows import make_rows, random_rows  # noqa: E402
from transformers import PrinterCallback, Trainer, TrainingArguments  # noqa: E402, TID253

from qwenft_assets.config import EvaluationConfig, LoraConfig  # noqa: E402
from qwenft_assets.evaluation.losses import losses_by_model  # noqa: E402
from qwenft_assets.evaluation.models import ADAPTER, BASE, using_adapter_of  # noqa: E402
from qwenft_assets.model.batches import common_start  # noqa: E402
from qwenft_assets.model.engines.peft import add_lora, load_base, load_tokenizer  # noqa: E402
from qwenft_assets.model.tokens import TokenRow  # noqa: E402

WHO = (BASE, ADAPTER)
ORIGINALS = ("unsloth", "trl")
REFERENCE_BATCH_ROWS = 2
WARM_UP_ROWS = 64


class Side(NamedTuple):
    """What is measured."""

    evaluate: Callable[[list[TokenRow]], float]
    """Rows under both models; the adapter's loss."""
    rows: list[TokenRow]


def padded(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """A batch as the usual collator makes it: padded to its longest row, padding not counted."""
    longest = max(len(row["input_ids"]) for row in rows)

    def fill(row: dict[str, list[int]], value: int) -> list[int]:
        return row["input_ids"] + [value] * (longest - len(row["input_ids"]))

    return {
        "input_ids": torch.tensor([fill(row, 0) for row in rows]),
        "attention_mask": torch.tensor(
            [[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows]
        ),
        "labels": torch.tensor([fill(row, -100) for row in rows]),
    }


def trainer_evaluate(model: Any, rows: list[TokenRow], *, on_gpu: bool, folder: str) -> float:
    """The stock trainer's evaluation with and without the adapter; the adapter's eval_loss."""
    arguments = TrainingArguments(
        output_dir=folder,
        per_device_eval_batch_size=REFERENCE_BATCH_ROWS,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    data: Any = [{"input_ids": row.input_ids} for row in rows]
    trainer = Trainer(model=model, args=arguments, data_collator=padded, eval_dataset=data)
    trainer.remove_callback(PrinterCallback)
    losses = []
    for who in WHO:
        with using_adapter_of(model, who):
            losses.append(trainer.evaluate()["eval_loss"])
    return losses[-1]


def original(engine: str, model_folder: Path, rows: list[TokenRow], rounds: int) -> dict[str, Any]:
    """The trainer of the original recipe, made as scripts make it, by TRL or as Unsloth patches it."""
    load = argparse.Namespace(engine=engine, model=str(model_folder), max_length=2048)
    model, extra = original_recipe.load(load, torch)
    side = Side(sft_evaluate(model, model_folder, rows, **extra), rows)
    return measure([side], rounds, on_gpu=True)[0]


def sft_evaluate(
    model: Any, tokenizer: Path, rows: list[TokenRow], trainer_class: Any = None, **extra: Any
) -> Callable[[list[TokenRow]], float]:
    """What evaluates rows by TRL's trainer at the original's settings."""
    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    def dataset(some: list[TokenRow]) -> Dataset:
        return Dataset.from_dict({"input_ids": [row.input_ids for row in some]})

    on_gpu = torch.cuda.is_available()
    trainer = (trainer_class or SFTTrainer)(
        model=model,
        processing_class=load_tokenizer(tokenizer),
        train_dataset=dataset(rows[:8]),
        args=SFTConfig(
            output_dir=tempfile.mkdtemp(),
            max_length=2048,
            per_device_train_batch_size=REFERENCE_BATCH_ROWS,
            per_device_eval_batch_size=REFERENCE_BATCH_ROWS,
            eval_accumulation_steps=original_recipe.ACCUMULATION,
            bf16=on_gpu,
            use_cpu=not on_gpu,
            report_to="none",
            disable_tqdm=True,
        ),
        **extra,
    )
    trainer.remove_callback(PrinterCallback)

    def evaluate(some: list[TokenRow]) -> float:
        losses = []
        for who in WHO:
            with using_adapter_of(trainer.model, who):
                losses.append(trainer.evaluate(dataset(some))["eval_loss"])
        return losses[-1]

    return evaluate


def ours(model: Any, rows: list[TokenRow], batch_tokens: int) -> float:
    """This project's evaluation of the same; the adapter's loss per token."""
    losses = losses_by_model(model, rows, batch_tokens, WHO)[ADAPTER]
    return sum(loss.full.nll for loss in losses) / sum(loss.full.tokens for loss in losses)


def difference_from_the_own_forward(model: Any, rows: list[TokenRow], batch_tokens: int) -> float:
    """Relative difference of summed losses from those of the model's own padded forward."""
    flat, own = (
        losses_by_model(model, rows, batch_tokens, WHO, flat=flat) for flat in (True, False)
    )
    sums = [[sum(loss.full.nll for loss in found[name]) for found in (flat, own)] for name in WHO]
    return max(abs(found / expected - 1) for found, expected in sums)


def measure(sides: Sequence[Side], rounds: int, *, on_gpu: bool) -> list[dict[str, Any]]:
    """Warm up, run all sides one after the other, round after round; of each the median round.

    Tokens by the second are those of both models together.
    """
    for side in sides:
        side.evaluate(side.rows[:WARM_UP_ROWS])
    found = [[measured(side, on_gpu=on_gpu) for side in sides] for _ in range(rounds)]
    figures: list[dict[str, Any]] = []
    for of_side in zip(*found, strict=True):
        speeds = [run["tokens_per_second"] for run in of_side]
        median = sorted(of_side, key=lambda run: run["tokens_per_second"])[rounds // 2]
        figures.append({**median, "of_each_round": speeds})
    return figures


def measured(side: Side, *, on_gpu: bool) -> dict[str, Any]:
    """One run: tokens by the second, and peak memory."""
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    started = time.monotonic()
    loss = side.evaluate(side.rows)
    seconds = time.monotonic() - started
    tokens = len(WHO) * sum(len(row.input_ids) for row in side.rows)
    gib = 2**30
    peaks = (torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()) if on_gpu else ()
    return {
        "rows": len(side.rows),
        "tokens_per_second": round(tokens / seconds, 1),
        "seconds": round(seconds, 1),
        "adapter_loss": round(loss, 4),
        "peak_vram_allocated_and_reserved_gib": [round(peak / gib, 2) for peak in peaks],
    }


def main() -> None:
    """Measure all sides, print a JSON line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="Folder with config.json and safetensors.")
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--reference-rows", type=int, help="Rows of the slow sides; else all.")
    parser.add_argument("--rounds", type=int, default=3, help="Of all sides; the median counts.")
    parser.add_argument("--mean-length", type=int, default=400, help="Tokens of a row.")
    parser.add_argument("--pubmedqa", type=Path, help="Parquet file of PubMedQA; real rows.")
    parser.add_argument(
        "--batch-tokens", type=int, default=EvaluationConfig().batch_tokens, help="Of our side."
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--weights", choices=("nf4", "bf16", "fp32"))
    parser.add_argument("--originals", nargs="*", choices=ORIGINALS, default=())
    parser.add_argument("--child", choices=ORIGINALS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.model is None:
            from qwenft_assets_tests.tiny_model import write_tiny_model

            options.model = Path(folder) / "tiny"
            write_tiny_model(options.model)
        rows = make_rows(options.model, options.rows, options.mean_length, options.pubmedqa)
        if options.child:
            some = rows[: options.reference_rows]
            print(json.dumps(original(options.child, options.model, some, options.rounds)))
            return
        figures = side_by_side(options, rows, folder)
    print(json.dumps(figures), flush=True)
    gc.collect()
    torch.cuda.empty_cache()
    for engine in options.originals:
        command = [sys.executable, __file__, *sys.argv[1:], "--child", engine]
        answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        lines = [line for line in answer.stdout.splitlines() if line.startswith("{")]
        found = json.loads(lines[-1]) if lines else {"failed": answer.returncode}
        if lines:
            times = figures["qwenft"]["tokens_per_second"] / found["tokens_per_second"]
            found["qwenft_times_faster"] = round(times, 2)
        print(json.dumps({"what": f"original-{engine}", **found}), flush=True)


def side_by_side(options: argparse.Namespace, rows: list[TokenRow], folder: str) -> dict[str, Any]:
    """Transformers' trainer and this project, with one model in this process."""
    on_gpu = options.device == "cuda"
    weights = options.weights or ("nf4" if on_gpu else "fp32")
    model = add_lora(load_base(options.model, weights, options.device), LoraConfig()).eval()

    def own(some: list[TokenRow]) -> float:
        return ours(model, some, options.batch_tokens)

    reference = partial(trainer_evaluate, model, on_gpu=on_gpu, folder=folder)
    apart = random_rows(len(rows) // 4, options.mean_length, model.config.vocab_size)
    theirs, our_own = measure(
        [Side(reference, rows[: options.reference_rows]), Side(own, rows)],
        options.rounds,
        on_gpu=on_gpu,
    )
    times = our_own["tokens_per_second"] / theirs["tokens_per_second"]
    return {
        "trainer_evaluate": {"batch_rows": REFERENCE_BATCH_ROWS, **theirs},
        "qwenft": {"batch_tokens": options.batch_tokens, **our_own},
        "times_faster": round(times, 2),
        "rows_that_begin_differently": measure([Side(own, apart)], 1, on_gpu=on_gpu)[0],
        "common_start_tokens": common_start(rows),
        "relative_difference_from_own_forward": difference_from_the_own_forward(
            model, rows[:WARM_UP_ROWS], options.batch_tokens
        ),
        "weights": weights,
        "model": options.model.name,
        "mean_tokens_per_row": round(sum(len(row.input_ids) for row in rows) / len(rows), 1),
        "attention": model.config._attn_implementation,  # noqa: SLF001  (no public name)
        "machine": torch.cuda.get_device_name()
        if on_gpu
        else f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
    }


if __name__ == "__main__":
    main()
