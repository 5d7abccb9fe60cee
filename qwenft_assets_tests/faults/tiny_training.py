"""The config of a deployment that trains a tiny model for 15 steps on bundled samples."""

from pathlib import Path

from qwenft_assets.config import PROJECT_ROOT, Config, load_config

TRAINING = {
    "device": "cpu",
    "weights": "fp32",
    "min_vram_gib": 0,
    "max_length_tokens": 256,
    "epochs": 3,
    "peak_learning_rate": 0.01,
    "warmup_steps": 2,
    "evaluate_every_steps": 3,
    "gradient_checkpointing": False,
}
EVALUATION = {
    "sample_rows": 1,
    "sample_max_new_tokens": 4,
    "bundled_prompts": 2,
    "prompt_max_new_tokens": 4,
}


def tiny_config(base_model: Path) -> Config:
    """An evaluation and a checkpoint every 3 steps; answers of 4 tokens."""
    config = load_config(PROJECT_ROOT / "configs" / "demo.yaml")
    small = config.mixture.recipes["small"].model_copy(update={"rows": 40})
    base = {"base_model": str(base_model)}
    return config.model_copy(
        update={
            "training": config.training.model_copy(update=base | TRAINING),
            "mixture": config.mixture.model_copy(update={"recipes": {"small": small}}),
            "evaluation": config.evaluation.model_copy(update=EVALUATION),
        }
    )
