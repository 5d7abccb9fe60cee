"""The plan's estimate of GPU memory against measured peaks, on one GPU.

    python benchmarks/plan_accuracy.py [--model FOLDER] [--only faithful faithful-24GiB ...]

Writes Qwen2.5-7B with random weights where FOLDER has none, then trains four steps of each
configuration in a process of its own. Rows have one length, so that every step is the largest. Prints
a line of JSON for each, and last a table: estimate, measured peak, error. Ends with 1 where one is
further off than 15 %.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from train_throughput import OURS, write_random_model

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
ROW_TOKENS = {"flattened": 440, "packed": 512}
"""About the mean of the original recipe's rows; four to a pack of 2,048."""
STEPS = 4
ALLOWED_ERROR = 0.15
DEFAULT = ("faithful", "faithful-24GiB", "faithful-10GiB", "fast")


def main() -> None:
    """Write the model, measure every configuration, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path(tempfile.gettempdir()) / "random-qwen")
    parser.add_argument("--only", nargs="*", default=[*DEFAULT], choices=[*OURS])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child, options.model)))
        return
    if not (options.model / "config.json").exists():
        write_random_model(options.model, None)
    results: list[dict[str, Any]] = []
    for name in options.only:
        command = [sys.executable, __file__, "--child", name, "--model", str(options.model)]
        answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        lines = [line for line in answer.stdout.splitlines() if line.startswith("{")]
        results.append(json.loads(lines[-1]) if lines else {"what": name, "failed": True})
        print(json.dumps(results[-1]), flush=True)
    print(f"\n{'configuration':<18}{'estimate':>10}{'measured':>10}{'error':>8}  GiB")
    for result in results:
        if "failed" in result:
            print(f"{result['what']:<18}    failed")
            continue
        print(
            f"{result['what']:<18}{result['estimate_gib']:>10.1f}{result['measured_gib']:>10.1f}"
            f"{result['error']:>+8.1%}"
        )
    sys.exit(any(r.get("failed") or abs(r["error"]) > ALLOWED_ERROR for r in results))


def measure(name: str, model_folder: Path) -> dict[str, Any]:
    """Train a few steps by the product's own trainer; the plan beside what it came to."""
    os.environ.update(
        HF_HUB_OFFLINE="1", PYTORCH_CUDA_ALLOC_CONF="expandable_segments:True", TQDM_DISABLE="1"
    )
    import torch

    from qwenft_assets.config import load_config
    from qwenft_assets.model.engines.peft import add_lora, load_base
    from qwenft_assets.model.memory import CONTEXT_GIB, shape_of
    from qwenft_assets.model.tokens import TokenRow
    from qwenft_assets.training.history import LossHistory
    from qwenft_assets.training.loading import limit_gpu_memory, plan_on_gpu
    from qwenft_assets.training.train import silence_libraries
    from qwenft_assets.training.trainer import make_trainer

    silence_libraries()
    file, changes = OURS[name]
    changes = changes | {"epochs": 1, "evaluate_every_steps": 10_000}
    settings = load_config(HERE.parent / "configs" / file).training.model_copy(update=changes)
    length = ROW_TOKENS[settings.batching]
    of_sequence = settings.max_length_tokens // length if settings.batching == "packed" else 1
    draw = random.Random(1)
    rows = [
        TokenRow(str(n), "s", "train", [draw.randrange(150_000) for _ in range(length)], 0, False)
        for n in range(STEPS * settings.step_sequences * of_sequence)
    ]
    model = add_lora(load_base(model_folder, settings.weights, "cuda"), settings.lora)
    plan = plan_on_gpu(shape_of(model.get_base_model().config), rows, rows[:4], settings)
    limit_gpu_memory(settings)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            model,
            rows,
            rows[:4],
            settings,
            Path(folder),
            plan=plan,
            history=LossHistory(),
            report_progress=lambda *_: None,
            log=lambda line: print(line, file=sys.stderr, flush=True),
        )
        torch.cuda.reset_peak_memory_stats()
        trainer.train()
    measured = torch.cuda.max_memory_reserved() / 2**30 + CONTEXT_GIB
    return {
        "what": name,
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "step_tokens": settings.step_sequences * of_sequence * length,
        "estimate_gib": round(plan.peak_gib, 2),
        "measured_gib": round(measured, 2),
        "allocated_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "error": round(plan.peak_gib / measured - 1, 4),
        "parts_gib": {part: round(gib, 2) for part, gib in plan.parts_gib.items()},
        "keep_4bit": plan.keep_4bit,
        "checkpointing": plan.checkpointing,
        "micro_batch_tokens": plan.micro_batch_tokens,
    }


if __name__ == "__main__":
    main()
