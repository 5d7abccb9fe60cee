"""Do the tests notice when a line of the pure packages is changed?

    python benchmarks/mutants.py [--mutants 80] [--seed 1] [--packages mixture evaluation text release]

Draws places by seed, the same number for each package, and at each of them one mutant of cosmic-ray
(another operator, number, condition, ...) that compiles; it is put into a copy of the project and meets
the tests of its module only. Prints the table of RESULTS.md, and every survivor as a diff. What cannot
show is left alone: annotations, arguments of decorators (`frozen=True`), and modules that draw pictures,
whose numbers are sizes on paper.
"""

import argparse
import ast
import difflib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parent.parent
TOOLS = PROJECT_ROOT / "build" / "tools" / "bin" / "python"
PYTHON = PROJECT_ROOT / ".venv" / "bin" / "python"
COPIED = ("qwenft_assets", "qwenft_assets_tests", "configs", "data/samples", "data/my_dataset.json",
          "pyproject.toml", "dagster_home/dagster.yaml")  # fmt: skip
TESTS = {
    "mixture/diff": "mixture/test_diff.py mixture/test_leakage.py",
    "mixture/manifest": "mixture/test_build.py mixture/test_quotas.py",
    "mixture/selection": "mixture/test_build.py mixture/test_leakage.py mixture/test_lengths.py",
    "mixture/split": "mixture/test_split.py mixture/test_leakage.py",
    "mixture/verification": "mixture/test_leakage.py mixture/test_build.py assets/test_mixture_checks.py",
    "evaluation/evaluate": "evaluation/test_evaluate.py evaluation/test_champion.py",
    "evaluation/report": "evaluation/test_report.py evaluation/test_pictures.py",
    "evaluation/models": "evaluation/test_models.py evaluation/test_champion.py",
    "evaluation/worker": "evaluation/test_models.py",
    "evaluation/job": "evaluation/test_job.py evaluation/test_evaluate.py evaluation/test_models.py",
    "evaluation/losses": "evaluation/test_losses.py evaluation/test_independent_loss.py "
    "evaluation/test_champion.py faults/test_out_of_memory.py",
    "text/keywords": "text/test_keywords.py text/test_shipped_keywords.py",
    "release/history": "release/test_registry.py release/test_moves.py",
    "release/registry": "release/test_registry.py release/test_moves.py",
}
"""Where the tests of a module are not `test_<module>.py` in its package's folder, or not there alone."""
LEFT_OUT = {"evaluation/benchmarks", "release/perplexity_plot"}
"""lm-eval needs an extra; the other draws."""


@dataclass(frozen=True)
class Mutant:
    """One change of one file."""

    path: str
    operator: str
    occurrence: int
    line: int
    column: int


