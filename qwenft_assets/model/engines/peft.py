"""transformers + peft: on a CPU as on a GPU; 4-bit by bitsandbytes on a GPU."""

from pathlib import Path
from typing import Any

from qwenft_assets.config import LoraConfig, TrainingConfig
from qwenft_assets.errors import AdapterError, BaseModelError, ConfigError, DeviceError
from qwenft_assets.model.attention import attention_path
from qwenft_assets.model.decoder import FlatDecoder
from qwenft_assets.model.memory import MemoryPlan
from qwenft_assets.text.chatml import CHAT_TEMPLATE, END_OF_TEXT, TURN_END, TURN_START

FP8_CAPABILITY = (8, 9)
"""The first CUDA compute capability whose matrix units take float8."""


def start(device: str) -> None:
    """Nothing is to be made ready."""


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer, set to end a turn at `<|im_end|>` and to pad with another token.

    A pad token that is also the end token would leave the end out of the loss: the model would
    never learn to stop.

    Raises:
        AdapterError: The vocabulary has no ChatML tokens.
        BaseModelError: There is no tokenizer.json, or it cannot be read.
    """
    from transformers import AutoTokenizer

    if not (folder / "tokenizer.json").is_file():
        raise BaseModelError(
            f"{folder}: has no tokenizer.json. Save it there with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...)."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise unreadable(folder, error) from error
    vocabulary = tokenizer.get_vocab()
    missing = [t for t in (TURN_START, TURN_END, END_OF_TEXT) if t not in vocabulary]
    if missing:
        raise AdapterError(
            f"{folder}: the tokenizer has no {missing[0]}. Use a base model tuned on ChatML, such as "
            "Qwen2.5-Instruct or SmolLM2-Instruct."
        )
    tokenizer.eos_token = TURN_END
    tokenizer.pad_token = END_OF_TEXT
    tokenizer.padding_side = "right"
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def load_base(folder: Path, weights: str, device: str) -> Any:
    """The frozen base model on its device.

    Args:
        folder: safetensors and config.json.
        weights: `nf4`, `bf16` or `fp32`; for `fp8` bf16, which flat_forward rounds.
        device: `cuda` or `cpu`.

    Raises:
        DeviceError: `nf4` without bitsandbytes or without a GPU.
        BaseModelError: A file is damaged or missing, or the weights are not all there.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"attn_implementation": "sdpa", "use_safetensors": True}
    options["dtype"] = torch.float32 if weights == "fp32" else torch.bfloat16
    if weights == "nf4":
        options["quantization_config"] = _nf4()
    if device == "cuda":
        options["device_map"] = {"": torch.cuda.current_device()}
    try:
        pair: Any = AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True, **options
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise unreadable(folder, error) from error
    model, loaded = pair
    missing = sorted(loaded["missing_keys"])
    if missing:  # transformers fills them with random numbers
        raise BaseModelError(
            f"{folder}: {len(missing)} of the model's weights are missing, the first is "
            f"{missing[0]}. Fetch or copy the model again."
        )
    model.config.use_cache = False
    return model


def add_lora(model: Any, settings: LoraConfig) -> Any:
    """A PeftModel with fresh adapters in fp32: B is zero, so that it begins as the base.

    Raises:
        ConfigError: The base model has no module of a name in `target_modules`.
    """
    import peft

    require_targets(model, settings)
    lora = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.target_modules),
        task_type="CAUSAL_LM",
        bias="none",
    )
    return peft.get_peft_model(model, lora)


def require_targets(model: Any, settings: LoraConfig) -> None:
    """See that the base model has each module of `target_modules`.

    Raises:
        ConfigError: It has not.
    """
    names = [f".{name}" for name, _ in model.named_modules()]
    for target in settings.target_modules:
        if not any(name.endswith(f".{target}") for name in names):
            raise ConfigError(
                f"training.lora.target_modules: the base model has no {target!r}. Correct or "
                "remove it."
            )


def flat_forward(
    model: Any, settings: TrainingConfig, plan: MemoryPlan | None, shards: int
) -> FlatDecoder:
    """This project's own decoder over the model's parameters.

    Raises:
        DeviceError: `fp8` on a GPU without 8-bit floating-point matrix units.
    """
    if settings.weights == "fp8":
        _require_fp8()
    keep_4bit = plan.keep_4bit if plan else False
    return FlatDecoder(model, weights=settings.weights, keep_4bit=keep_4bit, shards=shards)


def for_training(model: Any) -> None:
    """Put a model into training mode."""
    model.train()


def attention(settings: TrainingConfig, device: str) -> str:
    """The attention kernel, which the decoder calls itself."""
    return "sdpa" if settings.batching == "padded" else attention_path(device)


def load_adapter(model: Any, folder: Path) -> Any:
    """A PeftModel of `model` with the adapter in `folder`, for inference.

    Raises:
        AdapterError: The folder holds no adapter that fits this model.
    """
    import warnings

    import peft
    from safetensors import SafetensorError

    try:
        with warnings.catch_warnings():
            # Weights that are not in the file stay as they began: an adapter that does nothing.
            warnings.filterwarnings("error", message="Found missing adapter keys")
            return peft.PeftModel.from_pretrained(model, folder, is_trainable=False).eval()
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError, UserWarning) as error:
        problem = str(error).splitlines()[0][:200]  # peft lists every missing weight
        raise AdapterError(
            f"{folder}: does not load on this base model ({problem}). Train it anew with "
            "`qwenft run`."
        ) from error


def unreadable(folder: Path, error: Exception) -> BaseModelError:
    """The error that a library met in a base model's folder, in one line."""
    problem = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return BaseModelError(
        f"{folder}: the base model cannot be read ({problem}). Fetch or copy it again, or correct "
        "training.base_model."
    )


def _require_fp8() -> None:
    import torch

    if not torch.cuda.is_available():
        return  # the same arithmetic in fp32, for tests: no config with fp8 runs on a CPU
    if torch.cuda.get_device_capability() < FP8_CAPABILITY:
        raise DeviceError(
            f"training.weights: fp8 needs a GPU of Ada, Hopper or later, and this is a "
            f"{torch.cuda.get_device_name()}. Set training.weights to bf16."
        )


def _nf4() -> Any:
    import importlib.util

    import torch
    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None:
        raise DeviceError(
            "weights: nf4 needs bitsandbytes. Install it with `pip install 'qwenft[gpu]'`, or set "
            "training.weights to bf16."
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
