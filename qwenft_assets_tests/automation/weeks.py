"""A deployment on a loopback Hub that a daemon rebuilds week by week, and what became of it."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.scheduler.instigation import TickStatus

from qwenft_assets.automation.jobs import job_of, partitions_of
from qwenft_assets.storage.files import read_json
from qwenft_assets_tests.commands import Deployment, make_deployment
from qwenft_assets_tests.loopback_hub import LoopbackHub

FINISHED = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE}
AUTOMATION = """
automation:
  switched_on: [rebuild_small, local_reports_changed]
  reports_interval_seconds: 5
  follow_interval_seconds: 1
"""
SLIMORCA = Path("Open-Orca/SlimOrca/oo-labeled_correct.gpt4.sharegpt.jsonl")


def make_unattended(folder: Path, base_model: Path, reports: Path) -> Deployment:
    """A deployment with the weekly schedule and the reports sensor switched on."""
    deployment = make_deployment(folder, base_model, reports)
    with deployment.config.open("a", encoding="utf-8") as config:
        config.write(AUTOMATION)
    # Two processes that make the instance's tables at the same time spoil them.
    with dg.DagsterInstance.from_config(deployment.environment()["DAGSTER_HOME"]) as instance:
        assert instance.get_runs() == []
        assert instance.get_asset_keys() == []
        assert instance.all_instigator_state() == []
    return deployment


def environment_on(hub: LoopbackHub, deployment: Deployment) -> dict[str, str]:
    """Of processes of the deployment that take their sources from the loopback Hub."""
    return {
        **deployment.environment(),
        **{k: v for k, v in hub.environment(deployment.folder / "hub").items() if k[:3] == "HF_"},
        "QWENFT_SOURCES_ORIGIN": "hub",
    }


def next_monday_at_three(after: datetime) -> datetime:
    """The weekly schedule's next tick."""
    days = (7 - after.weekday()) % 7
    monday = (after + timedelta(days=days)).replace(hour=3, minute=0, second=0, microsecond=0)
    return monday if monday > after else monday + timedelta(days=7)


def add_rows(file: Path, about: str, rows: int = 40) -> None:
    """More SlimOrca conversations, some of which a mixture takes: a new commit of that repository."""
    with file.open("a", encoding="utf-8") as lines:
        for number in range(rows):
            question = f"What is known of {about}, case {number}?"
            answer = f"Of {about} in case {number} {number * 7} observations are known."
            turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
            lines.write(json.dumps({"conversations": turns}) + "\n")


def edit_reports(file: Path) -> None:
    """Another answer to each of the user's own questions."""
    rows = json.loads(file.read_text(encoding="utf-8"))
    edited = [{**row, "output": f"{row['output']} Measured again in week four."} for row in rows]
    file.write_text(json.dumps(edited), encoding="utf-8")


def ticks(instance: dg.DagsterInstance, name: str) -> list[Any]:
    """The ticks of a schedule or sensor that have ended, the oldest first."""
    found = [
        tick
        for state in instance.all_instigator_state()
        if state.instigator_name == name
        for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id)
    ]
    return [tick for tick in found[::-1] if tick.status != TickStatus.STARTED]


def is_known(instance: dg.DagsterInstance, name: str) -> bool:
    """Whether the daemon has looked at a schedule or sensor yet."""
    return any(state.instigator_name == name for state in instance.all_instigator_state())


def runs(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """All runs, the oldest first."""
    return list(instance.get_runs())[::-1]


def is_quiet(instance: dg.DagsterInstance, finished_runs: int) -> bool:
    """Whether so many runs have finished and none is under way."""
    found = runs(instance)
    return len(found) >= finished_runs and all(run.status in FINISHED for run in found)


def table(rows: list[tuple[str, dg.DagsterRun]]) -> str:
    """The runs as a table: week, what started it, what ran, why, what changed, what it bought."""
    lines = []
    for week, run in rows:
        tags = run.tags
        story = [f"why: {tags['qwenft/why']}"] if "qwenft/why" in tags else []
        story += [
            f"{name.replace('_', ' ')}: {tags[f'qwenft/{name}']}"
            for name in ("what_changed", "what_it_bought")
            if f"qwenft/{name}" in tags
        ]
        started_by = tags.get("dagster/schedule_name") or tags.get("dagster/sensor_name") or ""
        what = f"{job_of(run):<13}{partitions_of(run):<24}"
        lines.append(f"{week:<7}{started_by:<22}{what}{run.status.value}")
        lines += [f"{'':<7}  {line}" for line in story]
    return "\n".join(lines)


def champion_of(deployment: Deployment) -> str | None:
    """The version that serves."""
    champion = read_json(deployment.storage / "release" / "small" / "champion.json")
    return champion["version"] if champion else None


def utc_now() -> datetime:
    return datetime.now(tz=UTC)
