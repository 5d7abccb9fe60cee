"""The `qwenft` command. Each command lives in a file of its own and imports what it needs late."""

import importlib.metadata
import sys
import warnings
from typing import Annotated

import click
import typer
from rich.console import Console

from qwenft_assets.cli.chat import chat
from qwenft_assets.cli.config import config
from qwenft_assets.cli.doctor import doctor
from qwenft_assets.cli.infer import infer
from qwenft_assets.cli.plan import plan
from qwenft_assets.cli.publish import publish, verify
from qwenft_assets.cli.releases import releases
from qwenft_assets.cli.run import demo, run, sample
from qwenft_assets.cli.serve import serve
from qwenft_assets.cli.status import status
from qwenft_assets.cli.ui import ui
from qwenft_assets.errors import QwenftError

EXIT_USER_ERROR = 2
MANUAL = """\
Several text sources in, a measured LoRA adapter out: rebuilt unattended, released only if better.

Sources are sampled, mixed, trained on, measured against the base model and the last release, and what is
better is released. Each step is an asset of one Dagster graph; what has not changed is not done again.

- `qwenft demo` walks the whole path in minutes, on bundled samples and a CPU; `qwenft ui` shows it
- `qwenft doctor --config configs/qwen2.5-7b.yaml`: can this machine run it?
- `qwenft plan --recipe large --config configs/qwen2.5-7b.yaml`: steps, memory, disk, hours
- `qwenft run --recipe small --config configs/qwen2.5-7b.yaml` trains Qwen2.5-7B
- `qwenft infer "What does an LDO do?"` asks the champion; `qwenft chat` talks to it
"""
EPILOG = """\
- **Environment**: `QWENFT_CONFIG` the config file, `QWENFT_STORAGE` where artifacts go,
`QWENFT_SOURCES_ORIGIN` samples, hub or a folder, `DAGSTER_HOME` the instance; `HF_TOKEN`,
`GITHUB_TOKEN`, `QWENFT_API_KEY`, `QWENFT_WEBHOOK_URL` secrets, which stand in no file.

- **Exit codes**: 0 done, 1 a bug or a closed pipe, 2 a mistake that one line explains, 3 the release gate
said no, 130 interrupted.

- **Completion** of commands, options and names: `qwenft --install-completion`, then a new shell.
"""
PANELS = {
    "Begin": (demo, doctor, plan, config, ui),
    "Build": (run, sample, status),
    "Ask": (infer, chat, serve),
    "Share": (publish, verify),
}

app = typer.Typer(
    help=MANUAL,
    epilog=EPILOG,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(releases, name="releases", rich_help_panel="Share")


@app.callback(invoke_without_command=True)
def show_manual(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Print the version, or the manual where no command is given."""
    if version:
        print(f"qwenft {importlib.metadata.version('qwenft')}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


def main() -> None:
    """Run a command; a mistake the user can mend is one line and exit code 2."""
    # Announcements of Dagster APIs in beta: for this project's developers, not for its users.
    warnings.filterwarnings("ignore", module=r"dagster\b")
    warnings.filterwarnings("ignore", message=".* is currently in beta")
    try:
        code = app(prog_name="qwenft", standalone_mode=False)
    except QwenftError as error:
        _complain(str(error))
        code = EXIT_USER_ERROR
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = EXIT_USER_ERROR
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "qwenft"
        problem = " ".join(error.format_message().split()).rstrip(".")
        _complain(
            f"{problem[0].lower()}{problem[1:]}. `{command} --help` shows what may stand there."
        )
        code = EXIT_USER_ERROR
    except click.Abort:
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True, markup=False).print(f"qwenft: {message}")
