"""The original recipe, as scripts run it today, by Unsloth or by TRL + PEFT: what others are held to.

    python benchmarks/original_recipe.py --engine unsloth --model FOLDER --data ROWS.jsonl

2 rows x 4 accumulation, padded, gradient checkpointing, 4-bit base, adamw_8bit. Prints one JSON line:
real tokens (padding left out) a second of optimizer steps, after a warm-up.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.update(
    HF_HUB_OFFLINE="1",
    UNSLOTH_DISABLE_STATISTICS="1",
    TOKENIZERS_PARALLELISM="false",
    PYTORCH_CUDA_ALLOC_CONF="expandable_segments:True",
)
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ROWS, ACCUMULATION = 2, 4


def main() -> None:
    """Train a few steps and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("unsloth", "trl"), required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--warmup-steps", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=2048)
    options = parser.parse_args()
    if options.engine == "unsloth":
        import unsloth  # noqa: F401  (first, so that its patches apply)
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    texts = [text_of(json.loads(line), tokenizer) for line in options.data.read_text().splitlines()]
    needed = ROWS * ACCUMULATION * options.steps
    dataset = Dataset.from_dict({"text": (texts * (needed // len(texts) + 1))[:needed]})
    model, extra = load(options, torch)
    arguments: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(),
        "max_length": options.max_length,
        "per_device_train_batch_size": ROWS,
        "gradient_accumulation_steps": ACCUMULATION,
        "max_steps": options.steps,
        "learning_rate": 2e-4,
        "warmup_steps": 5,
        "optim": "adamw_8bit",
        "logging_steps": 1,
        "report_to": "none",
        "dataset_text_field": "text",
        "save_strategy": "no",
        "neftune_noise_alpha": 5,
        "bf16": True,
        "seed": 3407,
        "disable_tqdm": True,
    }
    if options.engine == "trl":
        arguments |= {
            "gradient_checkpointing": True,
            "gradient_checkpointing_kwargs": {"use_reentrant": False},
        }
    clock = make_clock(torch)
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=dataset,
        args=SFTConfig(**arguments),
        callbacks=[clock],
        **extra,
    )
    step = trainer.training_step

    def counted(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        flat = mask is None or mask.dim() != 2  # noqa: PLR2004  (rows, length)
        real = int((ids != tokenizer.pad_token_id).sum()) if flat else int(mask.sum())
        clock.real += real
        clock.slots += ids.numel()
        return step(model, inputs, *args, **kwargs)

    trainer.training_step = counted
    torch.cuda.reset_peak_memory_stats()
    trainer.train()
    print(json.dumps({"what": f"original-{options.engine}", **clock.figures(options.warmup_steps)}))


def text_of(row: dict[str, str], tokenizer: Any) -> str:
    """A row in the tokenizer's own chat layout."""
    user = row["instruction"] + ("\n" + row["input"] if row["input"] else "")
    turns = [
        {"role": "system", "content": "You are a cross-domain expert. Answer accurately."},
        {"role": "user", "content": user},
        {"role": "assistant", "content": row["output"]},
    ]
    return tokenizer.apply_chat_template(turns, tokenize=False)


def load(options: argparse.Namespace, torch: Any) -> tuple[Any, dict[str, Any]]:
    """The 4-bit model, with its adapter or with what the trainer needs to make one."""
    if options.engine == "unsloth":
        from unsloth import FastLanguageModel

        model, _ = FastLanguageModel.from_pretrained(
            options.model,
            max_seq_length=options.max_length,
            load_in_4bit=True,
            dtype=torch.bfloat16,
        )
        adapted = FastLanguageModel.get_peft_model(
            model,
            r=16,
            lora_alpha=32,
            lora_dropout=0,
            target_modules=TARGETS,
            random_state=3407,
            use_gradient_checkpointing="unsloth",
        )
        return adapted, {}
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        options.model,
        dtype=torch.bfloat16,
        quantization_config=quantization,
        device_map={"": 0},
    )
    model.config.use_cache = False
    lora = LoraConfig(r=16, lora_alpha=32, target_modules=TARGETS, task_type="CAUSAL_LM")
    return model, {"peft_config": lora}


def make_clock(torch: Any) -> Any:
    """A trainer callback that times whole optimizer steps."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.real = self.slots = 0
            self.steps: list[tuple[float, int, int]] = []
            self.losses: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            torch.cuda.synchronize()
            self.began, self.real, self.slots = time.monotonic(), 0, 0

        def on_step_end(self, *_: Any, **__: Any) -> None:
            torch.cuda.synchronize()
            self.steps.append((time.monotonic() - self.began, self.real, self.slots))

        def on_log(self, *_: Any, logs: Any = None, **__: Any) -> None:
            if logs and "loss" in logs:
                self.losses.append(float(logs["loss"]))

        def figures(self, warmup_steps: int) -> dict[str, Any]:
            counted = self.steps[warmup_steps:]
            seconds, real, slots = (sum(column) for column in zip(*counted, strict=True))
            return {
                "tokens_per_second": round(real / seconds),
                "tokens_per_step": round(real / len(counted)),
                "padding_share": round(1 - real / slots, 3),
                "step_seconds": round(seconds / len(counted), 3),
                "peak_vram_gib": round(torch.cuda.max_memory_reserved() / 2**30, 1),
                "loss_first_last": [round(self.losses[0], 3), round(self.losses[-1], 3)],
            }

    return Clock()


if __name__ == "__main__":
    main()
