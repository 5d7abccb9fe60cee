"""Training throughput on several GPUs of one machine against one of them, by launcher `accelerate`.

    python benchmarks/train_scaling.py --tokenizer FOLDER --data ROWS.jsonl [--processes 1 2]

Qwen2.5-7B with random weights, real rows, the presets as they stand: an optimizer step has the same
rows on any number of GPUs. Each run then trains its adapter anew for some steps without NEFTune, whose
noise each process draws by itself, and prints the losses: they differ by rounding alone. One JSON line
a run, and last the efficiency: tokens a second over those of one GPU, by GPU.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from train_throughput import OURS, clock, mixed_rows, warm_steps, write_random_model  # noqa: E402

COMPARED_STEPS = 12
LOGGING_STEPS = 3
"""As in a run of the recipe `small`."""


def main() -> None:
    """Write the model, run every preset on every number of GPUs, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, help="Folder of the Qwen2.5 tokenizer.")
    parser.add_argument("--model", type=Path, default=Path(tempfile.gettempdir()) / "random-qwen")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--only", nargs="*", default=["faithful", "fast"], choices=[*OURS])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measure(options)
        return
    if not (options.model / "config.json").exists():
        write_random_model(options.model, options.tokenizer)
    for name in options.only:
        found = [run(name, processes, options) for processes in options.processes]
        compare(name, [result for result in found if "failed" not in result])


def run(name: str, processes: int, options: argparse.Namespace) -> dict[str, Any]:
    """One preset on so many GPUs, in processes of its own."""
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += [__file__, "--child", name, "--model", str(options.model), "--data"]
    command += [str(options.data), "--steps", str(options.steps), "--device", options.device]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    lines = [line for line in answer.stdout.splitlines() if line.startswith("{")]
    result = json.loads(lines[-1]) if lines else {"failed": answer.returncode}
    print(json.dumps({"what": name, "processes": processes, **result}), flush=True)
    return {"processes": processes, **result}


def compare(name: str, results: list[dict[str, Any]]) -> None:
    """Efficiency, and the largest difference between two loss curves."""
    for result in results[1:]:
        one = results[0]
        more = result["processes"] / one["processes"]
        speedup = result["tokens_per_second"] / one["tokens_per_second"]
        gaps = [abs(a - b) for a, b in zip(result["losses"], one["losses"], strict=True)]
        figures = {
            "speedup": round(speedup, 3),
            "efficiency": round(speedup / more, 3),
            "largest_loss_difference": round(max(gaps), 5),
        }
        print(json.dumps({"what": name, "processes": result["processes"], **figures}), flush=True)


