"""Unsloth: its loader and its patched forward, on a GPU, in the training process alone.

Importing it patches transformers, peft and trl for the whole process and writes generated code; hence
`start` comes first in a child process, and nothing outside of it imports Unsloth. It runs the forward and
backward pass, and its patched SFTTrainer the loop around the optimizer step of trainer.py.
"""

import atexit
import importlib
import inspect
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenft_assets.config import LoraConfig, TrainingConfig
from qwenft_assets.config.engines import ENGINES
from qwenft_assets.errors import BaseModelError, DeviceError
from qwenft_assets.model.attention import VARLEN_FLASH
from qwenft_assets.model.batches import FlatBatch
from qwenft_assets.model.decoder import neftune_noise
from qwenft_assets.model.engines import require_engine
from qwenft_assets.model.engines.peft import require_targets, unreadable
from qwenft_assets.model.memory import MemoryPlan
from qwenft_assets.storage.files import read_json

if TYPE_CHECKING:
    import torch


def start(device: str) -> None:
    """Import Unsloth, so that its patches apply; the first import of its kind in this process.

    Raises:
        DeviceError: It is not installed, or cannot use this machine.
    """
    require_engine(TrainingConfig(engine="unsloth"), device)
    on_cpu = device != "cuda"
    # Without it a broken driver would mean training on the CPU, in silence.
    os.environ["UNSLOTH_DISABLE_CPU_FALLBACK"] = "0" if on_cpu else "1"
    os.environ["UNSLOTH_DISABLE_STATISTICS"] = "1"  # it would ask the Hub
    if on_cpu:
        os.environ["UNSLOTH_FORCE_CPU"] = "1"
    else:
        _give_varlen_kernel()
    if (
        "UNSLOTH_COMPILE_LOCATION" not in os.environ
    ):  # code it generates, else in the working folder
        folder = tempfile.mkdtemp(prefix="qwenft-unsloth-")
        os.environ["UNSLOTH_COMPILE_LOCATION"] = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        importlib.import_module("unsloth")
    except (ImportError, NotImplementedError, RuntimeError) as error:
        problem = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DeviceError(
            f"training.engine: unsloth cannot be imported ({problem}). Mend the GPU's driver or the "
            f"install ({ENGINES['unsloth'].install}), or set training.engine to peft."
        ) from error


def _give_varlen_kernel() -> None:
    """Let Unsloth find torch 2.11's kernel for rows of any length, as it finds that of 2.12.

    It asks for `enable_gqa`, which 2.11 does not have, and would run attention once a row instead.
    """
    from torch.nn.attention import varlen

    native: Any = varlen.varlen_attn
    known = inspect.signature(native).parameters
    if "enable_gqa" in known or "window_size" not in known:
        return

    def varlen_attn(
        query: Any,
        key: Any,
        value: Any,
        cu_seq_q: Any,
        cu_seq_k: Any,
        max_q: int,
        max_k: int,
        *,
        return_aux: Any = None,  # noqa: ARG001
        scale: float | None = None,
        window_size: Any = (-1, -1),
        enable_gqa: bool = False,
    ) -> Any:
        if enable_gqa and query.size(1) != key.size(1):
            groups = query.size(1) // key.size(1)
            key, value = (part.repeat_interleave(groups, 1) for part in (key, value))
        places = (query, key, value, cu_seq_q, cu_seq_k, max_q, max_k)
        return native(*places, scale=scale, window_size=window_size)

    varlen.varlen_attn = varlen_attn


