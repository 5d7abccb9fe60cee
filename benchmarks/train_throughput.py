"""Training throughput on one GPU: the original recipe by Unsloth and by TRL, against our presets.

    python benchmarks/train_throughput.py --tokenizer FOLDER --data ROWS.jsonl [--only faithful ...]

Writes Qwen2.5-7B with random weights (same shapes, same cost as the real ones), measures the bf16
matrix product ceiling, then trains each configuration in a process of its own, one after the other.
Tokens are real ones: padding is left out. Prints one JSON line for each.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
FLOP_PER_TOKEN = 4 * 7.07e9
"""Forward and the gradient of activations; the base has no weight gradient."""
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "faithful": ("qwen2.5-7b.yaml", {"engine": "peft"}),
    "faithful-24GiB": ("qwen2.5-7b.yaml", {"engine": "peft", "max_vram_gib": 24}),
    "faithful-10GiB": ("qwen2.5-7b.yaml", {"engine": "peft", "max_vram_gib": 10}),
    "faithful-unsloth": ("qwen2.5-7b.yaml", {}),
    "fast": ("qwen2.5-7b-fast.yaml", {}),
    "fast-unsloth": ("qwen2.5-7b-fast.yaml", {"engine": "unsloth"}),
    "fast-bf16": ("qwen2.5-7b-fast.yaml", {"weights": "bf16"}),
    "fast-nf4": ("qwen2.5-7b-fast.yaml", {"weights": "nf4"}),
    "fast-fp8": ("qwen2.5-7b-fast.yaml", {"weights": "fp8"}),
}
LOGGING_STEPS = 3
"""As in a run of the recipe `small`."""
BASELINES = ("original-unsloth", "original-trl")


def main() -> None:
    """Write the model, run every configuration, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, help="Folder of the Qwen2.5 tokenizer.")
    parser.add_argument("--model", type=Path, default=Path(tempfile.gettempdir()) / "random-qwen")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--only", nargs="*", default=[*BASELINES, *OURS])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--profile", type=Path, help="Write where the time of a step goes.")
    options = parser.parse_args()
    if options.child:
        print(json.dumps(ours(options)))
        return
    if not (options.model / "config.json").exists():
        write_random_model(options.model, options.tokenizer)
    ceiling = matrix_product_tflops()
    print(json.dumps({"what": "bf16 matrix products", "tflop_per_second": ceiling}), flush=True)
    for name in options.only:
        common = ["--model", str(options.model), "--data", str(options.data)]
        if name in BASELINES:
            engine = name.removeprefix("original-")
            command = [
                sys.executable,
                str(HERE / "original_recipe.py"),
                "--engine",
                engine,
                *common,
            ]
        else:
            command = [sys.executable, __file__, "--child", name, *common]
            command += ["--steps", str(options.steps)]
            if options.profile:
                command += ["--profile", str(options.profile / f"{name}.txt")]
        answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        lines = [line for line in answer.stdout.splitlines() if line.startswith("{")]
        result = json.loads(lines[-1]) if lines else {"what": name, "failed": answer.returncode}
        if "tokens_per_second" in result:
            share = result["tokens_per_second"] * FLOP_PER_TOKEN / (ceiling * 1e12)
            result["share_of_bf16_ceiling"] = round(share, 3)
        print(json.dumps(result), flush=True)


