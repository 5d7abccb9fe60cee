"""Six weeks of a deployment that nobody looks after: a loopback Hub, a real daemon, real runs.

The calendar is moved to the schedule's next tick; all that follows happens by itself. The weeks are
lived once, and each test looks at one of them.
"""

import json
import re
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from qwenft_assets.automation.jobs import job_of, partitions_of
from qwenft_assets.config import PROJECT_ROOT
from qwenft_assets_tests.automation.daemon import Daemon, daemon
from qwenft_assets_tests.automation.weeks import (
    SLIMORCA,
    add_rows,
    champion_of,
    edit_reports,
    environment_on,
    is_known,
    is_quiet,
    make_unattended,
    next_monday_at_three,
    runs,
    table,
    ticks,
    utc_now,
)
from qwenft_assets_tests.loopback_hub import LoopbackHub, loopback_hub
from qwenft_assets_tests.loopback_server import Answer, LoopbackServer, Request, serving
from qwenft_assets_tests.tiny_model import write_tiny_model

CANARY = "hf_canaryCANARYcanary0123456789abcd"
HOOK_PATH = "T0HOOK/B1canaryofthewebhook"
REBUILT = [("sources_job", "SUCCESS"), ("finetune_job", "SUCCESS")]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


class Webhook(LoopbackServer):
    """Takes every notice."""

    def answer(self, request: Request) -> Answer:
        return Answer(200, {})


@dataclass
class Week:
    """What one week brought."""

    runs: list[dg.DagsterRun] = field(default_factory=list)
    tick: Any = None
    champion: str | None = None
    hub_requests: list[str] = field(default_factory=list)
    notices: list[dict[str, Any]] = field(default_factory=list)
    seconds_to_start: float = 0.0

    @property
    def jobs(self) -> list[tuple[str, str]]:
        return [(job_of(run), run.status.value) for run in self.runs]


class Deployed:
    """A deployment under its daemon; each call lives one more week."""

    def __init__(self, running: Daemon, hub: LoopbackHub, webhook: Webhook) -> None:
        self.running, self.hub, self.webhook = running, hub, webhook
        self.known_runs = 0
        self.weeks: list[Week] = []

    def until_monday(self, runs_expected: int) -> None:
        """Move to the schedule's next tick, and wait for all runs that it should bring."""
        before = self._count_ticks()
        self._forget()
        self.running.move_calendar_to(next_monday_at_three(self.running.now))
        self.running.wait_until(
            lambda it: len(ticks(it, "rebuild_small")) > before, "the schedule's tick"
        )
        self._keep(runs_expected)

    def until_sensed(self, runs_expected: int) -> None:
        """Wait for what a sensor starts."""
        self._forget()
        seconds = self.running.wait_until(
            lambda it: len(runs(it)) > self.known_runs, "a run that a sensor started"
        )
        self._keep(runs_expected)
        self.weeks[-1].seconds_to_start = seconds

    def _count_ticks(self) -> int:
        self.running.wait_until(
            lambda it: is_known(it, "rebuild_small"), "the daemon's first look at the schedule"
        )
        with self._instance() as instance:
            return len(ticks(instance, "rebuild_small"))

    def _forget(self) -> None:
        self.hub.requests.clear()
        self.webhook.requests.clear()

    def _keep(self, runs_expected: int) -> None:
        total = self.known_runs + runs_expected
        self.running.wait_until(lambda it: is_quiet(it, total), f"{runs_expected} runs")
        with self._instance() as instance:
            new, tick = runs(instance)[self.known_runs :], ticks(instance, "rebuild_small")[-1]
        if any(run.status == dg.DagsterRunStatus.FAILURE for run in new):
            self.running.wait_until(lambda _: self.webhook.requests, "the notice")
        self.known_runs += len(new)
        notices = [request.json for request in self.webhook.requests]
        champion = champion_of(self.running.deployment)
        self.weeks.append(Week(new, tick, champion, list(self.hub.requests), notices))

    def _instance(self) -> dg.DagsterInstance:
        return dg.DagsterInstance.from_config(self.running.deployment.environment()["DAGSTER_HOME"])


@dataclass
class Story:
    """All weeks, and where they were lived."""

    weeks: list[Week]
    folder: Path
    status: str
    status_values: dict[str, Any]


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weeks")
    base_model, reports = folder / "tiny-qwen2", folder / "my_dataset.json"
    write_tiny_model(base_model)
    shutil.copy(PROJECT_ROOT / "data" / "my_dataset.json", reports)
    shutil.copytree(PROJECT_ROOT / "data" / "samples", folder / "upstream")
    deployment = make_unattended(folder / "deployment", base_model, reports)
    with loopback_hub(folder / "upstream") as hub, serving(Webhook()) as webhook:
        environment = {
            **environment_on(hub, deployment),
            "HF_TOKEN": CANARY,
            "QWENFT_WEBHOOK_URL": f"{webhook.url}/{HOOK_PATH}",
        }
        with daemon(deployment, utc_now(), environment) as running:
            lived = Deployed(running, hub, webhook)
            lived.until_monday(runs_expected=2)
            lived.until_monday(runs_expected=0)
            add_rows(hub.folder / SLIMORCA, "the planet on which it rains diamonds")
            lived.until_monday(runs_expected=2)
            edit_reports(reports)
            lived.until_sensed(runs_expected=2)
            add_rows(hub.folder / SLIMORCA, "the sea whose waves are sand")
            hub.faults.fraction, hub.faults.kinds = 1.0, ("503",)
            lived.until_monday(runs_expected=1)
            hub.faults.fraction = 0.0
            lived.until_monday(runs_expected=2)
        shown, as_json = (
            deployment.run("qwenft", "status", "--check", *options, more_environment=environment)
            for options in ((), ("--json",))
        )
    return Story(lived.weeks, deployment.folder, shown.stdout, json.loads(as_json.stdout))


