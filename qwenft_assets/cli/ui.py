"""`qwenft ui`: Dagster's web UI with the daemon, on this project's instance."""

import os
import signal
import sys
from typing import Annotated

import typer

from qwenft_assets.cli.options import ConfigOption, load, use_dagster_home
from qwenft_assets.config import PROJECT_ROOT, shipped


def ui(
    config: ConfigOption = None,
    port: Annotated[int, typer.Option("--port", help="On 127.0.0.1.")] = 3000,
) -> None:
    """Open the web UI: lineage, runs, plots, Materialize. Ctrl-C ends it.

    Example: `qwenft ui --port 3000`
    """
    load(config)
    use_dagster_home()
    os.chdir(PROJECT_ROOT)
    command = [
        sys.executable,
        "-m",
        "dagster",
        "dev",
        "--workspace",
        str(shipped("workspace.yaml")),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    # Dagster does with SIGTERM what is done with SIGINT, which a script's background job ignores: a UI
    # started by `nohup qwenft ui &` would be deaf to both.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    print(f"http://127.0.0.1:{port}", flush=True)
    os.execve(command[0], command, {"PYTHONWARNINGS": "ignore", **os.environ})  # noqa: S606
