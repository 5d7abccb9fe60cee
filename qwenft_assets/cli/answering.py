"""What `infer`, `chat` and `serve` share: decoding options, the models, text from standard input."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from qwenft_assets.cli.options import storage_of
from qwenft_assets.config import Config, RecipeName
from qwenft_assets.errors import PromptError

if TYPE_CHECKING:
    from qwenft_assets.inference.load import AnsweringModels

PANEL = "Decoding (else as in the config)"
MaxNewTokensOption = Annotated[
    int | None, typer.Option("--max-new-tokens", help="Longest answer.", rich_help_panel=PANEL)
]
TemperatureOption = Annotated[
    float | None, typer.Option("--temperature", help="0 is greedy.", rich_help_panel=PANEL)
]
TopPOption = Annotated[
    float | None, typer.Option("--top-p", help="Nucleus sampling.", rich_help_panel=PANEL)
]
RepetitionPenaltyOption = Annotated[
    float | None,
    typer.Option("--repetition-penalty", help="1 is none.", rich_help_panel=PANEL),
]
NoRepeatNgramSizeOption = Annotated[
    int | None,
    typer.Option("--no-repeat-ngram-size", help="0 allows repeats.", rich_help_panel=PANEL),
]
WindowTokensOption = Annotated[
    int | None,
    typer.Option("--window-tokens", help="Prompt and answer together.", rich_help_panel=PANEL),
]
CompileOption = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile",
        help="On a GPU: merge the adapter and compile the decode step.",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", help="The same answer each time.", rich_help_panel=PANEL)
]


def with_decoding(config: Config, **given: float | bool | None) -> Config:
    """The config with the decoding settings that were given on the command line.

    Raises:
        PromptError: A setting cannot have that value.
    """
    from qwenft_assets.inference.conversation import changed_decoding

    changes = {name: value for name, value in given.items() if value is not None}
    return config.model_copy(update={"decoding": changed_decoding(config.decoding, changes)})


def answering_models(config: Config, recipe: RecipeName, adapter: str | None) -> "AnsweringModels":
    """The models of this deployment on this machine's device.

    Raises:
        AdapterError: There is no such adapter; said before anything heavy is loaded.
    """
    from qwenft_assets.inference.load import AnsweringModels, resolve_adapter
    from qwenft_assets.model.device import find_gpus, resolve_device
    from qwenft_assets.training.train import silence_libraries

    storage = storage_of(config)
    resolve_adapter(storage, recipe, adapter)
    device = resolve_device(config.training, config.training.device, find_gpus())
    silence_libraries()
    return AnsweringModels(config, storage, recipe, device, tell)


def tell(line: str) -> None:
    """A line about a step that lasts, where someone watches."""
    if sys.stderr.isatty():
        print(f"  {line}", file=sys.stderr, flush=True)


def decoded_input(content: bytes, line_number: int | None = None) -> str:
    """Text that came on standard input.

    Raises:
        PromptError: It is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = f"line {line_number}, " if line_number else ""
        raise PromptError(
            f"standard input: {place}byte {error.start} is not UTF-8. Convert it, as with `iconv -t "
            "utf-8`."
        ) from error
