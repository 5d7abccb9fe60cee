"""The `qwenft` command. Each command lives in a file of its own and imports what it needs late."""

import sys
import warnings

import typer
from rich.console import Console

from qwenft_assets.cli.chat import chat
from qwenft_assets.cli.config import config
from qwenft_assets.cli.doctor import doctor
from qwenft_assets.cli.infer import infer
from qwenft_assets.cli.plan import plan
from qwenft_assets.cli.publish import publish
from qwenft_assets.cli.releases import releases
from qwenft_assets.cli.run import demo, run, sample
from qwenft_assets.cli.serve import serve
from qwenft_assets.cli.status import status
from qwenft_assets.cli.ui import ui
from qwenft_assets.cli.verify import verify
from qwenft_assets.errors import QwenftError

EXIT_USER_ERROR = 2

app = typer.Typer(
    help="Several text sources in, a measured LoRA adapter out: rebuilt unattended, released only "
    "if it is better.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for command in (
    demo,
    run,
    plan,
    sample,
    infer,
    chat,
    serve,
    publish,
    verify,
    doctor,
    status,
    config,
    ui,
):
    app.command()(command)
app.add_typer(releases, name="releases")


def main() -> None:
    """Run a command; a mistake the user can mend is one line and exit code 2."""
    # Announcements of Dagster APIs in beta: for this project's developers, not for its users.
    warnings.filterwarnings("ignore", module=r"dagster\b")
    warnings.filterwarnings("ignore", message=".* is currently in beta")
    try:
        app()
    except QwenftError as error:
        Console(stderr=True, highlight=False, soft_wrap=True, markup=False).print(
            f"qwenft: {error}"
        )
        sys.exit(EXIT_USER_ERROR)