def measure(options: argparse.Namespace) -> None:
    """As one of the processes: train by the product's own trainer; the first one prints."""
    os.environ.update(
        HF_HUB_OFFLINE="1", PYTORCH_CUDA_ALLOC_CONF="expandable_segments:True", TQDM_DISABLE="1"
    )
    import torch
    from transformers import set_seed

    from qwenft_assets.config import load_config
    from qwenft_assets.model.batches import pack_best_fit
    from qwenft_assets.model.engines.peft import add_lora, load_base, load_tokenizer
    from qwenft_assets.model.memory import CONTEXT_GIB, shape_of
    from qwenft_assets.model.tokens import tokenize_rows
    from qwenft_assets.processes.ranks import process_group
    from qwenft_assets.training.loading import plan_on_gpu
    from qwenft_assets.training.train import silence_libraries

    silence_libraries()
    on_gpu = options.device == "cuda"
    file, _ = OURS[options.child]
    settings = load_config(HERE.parent / "configs" / file).training.model_copy(
        update={
            "engine": "peft",
            "epochs": 1,
            "evaluate_every_steps": 10_000,
            "warmup_steps": 5,
            **({} if on_gpu else {"weights": "fp32", "device": "cpu"}),
        }
    )
    tokenizer = load_tokenizer(options.model).backend_tokenizer
    rows = list(tokenize_rows(mixed_rows(options.data), tokenizer, settings))
    lengths = [len(row.input_ids) for row in rows]
    of_pack = len(rows) / len(pack_best_fit(lengths, settings.max_length_tokens))
    a_step = settings.step_sequences * (of_pack if settings.batching == "packed" else 1)

    def rows_for(steps: int) -> list[Any]:
        needed = round(a_step * steps)
        return (rows * (needed // len(rows) + 1))[:needed]

    with process_group(options.device) as ranks:
        set_seed(settings.seed)
        model = add_lora(load_base(options.model, settings.weights, options.device), settings.lora)
        fresh = [p.detach().clone() for p in model.parameters() if p.requires_grad]
        plan = (
            plan_on_gpu(
                shape_of(model.get_base_model().config),
                rows_for(options.steps),
                rows[:16],
                settings,
                ranks,
            )
            if on_gpu
            else None
        )
        figures = timed(model, rows_for(options.steps), rows[:16], settings, plan, ranks)
        if on_gpu:
            own = torch.cuda.max_memory_reserved() / 2**30 + CONTEXT_GIB
            figures["peak_vram_gib"] = [round(peak, 2) for peak in ranks.gather([own])]
        gc.collect()  # the first decoder, with the weights it held
        trained = (p for p in model.parameters() if p.requires_grad)
        for parameter, value in zip(trained, fresh, strict=True):
            parameter.data = value
        quiet = settings.model_copy(update={"neftune_alpha": None})
        set_seed(settings.seed)
        figures["losses"] = losses(model, rows_for(COMPARED_STEPS), rows[:16], quiet, plan, ranks)
        figures["device"] = torch.cuda.get_device_name() if on_gpu else "cpu"
        if ranks.is_main_process:
            print(json.dumps(figures), flush=True)


def timed(
    model: Any, train: list[Any], held_out: list[Any], settings: Any, plan: Any, ranks: Any
) -> dict[str, Any]:
    """Tokens of all processes by the second, once warm."""
    steps = list[tuple[float, int]]()
    with tempfile.TemporaryDirectory() as folder:
        trainer, history = trainer_of(model, train, held_out, settings, plan, ranks, Path(folder))
        trainer.args.logging_steps = LOGGING_STEPS
        if plan is not None:
            import torch

            torch.cuda.reset_peak_memory_stats()
            trainer.add_callback(clock(steps, history, warm_steps(trainer.args.max_steps)))
        began = time.monotonic()
        trainer.train()
        seconds, tokens = time.monotonic() - began, history.train_tokens
        ranks.barrier()
    if steps:
        warm = warm_steps(len(steps))
        seconds, tokens = steps[-1][0] - steps[warm][0], steps[-1][1] - steps[warm][1]
    return {"tokens_per_second": round(tokens / seconds), "tokens": tokens}


def losses(
    model: Any, train: list[Any], held_out: list[Any], settings: Any, plan: Any, ranks: Any
) -> list[float]:
    """The loss of each step."""
    with tempfile.TemporaryDirectory() as folder:
        trainer, history = trainer_of(model, train, held_out, settings, plan, ranks, Path(folder))
        trainer.args.logging_steps = 1
        trainer.train()
        ranks.barrier()
    return [round(loss, 5) for _, loss in history.train]


def trainer_of(
    model: Any,
    train: list[Any],
    held_out: list[Any],
    settings: Any,
    plan: Any,
    ranks: Any,
    folder: Path,
) -> tuple[Any, Any]:
    """The product's trainer, silent, and the history that it fills."""
    from qwenft_assets.model.engines.peft import load_tokenizer
    from qwenft_assets.training.trainer import make_trainer
    from qwenft_assets_tests.training.tiny_rows import training_run

    # One folder for all, as in a run: the first process's.
    device = "cpu" if plan is None else "cuda"
    run = training_run(settings, ranks.broadcast(folder), device=device, ranks=ranks)
    tokenizer = load_tokenizer(Path(model.get_base_model().config.name_or_path))
    return make_trainer(run, model, tokenizer, train, held_out, plan), run.history


if __name__ == "__main__":
    main()
