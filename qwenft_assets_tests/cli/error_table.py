"""Every place in the package that raises a mistake of the user's, with its message as written."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import qwenft_assets
from qwenft_assets import errors

PACKAGE = Path(qwenft_assets.__file__).parent
KINDS = {kind.__name__ for kind in errors.QwenftError.__subclasses__()} | {"QwenftError"}


class Raised(NamedTuple):
    """One `raise`; what is filled in at run time stands in braces."""

    place: str
    kind: str
    message: str


def raised_errors() -> list[Raised]:
    """All of them, by file and line."""
    return [found for path in sorted(PACKAGE.rglob("*.py")) for found in _in_file(path)]


def _in_file(path: Path) -> Iterator[Raised]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS:
            place = f"{path.relative_to(PACKAGE)}:{node.lineno}"
            yield Raised(place, node.func.id, _as_text(node.args[0]) if node.args else "")


def _as_text(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_as_text(part) for part in parts)
        case ast.FormattedValue(value=value):
            return "{" + ast.unparse(value) + "}"
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _as_text(left) + _as_text(right)
        case _:
            return "{" + ast.unparse(node) + "}"
