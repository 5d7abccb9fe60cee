"""Where relative paths are read from, and where what comes with the project lies.

In a checkout both are its root. An installed wheel carries configs, samples and the instance's
settings inside the package, and reads relative paths from QWENFT_HOME, else from the folder it was
started in.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

CODE_ROOT = Path(__file__).resolve().parent.parent.parent
"""The folder that holds the package."""
IN_CHECKOUT = (CODE_ROOT / "pyproject.toml").is_file()
if not IN_CHECKOUT:
    # For child processes too, which may start in another folder.
    os.environ.setdefault("QWENFT_HOME", str(Path.cwd()))
PROJECT_ROOT = CODE_ROOT if IN_CHECKOUT else Path(os.environ["QWENFT_HOME"]).expanduser().absolute()
SHIPPED_ROOT = CODE_ROOT if IN_CHECKOUT else CODE_ROOT / "qwenft_assets" / "shipped"


def stage_folder(url: str, stage_root: str | None = None) -> Path:
    """This machine's copy of the remote root at a URL: `stage_root`, else a folder named after the URL."""
    default = f"data/stage/{hashlib.sha256(url.encode()).hexdigest()[:16]}"
    return PROJECT_ROOT / Path(stage_root or default).expanduser()


def shipped(path: str) -> Path:
    """A file that comes with the project, by its path in the repository."""
    return SHIPPED_ROOT / path


def own_or_shipped(path: str | Path) -> Path:
    """The user's file at a path, or the one that comes with the project where the user has none."""
    own = PROJECT_ROOT / Path(path).expanduser()
    came_along = SHIPPED_ROOT / path
    return came_along if came_along.exists() and not own.exists() else own
