"""`qwenft infer`: one question, one streamed answer."""

from typing import TYPE_CHECKING, Annotated

import typer

from qwenft_assets.cli.options import (
    AdapterOption,
    ConfigOption,
    RecipeOption,
    load,
    recipe_named,
    storage_of,
)
from qwenft_assets.config import Config, RecipeName

if TYPE_CHECKING:
    from qwenft_assets.inference.load import LoadedModel

MaxNewTokensOption = Annotated[
    int | None, typer.Option("--max-new-tokens", min=1, help="Else the config's.")
]
TemperatureOption = Annotated[
    float | None, typer.Option("--temperature", min=0, help="0 is greedy. Else the config's.")
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="The same answer each time.")]


def infer(
    text: Annotated[str, typer.Argument(help="What to ask.")],
    recipe: RecipeOption = "small",
    config: ConfigOption = None,
    adapter: AdapterOption = None,
    supplement: Annotated[
        str, typer.Option("--input", help="Supplementary information, as in a training row.")
    ] = "",
    system: Annotated[str | None, typer.Option("--system", help="Another system prompt.")] = None,
    max_new_tokens: MaxNewTokensOption = None,
    temperature: TemperatureOption = None,
    seed: SeedOption = None,
) -> None:
    """Ask the adapter one question; the answer streams to standard output.

    Examples: `qwenft infer "What does a low-dropout regulator do?"`, `qwenft infer "Summarise" --input
    "$(cat report.txt)" --adapter none`
    """
    settings = with_decoding(load(config), max_new_tokens, temperature, seed)
    loaded = load_answering_model(settings, recipe_named(settings, recipe), adapter)

    from qwenft_assets.inference.generate import stream_answer
    from qwenft_assets.text.chatml import render_prompt

    prompt = render_prompt(text, supplement, system)
    for piece in stream_answer(loaded.model, loaded.tokenizer, prompt, settings.decoding):
        print(piece, end="", flush=True)
    print()


def with_decoding(
    config: Config, max_new_tokens: int | None, temperature: float | None, seed: int | None
) -> Config:
    """The config with the decoding settings that were given on the command line."""
    given = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    changed = {name: value for name, value in given.items() if value is not None}
    return config.model_copy(update={"decoding": config.decoding.model_copy(update=changed)})


def load_answering_model(config: Config, recipe: RecipeName, adapter: str | None) -> "LoadedModel":
    """The model that `--adapter` means, on this machine's device.

    Raises:
        AdapterError: There is no such adapter; said before anything heavy is loaded.
    """
    from qwenft_assets.inference.load import load_model, resolve_adapter
    from qwenft_assets.training.base_model import find_base_model
    from qwenft_assets.training.device import find_gpus, resolve_device
    from qwenft_assets.training.train import silence_libraries

    storage = storage_of(config)
    version = resolve_adapter(storage, recipe, adapter)
    base = find_base_model(config.training, storage)
    device = resolve_device(config.training, config.training.device, find_gpus())
    silence_libraries()
    return load_model(storage, recipe, version, base, config.training, device.type)
