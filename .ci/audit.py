"""What is installed in a virtual environment: its parts, their licences, their known holes.

    build/tools/bin/python .ci/audit.py .venv

Writes sbom.json (CycloneDX), licences.md and vulnerabilities.json to build/audit. Ends with 1 for a
licence that does not go with Apache-2.0, or a known hole. Holes are looked up in a database on the
network; what could not be looked up is counted and named, never taken for sound.
"""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

TOOLS = Path(sys.executable).parent
OUT = Path("build/audit")
REFUSED = re.compile(r"AGPL|Affero|SSPL|Commons Clause|(?<!L)\bGPL|(?<!Lesser )General Public")
"""Libraries under the LGPL are used unchanged, and only by tests and the extra `postgres`."""


def main(venv: Path) -> int:
    """Write the three reports; 1 where something must be mended."""
    OUT.mkdir(parents=True, exist_ok=True)
    python = venv.absolute() / "bin" / "python"
    sbom = OUT / "sbom.json"
    run("cyclonedx-py", "environment", "--pyproject", "pyproject.toml", "--output-reproducible",
        "-o", sbom, python)  # fmt: skip
    print(f"SBOM: {len(json.loads(sbom.read_text())['components'])} components in {sbom}")
    refused = licences(json.loads(run("pip-licenses", f"--python={python}", "--format=json")))
    holes = vulnerabilities(python)
    for problem in (*refused, *holes):
        print(f"mend: {problem}", file=sys.stderr)
    return 1 if refused or holes else 0


def licences(packages: list[dict[str, str]]) -> list[str]:
    """Write them as a table; returns those that do not go with ours."""
    # Some packages give the whole text for a name.
    short = {p["Name"]: p["License"].strip().splitlines()[0].strip()[:60] for p in packages}
    lines = ["| package | version | licence |", "|---|---|---|"]
    lines += [f"| {p['Name']} | {p['Version']} | {short[p['Name']]} |" for p in packages]
    report = OUT / "licences.md"
    report.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"licences: {len(packages)} packages in {report}")
    for name, count in Counter(short.values()).most_common():
        print(f"  {count:4} {name}")
    return [f"{p['Name']} {p['Version']} is under {short[p['Name']]}"
            for p in packages if REFUSED.search(short[p["Name"]])]  # fmt: skip


def vulnerabilities(python: Path) -> list[str]:
    """Ask for known holes; returns them, and says what could not be asked."""
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    report = OUT / "vulnerabilities.json"
    asked = subprocess.run(
        [TOOLS / "pip-audit", "--path", site, "--skip-editable", "--progress-spinner", "off",
         "--format", "json", "--output", report],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if asked.returncode and not report.exists():
        last = (asked.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"known holes: NOT CHECKED, their database cannot be reached ({last})")
        return []
    found: list[dict[str, Any]] = json.loads(report.read_text())["dependencies"]
    packages = [p for p in found if p["name"] != "qwenft"]
    skipped = [p["name"] for p in packages if "skip_reason" in p]
    print(
        f"known holes: {len(packages) - len(skipped)} of {len(packages)} packages looked up; {report}"
    )
    if skipped:
        print(
            f"  NOT CHECKED: {len(skipped)} that the index has no advisories for, {skipped[0]} first"
        )
    return [
        f"{p['name']} {p['version']}: {hole['id']}, mended in {', '.join(hole['fix_versions']) or '-'}"
        for p in packages
        for hole in p.get("vulns", ())
    ]


def run(tool: str, *arguments: object) -> str:
    """The standard output of one of the tools."""
    command = [str(TOOLS / tool), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
