"""Whether speed costs quality: held-out loss after the original recipe and after our presets.

    python benchmarks/train_quality.py --model FOLDER --data ROWS.jsonl --device cuda [--seeds 0 1 2] \
        [--results RUNS.jsonl] [--minutes 9]

A small model with its real weights, real rows, the same held-out rows for all. The original recipe is
TRL's SFTTrainer with PEFT and bitsandbytes: 2 rows x 4, padded, NEFTune by its own hook; once on a base
of 4 bits, as it is used, and once on bf16, to tell the base's share from the recipe's. Every adapter is
put on a fresh copy of the base it was trained on (fp8: on bf16, as it would be used) and measured
by one evaluator, in nats per token. --model takes a GGUF file too. Prints one JSON line a run, then
the means against the original. With --results a run that stands in that file is not made again, and
--minutes begins no run after that time, so that the same command, once more, goes on.
"""

import argparse
import hashlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from train_throughput import mixed_rows  # noqa: E402

from qwenft_assets.config import TrainingConfig, load_config  # noqa: E402
from qwenft_assets.model.base import convert_gguf  # noqa: E402
from qwenft_assets.model.engines.peft import add_lora, load_base, load_tokenizer  # noqa: E402
from qwenft_assets.model.memory import shape_of  # noqa: E402
from qwenft_assets.model.tokens import tokenize_rows  # noqa: E402
from qwenft_assets.text.chatml import render_training_text  # noqa: E402
from qwenft_assets.training.forward_passes import mean_loss  # noqa: E402
from qwenft_assets.training.loading import plan_on_gpu  # noqa: E402
from qwenft_assets.training.train import silence_libraries  # noqa: E402
from qwenft_assets.training.trainer import make_trainer  # noqa: E402
from qwenft_assets_tests.training.tiny_rows import training_run  # noqa: E402

FAITHFUL, FAST = "configs/qwen2.5-7b.yaml", "configs/qwen2.5-7b-fast.yaml"
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "original": (FAITHFUL, {}),
    "original-bf16": (FAITHFUL, {"weights": "bf16"}),
    "faithful": (FAITHFUL, {"engine": "peft"}),
    "fast-nf4": (FAST, {"weights": "nf4"}),
    "fast": (FAST, {}),
    "fast-fp8": (FAST, {"weights": "fp8"}),
}
HELD_OUT_SHARE = 0.2