def main() -> None:
    """Draw, change, test, count."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--mutants", type=int, default=80)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--packages", nargs="+", default=["mixture", "evaluation", "text", "release"]
    )
    options = parser.parse_args()
    chosen = {
        package: draw(package, options.mutants // len(options.packages), options.seed)
        for package in options.packages
    }
    counts = {package: Counter[str]() for package in chosen}
    with tempfile.TemporaryDirectory() as folder:
        copy = copy_project(Path(folder))
        seconds: dict[str, float] = {}
        for package, (mutants, _) in chosen.items():
            for mutant in mutants:
                outcome, diff = judge(mutant, copy, seconds)
                counts[package][outcome] += 1
                print(f"{outcome:9} {mutant.path}:{mutant.line} {mutant.operator}", flush=True)
                if outcome == "survived":
                    print(diff, flush=True)
    print("| package | places | drawn | killed | share |\n|---|---|---|---|---|")
    rows = [(name, chosen[name][1], sum(c.values()), c["killed"]) for name, c in counts.items()]
    rows.append(("all", *(sum(row[n] for row in rows) for n in (1, 2, 3))))
    for name, possible, drawn, killed in rows:
        print(f"| `{name}/` | {possible:,} | {drawn} | {killed} | {killed / max(drawn, 1):.0%} |")


def draw(package: str, count: int, seed: int) -> tuple[list[Mutant], int]:
    """Mutants of a package by seed, and in how many places there could be one."""
    folder = PROJECT_ROOT / "qwenft_assets" / package
    paths = [path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]
    possible = [
        mutant
        for path in paths
        if f"{package}/{path.stem}" not in LEFT_OUT
        for mutant in mutants_of(path)
    ]
    # A place with a division has a dozen mutants, one with a number two: so places are drawn.
    places: dict[tuple[str, int, int], list[Mutant]] = {}
    for mutant in possible:
        places.setdefault((mutant.path, mutant.line, mutant.column), []).append(mutant)
    rng = random.Random(f"{seed}:{package}")
    drawn: list[Mutant] = []
    for place in rng.sample(list(places), len(places)):
        mutant = rng.choice(places[place])
        if len(drawn) < count and compiles(mutant):
            drawn.append(mutant)
    return drawn, len(places)


def compiles(mutant: Mutant) -> bool:
    """Whether the mutant compiles: a star in a signature is not a multiplication."""
    try:
        compile(
            changed(mutant, (PROJECT_ROOT / mutant.path).read_text("utf-8")), mutant.path, "exec"
        )
    except (SyntaxError, TypeError):
        return False
    return True


def changed(mutant: Mutant, text: str) -> str:
    """The text of the file with the mutant in it."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    return mutate_code(text, get_operator(mutant.operator)(), mutant.occurrence)


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Every change that cosmic-ray knows for a file."""
    from cosmic_ray.ast import ast_nodes, get_ast_from_path
    from cosmic_ray.plugins import get_operator, operator_names

    tree = get_ast_from_path(path)
    spans = left_alone(path)
    name = path.relative_to(PROJECT_ROOT).as_posix()
    for operator_name in sorted(operator_names()):
        kind = get_operator(operator_name)
        if kind.arguments():
            continue
        positions = (
            start for node in ast_nodes(tree) for start, _ in kind().mutation_positions(node)
        )
        for occurrence, (line, column) in enumerate(positions):
            if not any(first <= (line, column) < last for first, last in spans):
                yield Mutant(name, operator_name, occurrence, line, column)


def left_alone(path: Path) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """From where to where annotations and decorators stand: line from 1, column from 0."""
    spans = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        decorators = getattr(node, "decorator_list", [])
        for said in (
            getattr(node, "annotation", None),
            getattr(node, "returns", None),
            *decorators,
        ):
            if isinstance(said, ast.expr):
                end = (said.end_lineno or said.lineno, said.end_col_offset or said.col_offset)
                spans.append(((said.lineno, said.col_offset), end))
    return spans


def copy_project(folder: Path) -> Path:
    """A copy of the files that the tests need."""
    for name in COPIED:
        source, target = PROJECT_ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return folder


def judge(mutant: Mutant, copy: Path, seconds: dict[str, float]) -> tuple[str, str]:
    """Whether the tests of its module notice a mutant: killed or survived, and its diff."""
    file = copy / mutant.path
    original = file.read_text(encoding="utf-8")
    if mutant.path not in seconds:
        started = time.monotonic()
        if not passes(mutant.path, copy, 600):
            raise SystemExit(f"{mutant.path}: its tests fail without any change. Mend them first.")
        seconds[mutant.path] = time.monotonic() - started
    mutated = changed(mutant, original)
    file.write_text(mutated, encoding="utf-8")
    try:
        survived = passes(mutant.path, copy, 10 + 5 * seconds[mutant.path])
    finally:
        file.write_text(original, encoding="utf-8")
    lines = (text.splitlines() for text in (original, mutated))
    diff = "\n".join(difflib.unified_diff(*lines, mutant.path, "mutant", n=1, lineterm=""))
    return ("survived" if survived else "killed"), diff


def passes(path: str, copy: Path, timeout_seconds: float) -> bool:
    """Whether the tests of a module pass in the copy; those that do not end fail."""
    module = path.removeprefix("qwenft_assets/").removesuffix(".py")
    package, name = module.split("/", 1)
    tests = TESTS.get(module, f"{package}/test_{name}.py").split()
    command = [str(PYTHON), "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header"]
    command += [f"qwenft_assets_tests/{test}" for test in tests]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        command, cwd=copy, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        return process.wait(timeout_seconds) == 0
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
        return False


if __name__ == "__main__":
    try:
        import cosmic_ray  # noqa: F401
    except ImportError:  # it lives in an environment of its own
        subprocess.run([PROJECT_ROOT / ".ci" / "tools"], check=True)
        os.execv(TOOLS, [str(TOOLS), *sys.argv])  # noqa: S606
    main()
