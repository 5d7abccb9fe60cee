"""The tables of docs/scale.md, computed from the figures that benchmarks/RESULTS.md holds.

    .venv/bin/python benchmarks/scale_plan.py --write

The first table of docs/scale.md names each measured figure as RESULTS.md prints it, with its section.
Here it is looked for there, and the other tables are computed from it and written between the marks.
"""

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLAN, RESULTS = ROOT / "docs" / "scale.md", ROOT / "benchmarks" / "RESULTS.md"
MARK = re.compile(r"(<!-- computed -->\n)(.*?)(<!-- /computed -->)", re.DOTALL)
SCALES = (1, 10, 1_000, 100_000)
TRAIN_SHARE, EPOCHS = 0.9, 3
"""Defaults of the recipe: mixture.eval_fraction and training.epochs."""
SECONDS_AN_HOUR, HOURS_A_DAY, DAYS_A_YEAR = 3600, 24, 365
KIB_A_MIB, MANY = 1024, 10


def measured(plan: str, results: str) -> dict[str, float]:
    """The figures of the first table by their short name.

    Raises:
        SystemExit: One does not stand in the section of RESULTS.md that is named beside it.
    """
    sections = {
        block.partition("\n")[0].strip(): block for block in re.split(r"^## ", results, flags=re.M)
    }
    found: dict[str, float] = {}
    for name, figure, unit, section in re.findall(
        r"^\| `(\w+)` \| ([\d.,]+) \| ([^|]+?) \| ([^|]+?) \|$", plan, flags=re.M
    ):
        if not re.search(
            rf"(?<![\d.,]){re.escape(figure)}(?![\d]|[.,]\d)", sections.get(section, "")
        ):
            sys.exit(
                f"docs/scale.md: {name} {figure} {unit}: not in section {section!r} of RESULTS.md"
            )
        found[name] = float(figure.replace(",", ""))
    return found


def tables(rates: dict[str, float]) -> list[str]:
    """Each computed table, in the order of the marks."""
    scanned = rates["candidates"] / (rates["on_topic_percent"] / 100)
    kib_a_row = rates["scan_mib_a_second"] * KIB_A_MIB / rates["scan_rows_a_second"]
    tokens = rates["mixture_million_tokens"] * 1e6 * TRAIN_SHARE * EPOCHS
    held_out = rates["mixture_million_tokens"] * 1e6 * (1 - TRAIN_SHARE)
    cores = rates["mixture_cpu_seconds"] / rates["mixture_seconds"]
    sizes = [
        ("candidates", [count(rates["candidates"] * n) for n in SCALES]),
        ("questions scanned for them", [count(scanned * n) for n in SCALES]),
        ("parquet read", [size(scanned * n * kib_a_row) for n in SCALES]),
        ("rows mixed", [count(rates["mixture_rows"] * n) for n in SCALES]),
        ("tokens trained on", [count(tokens * n) for n in SCALES]),
    ]
    costs = [
        ("scan, one process", [time(scanned * n / rates["scan_rows_a_second"]) for n in SCALES]),
        (f"mixture ({cores:.1f} cores)", [time(rates["mixture_seconds"] * n) for n in SCALES]),
        ("mixture, memory", [size(rates["mixture_gib"] * KIB_A_MIB**2 * n) for n in SCALES]),
        (
            "training, the original recipe, one H200",
            [time(tokens * n / rates["train_tokens_a_second"]) for n in SCALES],
        ),
        (
            "training, the fast recipe, one H200",
            [time(tokens * n / rates["fast_tokens_a_second"]) for n in SCALES],
        ),
        ("training, GPU memory", [f"{rates['train_gib']:g} GiB"] * len(SCALES)),
        (
            "evaluation of all held-out rows, one H200",
            [time(held_out * n / rates["evaluated_tokens_a_second"]) for n in SCALES],
        ),
        (
            "H200s for a week of the fast recipe",
            [count(max(1.0, tokens * n / rates["fast_tokens_a_second"] / week())) for n in SCALES],
        ),
    ]
    return [table(rows) for rows in (sizes, costs)]


def table(rows: list[tuple[str, list[str]]]) -> str:
    """Rows by scale, as Markdown."""
    head = " | ".join(f"{n:,}×" for n in SCALES)
    lines = [f"| | {head} |", "|---" * (len(SCALES) + 1) + "|"]
    return (
        "\n".join([*lines, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows)]) + "\n"
    )


def week() -> float:
    """Seconds."""
    return 7 * HOURS_A_DAY * SECONDS_AN_HOUR


def count(number: float) -> str:
    """Two digits and a word."""
    for least, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if number >= least:
            return f"{float(f'{number / least:.2g}'):,g} {word}"
    return f"{round(number):,}" if number < MANY else f"{round(float(f'{number:.2g}')):,}"


def size(kib: float) -> str:
    """Two digits, in GiB and up."""
    for least, unit in ((1024**4, "PiB"), (1024**3, "TiB")):
        if kib >= least:
            return f"{float(f'{kib / least:.2g}'):,g} {unit}"
    return f"{float(f'{kib / 1024**2:.2g}'):,g} GiB"


def time(seconds: float) -> str:
    """Two digits, in the unit that a person would use."""
    units = (
        (DAYS_A_YEAR * HOURS_A_DAY * SECONDS_AN_HOUR, "years"),
        (2 * HOURS_A_DAY * SECONDS_AN_HOUR, "days"),
        (SECONDS_AN_HOUR, "h"),
    )
    for least, unit in units:
        if seconds >= least:
            one = HOURS_A_DAY * SECONDS_AN_HOUR if unit == "days" else least
            return f"{float(f'{seconds / one:.2g}'):,g} {unit}"
    return f"{float(f'{seconds / 60:.2g}'):g} min"


def computed(plan: str, results: str) -> str:
    """The plan with its tables as they follow from the measured figures."""
    filled = iter(tables(measured(plan, results)))
    return MARK.sub(lambda found: f"{found[1]}{next(filled)}{found[3]}", plan)


def main() -> None:
    """Compare, or write."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--write", action="store_true", help="Put the tables into docs/scale.md.")
    write = options.parse_args().write
    plan = PLAN.read_text(encoding="utf-8")
    wanted = computed(plan, RESULTS.read_text(encoding="utf-8"))
    if write:
        PLAN.write_text(wanted, encoding="utf-8")
    elif wanted != plan:
        sys.exit("docs/scale.md: other tables follow from RESULTS.md. Run this with --write.")
    print("docs/scale.md follows from benchmarks/RESULTS.md")


if __name__ == "__main__":
    main()