def main() -> None:
    """Train every recipe with every seed, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="Folder, or a GGUF file.")
    parser.add_argument("--data", type=Path, required=True, help="{instruction, input, output}.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--recipes", nargs="*", default=[*RECIPES], choices=[*RECIPES])
    parser.add_argument("--results", type=Path, help="JSON lines of runs: appended to, and read.")
    parser.add_argument("--minutes", type=float, help="Begin no training later than this.")
    parser.add_argument("--change", default="{}", help="JSON: other settings of the fast preset.")
    options = parser.parse_args()
    silence_libraries()
    began = time.monotonic()
    options.base = options.model.name
    with tempfile.TemporaryDirectory() as folder:
        if options.model.is_file():
            convert_gguf(options.model, Path(folder) / "base")
            options.model = Path(folder) / "base"
        rows = mixed_rows(options.data)
        random.Random(0).shuffle(rows)
        held_out = round(len(rows) * HELD_OUT_SHARE)
        known = read_results(options)
        found: dict[str, list[float]] = {}
        for seed in options.seeds:
            for name in options.recipes:
                figures = known.get((name, seed))
                if figures is None:
                    if options.minutes and time.monotonic() - began > options.minutes * 60:
                        print(json.dumps({"what": name, "seed": seed, "left_out": True}))
                        continue
                    figures = run(name, seed, rows[held_out:], rows[:held_out], options)
                    keep(options, {"what": name, "seed": seed, **figures})
                found.setdefault(name, []).append(figures["loss"])
                print(json.dumps({**figures, "what": name, "seed": seed}), flush=True)
    means = {name: statistics.mean(losses) for name, losses in found.items()}
    for name, losses in found.items():
        spread = round(statistics.stdev(losses), 5) if len(losses) > 1 else None
        shown = {"seeds": len(losses), "mean_loss": round(means[name], 5), "stdev": spread}
        compared = {
            f"to_{original}": round(means[name] / means[original] - 1, 5)
            for original in ("original", "original-bf16")
            if original in means
        }
        print(json.dumps({"what": name, **shown, **compared}))


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    """What runs must share to be compared."""
    return {
        "base": options.base,
        "data": hashlib.sha256(options.data.read_bytes()).hexdigest()[:12],
        "device": options.device,
        "epochs": options.epochs,
        "change": options.change,
    }


def read_results(options: argparse.Namespace) -> dict[tuple[str, int], dict[str, Any]]:
    """Runs of the results file that were made under the same conditions, by recipe and seed."""
    if options.results is None or not options.results.exists():
        return {}
    lines = options.results.read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines if line.strip()]
    same = [r for r in records if r.get("conditions") == conditions(options)]
    return {(r["what"], r["seed"]): r for r in same}


def keep(options: argparse.Namespace, record: dict[str, Any]) -> None:
    """Append a run to the results file."""
    if options.results is not None:
        options.results.parent.mkdir(parents=True, exist_ok=True)
        with options.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**record, "conditions": conditions(options)}) + "\n")


def run(
    name: str, seed: int, train: list[Any], held_out: list[Any], options: argparse.Namespace
) -> dict[str, Any]:
    """Train once; held-out loss of base and adapter, steps, seconds."""
    file, changes = RECIPES[name]
    if file == FAST:
        changes = changes | json.loads(options.change)
    settings = load_config(HERE.parent / file).training.model_copy(
        update={**changes, "seed": seed, "epochs": options.epochs, "evaluate_every_steps": 10_000}
    )
    held = "bf16" if settings.weights == "fp8" else settings.weights
    if options.device == "cpu":
        held, settings = "fp32", settings.model_copy(update={"weights": "fp32"})
    started = time.monotonic()
    if name.startswith("original"):
        weights, steps = original(settings, held, train, options)
    else:
        weights, steps = ours(settings, held, train, held_out, options)
    seconds = time.monotonic() - started
    model = add_lora(load_base(options.model, held, options.device), settings.lora).eval()
    tokenizer = load_tokenizer(options.model)
    tokens = list(tokenize_rows(held_out, tokenizer.backend_tokenizer, settings))
    with model.disable_adapter():
        base = mean_loss(model, tokens, "full")
    put(model, weights)
    loss = mean_loss(model, tokens, "full")
    return {
        "loss": round(loss, 5),
        "base_loss": round(base, 5),
        "steps": steps,
        "seconds": round(seconds, 1),
    }


def original(
    settings: TrainingConfig, held: str, train: list[Any], options: argparse.Namespace
) -> tuple[dict[str, Any], int]:
    """TRL's SFTTrainer as scripts use it; on a CPU with the loss of transformers, which runs there."""
    from datasets import Dataset
    from transformers import Trainer, set_seed
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    on_gpu = options.device == "cuda"
    set_seed(settings.seed)
    model = add_lora(load_base(options.model, held, options.device), settings.lora)
    texts = [render_training_text(r.instruction, r.input, r.output) for r, _, _ in train]

    class OnCpuToo(SFTTrainer):
        def compute_loss(self, *args: Any, **options: Any) -> Any:
            return Trainer.compute_loss(self, *args, **options)

    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder,
            max_length=settings.max_length_tokens,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=4,
            num_train_epochs=settings.epochs,
            learning_rate=settings.peak_learning_rate,
            lr_scheduler_type=settings.lr_schedule,
            warmup_steps=settings.warmup_steps,
            weight_decay=settings.weight_decay,
            optim="adamw_8bit" if on_gpu else "adamw_torch",
            neftune_noise_alpha=settings.neftune_alpha,
            bf16=on_gpu,
            use_cpu=not on_gpu,
            seed=settings.seed,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            dataset_text_field="text",
            gradient_checkpointing=False,
        )
        trainer = (SFTTrainer if on_gpu else OnCpuToo)(
            model=model,
            processing_class=load_tokenizer(options.model),
            train_dataset=Dataset.from_dict({"text": texts}),
            args=arguments,
        )
        trainer.train()
    return taken(trainer.model), trainer.state.global_step


def ours(
    settings: TrainingConfig,
    held: str,
    train: list[Any],
    held_out: list[Any],
    options: argparse.Namespace,
) -> tuple[dict[str, Any], int]:
    """The product's own trainer."""
    from transformers import set_seed

    set_seed(settings.seed)
    tokenizer = load_tokenizer(options.model)
    backend = tokenizer.backend_tokenizer
    model = add_lora(load_base(options.model, held, options.device), settings.lora)
    rows, few = (tokenize_rows(some, backend, settings) for some in (train, held_out[:8]))
    plan = (
        plan_on_gpu(shape_of(model.get_base_model().config), rows, few, settings)
        if options.device == "cuda"
        else None
    )
    with tempfile.TemporaryDirectory() as folder:
        run = training_run(settings, Path(folder), device=options.device)
        trainer = make_trainer(run, model, tokenizer, rows, few, plan)
        trainer.train()
    return taken(model), trainer.state.global_step


def taken(model: Any) -> dict[str, Any]:
    """The adapter's weights, on the CPU in fp32."""
    return {
        name: parameter.detach().float().cpu().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def put(model: Any, weights: dict[str, Any]) -> None:
    """Fill the adapter of a fresh model."""
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for name, parameter in own.items():
        parameter.data.copy_(weights.pop(name))
    if weights:
        raise ValueError(f"no place for {next(iter(weights))}")


if __name__ == "__main__":
    main()
