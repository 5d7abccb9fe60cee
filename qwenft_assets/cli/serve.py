"""`qwenft serve`: the adapter behind an OpenAI-compatible endpoint, by an existing server."""

import importlib.util
import json
import os
import shlex
import shutil
import socket
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from qwenft_assets.cli.answering import answering_models, tell
from qwenft_assets.cli.options import (
    AdapterOption,
    ConfigOption,
    RecipeOption,
    load,
    recipe_named,
    storage_of,
)
from qwenft_assets.config import Config, RecipeName
from qwenft_assets.errors import ServeError

if TYPE_CHECKING:
    from qwenft_assets.storage.root import Storage

LOOPBACK = {"127.0.0.1", "localhost", "::1"}
SERVER_PACKAGES = ("fastapi", "uvicorn", "openai")


def serve(
    recipe: RecipeOption = "small",
    config: ConfigOption = None,
    adapter: AdapterOption = None,
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            help="`vllm`, `transformers`, or `auto`: vLLM where it is installed with a GPU.",
        ),
    ] = "auto",
    host: Annotated[str, typer.Option("--host", help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            envvar="QWENFT_API_KEY",
            help="Asked for as a bearer token; needed where others can reach the host.",
        ),
    ] = None,
) -> None:
    """Serve the adapter to any OpenAI client. Ctrl-C ends it.

    Examples: `qwenft serve`, `qwenft serve --adapter latest --port 9000`,
    `QWENFT_API_KEY=$(openssl rand -hex 16) qwenft serve --host 0.0.0.0`
    """
    settings = load(config)
    recipe_name = recipe_named(settings, recipe)
    _require_key(host, api_key)
    chosen = choose_engine(engine)
    _require_free_port(host, port)
    if chosen == "vllm":
        _serve_by_vllm(settings, recipe_name, adapter, host, port, api_key)
    else:
        _serve_by_transformers(settings, recipe_name, adapter, host, port, api_key)


def choose_engine(wanted: str) -> Literal["vllm", "transformers"]:
    """The server to start.

    Raises:
        ServeError: It is not installed, or no such engine is known.
    """
    from qwenft_assets.model.device import find_gpus

    has_vllm = shutil.which("vllm") is not None
    if wanted == "vllm" or (wanted == "auto" and has_vllm and find_gpus()):
        if not has_vllm:
            raise ServeError("--engine vllm: not installed. `pip install vllm`, or use auto.")
        return "vllm"
    if wanted not in {"auto", "transformers"}:
        raise ServeError(f"--engine {wanted}: no such engine. Use auto, vllm or transformers.")
    missing = [name for name in SERVER_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ServeError(
            f"`transformers serve` needs {', '.join(missing)}. `pip install 'qwenft[serve]'`."
        )
    return "transformers"


def served_name(recipe: RecipeName, version: str | None) -> str:
    """The model's name for clients; the same for every version, so that a release needs no change."""
    return f"qwenft-{recipe}" if version else "qwenft-base"


def _serve_by_transformers(
    config: Config,
    recipe: RecipeName,
    adapter: str | None,
    host: str,
    port: int,
    api_key: str | None,
) -> None:
    import uvicorn
    from transformers.utils import logging

    from qwenft_assets.inference.server import make_app

    # The server calls `generate`, which compiles nothing for a model that is merged.
    plain = config.model_copy(
        update={"decoding": config.decoding.model_copy(update={"compile": False})}
    )
    model = answering_models(plain, recipe, adapter).get(adapter)
    name = served_name(recipe, model.adapter_version)
    app = make_app(model, name, config.decoding, api_key)
    logging.set_verbosity_error()
    tell("loaded")
    _announce(name, model.adapter_version, host, port, needs_key=api_key is not None)
    uvicorn.run(app, host=host, port=port, log_level="warning")


def _serve_by_vllm(
    config: Config,
    recipe: RecipeName,
    adapter: str | None,
    host: str,
    port: int,
    api_key: str | None,
) -> None:
    from qwenft_assets.inference.load import require_same_base, resolve_adapter
    from qwenft_assets.model.base import fetch_base_model, find_base_model

    storage = storage_of(config)
    version = resolve_adapter(storage, recipe, adapter)
    base = find_base_model(config.training, storage)
    if version is not None:
        require_same_base(storage, recipe, version, base)
    base_folder = fetch_base_model(base, storage)
    command = vllm_command(config, recipe, version, base_folder, storage, host, port)
    name = served_name(recipe, version)
    _announce(name, version, host, port, needs_key=api_key is not None)
    print(shlex.join(command), file=sys.stderr, flush=True)
    # The key goes by the environment: a command line is there for everybody on the host to read.
    key = {"VLLM_API_KEY": api_key} if api_key else {}
    os.execvpe(command[0], command, {**os.environ, **key})  # noqa: S606


def vllm_command(
    config: Config,
    recipe: RecipeName,
    version: str | None,
    base_folder: Path,
    storage: "Storage",
    host: str,
    port: int,
) -> list[str]:
    """The command that starts vLLM on the base model with the adapter.

    vLLM has no counterpart of `no_repeat_ngram_size`: its answers may repeat where ours do not.
    """
    from qwenft_assets.text.chatml import CHAT_TEMPLATE

    decoding = config.decoding
    defaults: dict[str, Any] = {
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
        "repetition_penalty": decoding.repetition_penalty,
        "max_new_tokens": decoding.max_new_tokens,
    }
    command = ["vllm", "serve", str(base_folder), "--host", host, "--port", str(port)]
    command += ["--served-model-name", served_name(recipe, None)]
    command += ["--max-model-len", str(decoding.window_tokens), "--chat-template", CHAT_TEMPLATE]
    command += ["--override-generation-config", json.dumps(defaults)]
    if config.training.weights == "nf4":
        command += ["--quantization", "bitsandbytes"]
    if version is not None:
        rank = config.training.lora.rank
        adapter = f"{served_name(recipe, version)}={storage.adapter(recipe, version)}"
        command += ["--enable-lora", "--max-lora-rank", str(_lora_rank_of_vllm(rank))]
        command += ["--lora-modules", adapter]
    return command


def _lora_rank_of_vllm(rank: int) -> int:
    """The least of the ranks that vLLM takes that holds ours."""
    return next((taken for taken in (8, 16, 32, 64, 128, 256, 320, 512) if taken >= rank), rank)


def _announce(name: str, version: str | None, host: str, port: int, *, needs_key: bool) -> None:
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
    key = ' -H "Authorization: Bearer $QWENFT_API_KEY"' if needs_key else ""
    body = json.dumps({"model": name, "messages": [{"role": "user", "content": "Hello"}]})
    print(f"{name} ({version or 'the base model'}) at {url}")
    print(f"curl {url}/chat/completions -H 'Content-Type: application/json'{key} -d '{body}'")
    sys.stdout.flush()


def _require_key(host: str, api_key: str | None) -> None:
    if api_key is not None and not api_key.strip():
        raise ServeError("--api-key: is empty. Give a key, or leave it out on 127.0.0.1.")
    if host not in LOOPBACK and not api_key:
        raise ServeError(
            f"--host {host}: others can reach it, so an API key is needed. Set QWENFT_API_KEY, or "
            "listen at 127.0.0.1."
        )


def _require_free_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServeError(
                f"{host}:{port}: cannot listen there ({error.strerror}). Choose another --port."
            ) from error
