"""What a git repository of weights needs beside them."""

from collections.abc import Mapping
from pathlib import Path

from qwenft_assets.storage import write_text

LFS_PATTERNS = (
    "*.safetensors",
    "*.gguf",
    "*.bin",
    "*.png",
    "tokenizer.json",
    "*.parquet",
    "*.jsonl",
)
MAX_PLAIN_BYTES = 100 * 2**20
"""GitHub refuses larger files outside Git LFS."""
REQUIREMENTS_FILE = "requirements.txt"


def write_repository_files(folder: Path) -> None:
    """`.gitattributes` for Git LFS and `.gitignore`."""
    attributes = [f"{pattern} filter=lfs diff=lfs merge=lfs -text" for pattern in LFS_PATTERNS]
    write_text(folder / ".gitattributes", "\n".join(attributes) + "\n")
    ignored = ("__pycache__/", "*.py[cod]", ".venv/", ".env", "*.part", "checkpoint-*/")
    write_text(folder / ".gitignore", "\n".join(ignored) + "\n")


def render_requirements(versions: Mapping[str, str]) -> str:
    """Exactly the versions that made it; a build's local label (`+cpu`) is nobody else's."""
    pins = (f"{name}=={version.partition('+')[0]}" for name, version in sorted(versions.items()))
    return "\n".join(pins) + "\n"