def ours(options: argparse.Namespace) -> dict[str, Any]:
    """One of our presets: the product's own trainer on the rows of a file."""
    os.environ.update(
        HF_HUB_OFFLINE="1", PYTORCH_CUDA_ALLOC_CONF="expandable_segments:True", TQDM_DISABLE="1"
    )
    from qwenft_assets.config import load_config
    from qwenft_assets.model.engines import engine_named

    file, changes = OURS[options.child]
    changes = changes | {"epochs": 1, "evaluate_every_steps": 10_000, "warmup_steps": 5}
    settings = load_config(HERE.parent / "configs" / file).training.model_copy(update=changes)
    engine = engine_named(settings.engine_name)
    engine.start("cuda")  # before anything that it patches
    import torch

    from qwenft_assets.model.batches import pack_best_fit
    from qwenft_assets.model.engines.peft import load_tokenizer
    from qwenft_assets.model.memory import CONTEXT_GIB, shape_of
    from qwenft_assets.model.tokens import lengths_of, tokenize_rows
    from qwenft_assets.training.loading import limit_gpu_memory, plan_on_gpu
    from qwenft_assets.training.run import optimizer_steps, sequences
    from qwenft_assets.training.train import silence_libraries
    from qwenft_assets.training.trainer import make_trainer
    from qwenft_assets_tests.training.tiny_rows import training_run

    silence_libraries()
    tokenizer = load_tokenizer(options.model)
    rows = list(tokenize_rows(mixed_rows(options.data), tokenizer.backend_tokenizer, settings))
    lengths = [len(row.input_ids) for row in rows]
    of_one = len(rows) / len(pack_best_fit(lengths, settings.max_length_tokens))
    needed = settings.step_sequences * options.steps
    needed = round(needed * of_one) if settings.batching == "packed" else needed
    train_rows = (rows * (needed // len(rows) + 1))[:needed]
    started = time.monotonic()
    torch.manual_seed(settings.seed)
    model = engine.add_lora(
        engine.load_base(options.model, settings.weights, "cuda"), settings.lora
    )
    plan = plan_on_gpu(shape_of(model.get_base_model().config), train_rows, rows[:16], settings)
    limit_gpu_memory(settings)
    steps: list[tuple[float, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        run = training_run(
            settings,
            Path(folder),
            device="cuda",
            log=lambda line: print(line, file=sys.stderr, flush=True),
        )
        history = run.history
        trainer = make_trainer(run, model, tokenizer, train_rows, rows[:16], plan)
        trainer.args.logging_steps = LOGGING_STEPS
        trainer.add_callback(clock(steps, history, warm_steps(options.steps)))
        load_seconds = time.monotonic() - started
        torch.cuda.reset_peak_memory_stats()
        if options.profile:
            profiled(trainer, options.profile)
        else:
            trainer.train()
    warm = warm_steps(len(steps))
    seconds, tokens = steps[-1][0] - steps[warm][0], steps[-1][1] - steps[warm][1]
    return {
        "what": options.child,
        "device": torch.cuda.get_device_name(),
        "attention": history.attention,
        "trainer": type(trainer).__mro__[1].__name__,
        "planned_steps": optimizer_steps(
            len(sequences(lengths_of(train_rows), settings)), settings
        ),
        "steps": len(steps),
        "tokens_per_second": round(tokens / seconds),
        "tokens_per_step": round(tokens / (len(steps) - 1 - warm)),
        "step_seconds": round(seconds / (len(steps) - 1 - warm), 3),
        "first_step_seconds": round(steps[0][0] - started - load_seconds, 1),
        "load_seconds": round(load_seconds, 1),
        "peak_vram_gib": round(torch.cuda.max_memory_reserved() / 2**30 + CONTEXT_GIB, 2),
        "planned_vram_gib": round(plan.peak_gib, 2),
        "parts_gib": {name: round(gib, 2) for name, gib in plan.parts_gib.items()},
        "keep_4bit": plan.keep_4bit,
        "checkpointing": plan.checkpointing,
        "micro_batch_tokens": plan.micro_batch_tokens,
        "loss_first_last": [round(history.train[0][1], 3), round(history.train[-1][1], 3)],
    }


def warm_steps(steps: int) -> int:
    """Left out of the figures."""
    return max(steps // 3, 1)


def clock(steps: list[tuple[float, int]], history: Any, warm: int) -> Any:
    """A callback that notes when each step ended, and the tokens by then.

    It waits for the GPU only where measuring begins and ends: waiting at every step would measure a
    run that no user has.
    """
    import torch
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            if state.global_step in (1, warm + 1, state.max_steps):
                torch.cuda.synchronize()
            steps.append((time.monotonic(), history.train_tokens))

    return Clock()


def profiled(trainer: Any, path: Path) -> None:
    """Train, and write the kernels that take most of the time."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as record:
        trainer.train()
    table = record.key_averages().table(sort_by="self_cuda_time_total", row_limit=45)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(table)


def mixed_rows(data: Path) -> list[Any]:
    """Rows of {instruction, input, output}, as the mixture holds them."""
    from qwenft_assets.mixture.build import MixedRow
    from qwenft_assets.rows import make_row

    items = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    return [
        MixedRow(
            make_row(
                source="pubmedqa",
                upstream_id=str(n),
                license="MIT",
                revision="",
                admitted_by="all",
                **{key: item[key] for key in ("instruction", "input", "output")},
            ),
            "train",
            0,
        )
        for n, item in enumerate(items)
    ]


def write_random_model(folder: Path, tokenizer: Path | None) -> None:
    """Qwen2.5-7B's shapes with random bf16 weights, made on the GPU; and its tokenizer, if named."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=152_064,
        hidden_size=3_584,
        intermediate_size=18_944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        max_position_embeddings=32_768,
        tie_word_embeddings=False,
        bos_token_id=151_643,
        eos_token_id=151_645,
        pad_token_id=151_643,
        dtype=torch.bfloat16,
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = Qwen2ForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder, max_shard_size="4GB")
    if tokenizer is not None:
        AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    del model
    torch.cuda.empty_cache()


def matrix_product_tflops() -> float:
    """bf16 products of a layer's size, in TFLOP/s."""
    import torch

    x = torch.randn(16_384, 3_584, device="cuda", dtype=torch.bfloat16)
    w = torch.randn(18_944, 3_584, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        x @ w.t()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(20):
        x @ w.t()
    end.record()
    torch.cuda.synchronize()
    rate = 2 * x.shape[0] * x.shape[1] * w.shape[0] * 20 / begin.elapsed_time(end) / 1e9
    del x, w
    torch.cuda.empty_cache()
    return round(rate)


if __name__ == "__main__":
    main()
