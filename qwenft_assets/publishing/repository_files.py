"""What a git repository of weights needs beside them."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from qwenft_assets.storage.files import write_text

WEIGHTS_PATTERNS = ("*.safetensors", "*.gguf", "*.bin", "*.pt", "*.ckpt")
LFS_PATTERNS = (*WEIGHTS_PATTERNS, "*.png", "tokenizer.json", "*.parquet", "*.jsonl")
MAX_PLAIN_BYTES = 100 * 2**20
"""GitHub refuses larger files outside Git LFS."""
ATTRIBUTES_FILE = ".gitattributes"
IGNORED_FILE = ".gitignore"
REQUIREMENTS_FILE = "requirements.txt"


def write_repository_files(folder: Path) -> tuple[Path, Path]:
    """Write `.gitattributes` for Git LFS and `.gitignore`, and return them."""
    attributes, ignored = folder / ATTRIBUTES_FILE, folder / IGNORED_FILE
    write_text(attributes, render_attributes(LFS_PATTERNS))
    patterns = ("__pycache__/", "*.py[cod]", ".venv/", ".env", "*.part", "checkpoint-*/")
    write_text(ignored, "\n".join(patterns) + "\n")
    return attributes, ignored


def render_attributes(patterns: Iterable[str]) -> str:
    """Lines of `.gitattributes` that hand files to Git LFS."""
    return "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in patterns)


def render_requirements(versions: Mapping[str, str]) -> str:
    """Exactly the versions that made it; a build's local label (`+cpu`) is nobody else's."""
    pins = (f"{name}=={version.partition('+')[0]}" for name, version in sorted(versions.items()))
    return "\n".join(pins) + "\n"