def test_the_runs_of_all_weeks(story, capsys):
    rows = [(f"week {n}", run) for n, week in enumerate(story.weeks, 1) for run in week.runs]
    second, fourth = story.weeks[1], story.weeks[3]
    with capsys.disabled():
        sys.stdout.write(
            f"\n{table(rows)}\nweek 2 skipped: {second.tick.skip_reason}\nweek 4: started "
            f"{fourth.seconds_to_start:.1f} s after the edit (the sensor looks every 5 s)\n"
        )
    assert [len(week.runs) for week in story.weeks] == [2, 0, 2, 2, 1, 2]


def test_week_1_builds_everything(story):
    week = story.weeks[0]
    assert week.jobs == REBUILT
    assert "not sampled yet" in week.runs[0].tags["qwenft/why"]
    assert week.runs[1].tags["dagster/partition"] == "small"
    assert week.runs[1].tags["qwenft/what_changed"] == "first build"
    assert ", the base " in week.runs[1].tags["qwenft/what_it_bought"]
    assert week.champion


def test_week_2_finds_nothing_new_trains_nothing_and_says_which_versions_were_equal(story):
    week, champion = story.weeks[1], story.weeks[0].champion
    assert week.runs == []
    assert week.tick.status.value == "SKIPPED"
    assert "nothing changed: local_reports " in week.tick.skip_reason
    assert f"lora_adapter {champion}" in week.tick.skip_reason
    assert f"release champion {champion}" in week.tick.skip_reason
    assert len(week.hub_requests) == 2, "one for each of the recipe's two repositories"


def test_week_3_samples_only_the_source_that_moved_then_mixes_to_release(story):
    week = story.weeks[2]
    assert [job for job, _ in week.jobs] == ["sources_job", "finetune_job"]
    tags = week.runs[0].tags
    assert tags["dagster/asset_partition_range_start"] == "slimorca"
    assert tags["dagster/asset_partition_range_end"] == "slimorca"
    assert week.runs[1].tags["qwenft/rebuild"] == tags["qwenft/rebuild"]
    assert week.runs[1].tags["qwenft/why"] == tags["qwenft/why"]
    assert "slimorca: revision " in tags["qwenft/why"]
    assert re.match(
        r"slimorca: \d+ added \(upstream\), \d+ removed", week.runs[1].tags["qwenft/what_changed"]
    )
    assert "the champion before it" in week.runs[1].tags["qwenft/what_it_bought"]


def test_week_4_the_sensor_starts_a_rebuild_when_the_reports_are_edited(story):
    week = story.weeks[3]
    assert week.jobs == REBUILT
    assert [run.tags["dagster/sensor_name"] for run in week.runs] == ["automation_conditions"] * 2
    assert [partitions_of(run) for run in week.runs] == ["local_reports", "small"]
    assert all("local_reports: revision " in run.tags["qwenft/why"] for run in week.runs)
    assert re.match(
        r"local_reports: \d+ added \(upstream\)", week.runs[1].tags["qwenft/what_changed"]
    )


def test_week_5_a_source_is_down_and_the_champion_stays_and_one_notice_is_sent(story):
    week = story.weeks[4]
    assert week.jobs == [("sources_job", "FAILURE")]
    assert week.champion == story.weeks[3].champion
    (notice,) = week.notices
    assert notice["job"] == "sources_job"
    assert "failed after 8 attempts" in notice["reason"]
    assert week.champion in notice["champion"]
    assert notice["text"].startswith("qwenft: sources_job slimorca...pubmedqa failed: ")


def test_week_6_the_next_tick_recovers_by_itself(story):
    week = story.weeks[5]
    assert [job for job, _ in week.jobs] == ["sources_job", "finetune_job"]
    assert week.jobs[0] == ("sources_job", "SUCCESS")
    assert re.match(
        r"slimorca: \d+ added \(upstream\), \d+ removed", week.runs[1].tags["qwenft/what_changed"]
    )


def test_the_status_tells_the_same_in_the_terminal(story):
    champion = story.weeks[5].champion
    assert f"- Champion: `{champion}` since " in story.status
    assert "- A rebuild would: find everything current, if upstream is unchanged" in story.status
    assert "| rebuild_small | schedule | on | " in story.status
    assert re.search(r"\| sources_job \| slimorca\.\.\.pubmedqa \| FAILURE \|", story.status)
    values = story.status_values
    changes = {entry["source"]: entry["change"] for entry in values["sources"]}
    assert changes["slimorca"] is None
    assert changes["stackexchange_ai"] == "not sampled yet, or the sample is damaged"
    (small,) = values["recipes"]
    assert small["champion"]["version"] == champion
    assert "the champion before it" in small["what_it_bought"]
    assert [run["status"] for run in values["runs"]].count("FAILURE") == 1
    assert values["pools"] == [{"pool": "gpu", "slots": 1, "occupied": 0, "waiting": 0}]


@pytest.mark.parametrize("secret", [CANARY, HOOK_PATH], ids=["token", "webhook"])
def test_no_secret_is_written_anywhere(story, secret):
    files = [path for path in story.folder.rglob("*") if path.is_file()]
    assert any(path.name == "daemon.log" for path in files)
    assert any(path.suffix == ".db" for path in files)
    assert [path for path in files if secret.encode() in path.read_bytes()] == []
