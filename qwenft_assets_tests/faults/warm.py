"""What the process that trainings are forked from imports once."""

import importlib

import torch  # noqa: TID253

for name in ("accelerate", "datasets", "peft", "qwenft_assets.evaluation.evaluate"):
    importlib.import_module(name)
transformers = importlib.import_module("transformers")
for part in ("AutoModelForCausalLM", "AutoTokenizer", "Trainer"):  # imported when they are named
    getattr(transformers, part)
torch.set_num_threads(1)
