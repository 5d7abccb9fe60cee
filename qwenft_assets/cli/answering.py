"""What `infer`, `chat` and `serve` share: decoding options, the models, text from standard input."""

import sys
from collections.abc import Callable, Mapping
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwenft_assets.cli.options import storage_of
from qwenft_assets.config import Config, RecipeName
from qwenft_assets.errors import PromptError

if TYPE_CHECKING:
    from qwenft_assets.inference.load import AnsweringModels

PANEL = "Decoding (else as in the config)"
Given = dict[str, float | bool | None]
"""Decoding settings by name; None for one that was not given on the command line."""


def _option(
    *names: str,
    help: str,  # noqa: A002  (typer's name)
    show_default: bool = True,
) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=PANEL, show_default=show_default)


DECODING_OPTIONS: Mapping[str, Any] = {
    "max_new_tokens": Annotated[int | None, _option("--max-new-tokens", help="Longest answer.")],
    "temperature": Annotated[float | None, _option("--temperature", help="0 is greedy.")],
    "top_p": Annotated[float | None, _option("--top-p", help="Nucleus sampling.")],
    "repetition_penalty": Annotated[
        float | None, _option("--repetition-penalty", help="1 is none.")
    ],
    "no_repeat_ngram_size": Annotated[
        int | None, _option("--no-repeat-ngram-size", help="0 allows repeats.")
    ],
    "window_tokens": Annotated[
        int | None, _option("--window-tokens", help="Prompt and answer together.")
    ],
    "compile": Annotated[
        bool | None,
        _option(
            "--compile/--no-compile",
            help="On a GPU: merge the adapter and compile the decode step.",
            show_default=False,
        ),
    ],
    "seed": Annotated[int | None, _option("--seed", help="The same answer each time.")],
}


def with_decoding_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each decoding setting, passed together as its argument `decoding`."""

    @wraps(command)
    def with_options(**arguments: Any) -> None:
        decoding = {name: arguments.pop(name) for name in DECODING_OPTIONS}
        command(**arguments, decoding=decoding)

    own = [p for p in signature(command).parameters.values() if p.name != "decoding"]
    options = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in DECODING_OPTIONS.items()
    ]
    # What typer reads.
    vars(with_options)["__signature__"] = Signature([*own, *options])
    with_options.__annotations__ = {p.name: p.annotation for p in [*own, *options]}
    return with_options


def with_decoding(config: Config, given: Given) -> Config:
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
