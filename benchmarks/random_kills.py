"""Kills stages at seeded random moments, and counts how many recover.

    python benchmarks/random_kills.py [--kills 100] [--seed 1]

Source, mixture, training, evaluation and release of a tiny model on the bundled samples, each in a
process of its own that gets `kill -9`; half of them replace an older artifact. Recovered: nothing that
is there is torn, and the same stage run again leaves what an undisturbed run leaves, byte for byte but
for times. Ends with 1 where one does not.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))


def main() -> None:
    """Kill, recover, count, print."""
    from qwenft_assets_tests.faults.random_kills import random_kills
    from qwenft_assets_tests.faults.tiny_training import tiny_config
    from qwenft_assets_tests.tiny_model import write_tiny_model

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    killed, recovered = Counter[str](), Counter[str]()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tiny_model(folder / "base")
        config = tiny_config(folder / "base")
        outcomes = random_kills(config, folder / "work", options.kills, options.seed)
        for number, outcome in enumerate(outcomes, 1):
            killed[outcome.stage] += 1
            recovered[outcome.stage] += not outcome.problems
            print(
                f"{number}/{options.kills} {outcome.stage} killed after {outcome.after_seconds} s"
            )
            for problem in outcome.problems:
                print(f"  {problem}")
            sys.stdout.flush()
    print(f"\n{'stage':<16}{'killed':>8}{'recovered':>11}")
    for stage, count in killed.items():
        print(f"{stage:<16}{count:>8}{recovered[stage]:>11}")
    print(f"{'all':<16}{killed.total():>8}{recovered.total():>11}")
    print(f"{time.monotonic() - started:.0f} s")
    sys.exit(killed.total() != recovered.total())


if __name__ == "__main__":
    main()
