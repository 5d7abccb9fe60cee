"""A random LoRA adapter of a tiny model, in the place and shape that training leaves one."""

from pathlib import Path

from qwenft_assets.config import TrainingConfig
from qwenft_assets.model.base import find_base_model
from qwenft_assets.storage.files import write_json
from qwenft_assets.storage.root import Storage

RECIPE = "small"


def write_tiny_adapter(storage: Storage, base_folder: Path, version: str, seed: int = 0) -> Path:
    """Write adapter and record, and make it the latest; its answers differ from the base's."""
    import peft
    import torch

    from qwenft_assets.model.engines.peft import load_base, load_tokenizer

    torch.manual_seed(seed)
    lora = peft.LoraConfig(
        r=4, lora_alpha=64, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM"
    )
    model = peft.get_peft_model(load_base(base_folder, "fp32", "cpu"), lora)
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.2)
    folder = storage.adapter(RECIPE, version)
    model.save_pretrained(str(folder))
    load_tokenizer(base_folder).save_pretrained(folder)
    base = find_base_model(TrainingConfig(base_model=str(base_folder)), storage)
    record = {"version": version, "base_model": base.name, "base_revision": base.revision}
    write_json(folder / "training.json", record)
    write_json(storage.adapters(RECIPE) / "latest.json", {"version": version})
    return folder