def load_base(folder: Path, weights: str, device: str) -> Any:  # noqa: ARG001  (Unsloth's own choice)
    """The frozen base model on its device, from a local folder alone.

    Args:
        folder: safetensors and config.json.
        weights: `nf4`, `bf16`, or `fp32` in tests.
        device: `cuda`, or `cpu` in tests.

    Raises:
        BaseModelError: A file is damaged or missing, or the weights are not all there.
    """
    import torch
    from safetensors import SafetensorError

    FastLanguageModel = _fast_language_model()  # noqa: N806  (its name)
    if not any(folder.glob("*.safetensors")):
        raise BaseModelError(f"{folder}: has no safetensors. Fetch or copy the base model again.")
    config = read_json(folder / "config.json") or {}
    try:
        model, _ = FastLanguageModel.from_pretrained(
            str(folder),
            # Rows are cut before; a longer limit only sizes tables.
            max_seq_length=int(config.get("max_position_embeddings", 2048)),
            dtype=torch.float32 if weights == "fp32" else torch.bfloat16,
            load_in_4bit=weights == "nf4",
            use_gradient_checkpointing=False,
            use_exact_model_name=True,  # not a twin that was rounded elsewhere
            trust_remote_code=False,
            offload_embedding=False,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise unreadable(folder, error) from error
    _require_all_weights(model, folder)
    model.config.use_cache = False
    return model


def add_lora(model: Any, settings: LoraConfig) -> Any:
    """A PeftModel with fresh adapters in fp32: B is zero, so that it begins as the base.

    Raises:
        ConfigError: The base model has no module of a name in `target_modules`.
    """
    import torch

    require_targets(model, settings)
    return _fast_language_model().get_peft_model(
        model,
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.target_modules),
        bias="none",
        use_gradient_checkpointing=False,  # UnslothForward turns it on where memory asks for it
        random_state=torch.initial_seed() % 2**32,  # as set_seed left it: it sets all seeds itself
    )


def flat_forward(
    model: Any, settings: TrainingConfig, plan: MemoryPlan | None, shards: int
) -> "UnslothForward":
    """Unsloth's forward on flat batches."""
    del settings, plan, shards  # it decides for itself how weights are held
    return UnslothForward(model)


def for_training(model: Any) -> None:
    """Leave the inference mode in which Unsloth's trainer ends its construction."""
    _fast_language_model().for_training(model, use_gradient_checkpointing=False)


def attention(settings: TrainingConfig, device: str) -> str:
    """The attention kernel that Unsloth's dispatcher selects here."""
    if settings.batching == "padded":
        return "sdpa"
    dispatch = importlib.import_module("unsloth.utils.attention_dispatch")
    selected: str = dispatch.select_attention_backend(use_varlen=True)
    has_varlen = device == "cuda" and getattr(dispatch, "_TORCH_VARLEN_ATTN", None) is not None
    return VARLEN_FLASH if selected == "sdpa" and has_varlen else selected


class UnslothForward:
    """A PEFT model that Unsloth patched, as a function of flat batches."""

    def __init__(self, model: Any) -> None:
        """Take a loaded model with its adapter."""
        self.model = model
        self.causal = model.get_base_model()
        self._checkpointing = False

    @property
    def head(self) -> "torch.Tensor":
        """The language head, (vocabulary, hidden size)."""
        return self.causal.lm_head.weight

    def hidden_states(
        self,
        batch: FlatBatch,
        *,
        noise_alpha: float | None = None,
        training: bool = False,
        checkpointing: bool = False,
    ) -> "torch.Tensor":
        """Hidden states after the last norm, (tokens, hidden size); see FlatDecoder.

        The lengths of rows stay on the CPU: Unsloth copies them without a wait.
        """
        import torch

        embedded = self.causal.get_input_embeddings()(batch.input_ids)
        if noise_alpha is not None:
            embedded = embedded + neftune_noise(batch, embedded, noise_alpha)
        if training and checkpointing:
            if not self._checkpointing:
                _fast_language_model().for_training(self.model, use_gradient_checkpointing=True)
                self._checkpointing = True
            embedded.requires_grad_()  # else nothing is computed again, and nothing gets a gradient
        device, half = embedded.device.type, embedded.dtype != torch.float32
        with torch.autocast(device, torch.bfloat16, enabled=half):
            hidden = self.causal.base_model(
                inputs_embeds=embedded[None],
                position_ids=batch.position_ids[None],
                packed_seq_lengths=torch.tensor(batch.lengths, dtype=torch.int32),
                use_cache=False,
            ).last_hidden_state
        return hidden[0].to(self.head.dtype)


def _require_all_weights(model: Any, folder: Path) -> None:
    from safetensors import safe_open

    held: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            held.update(tensors.keys())
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set[str]()
    missing = sorted({name for name, _ in model.named_parameters()} - held - tied)
    if missing:
        raise BaseModelError(
            f"{folder}: {len(missing)} of the model's weights are missing, the first is "
            f"{missing[0]}. Fetch or copy the model again."
        )


def _fast_language_model() -> Any:
    return importlib.import_module("unsloth").FastLanguageModel
