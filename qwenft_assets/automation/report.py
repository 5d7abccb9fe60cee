"""What `qwenft status` reports of a deployment, as plain values: artifacts, switches, ticks, runs, pools."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from qwenft_assets.assets.reporting import REBUILD_TAG, WHY_TAG
from qwenft_assets.automation.jobs import job_of, partitions_of
from qwenft_assets.config import SOURCE_NAMES, Config, RecipeName
from qwenft_assets.evaluation.job import read_evaluation
from qwenft_assets.rebuilds.recipes import mixture_changes, standing, what_changed, what_it_bought
from qwenft_assets.rebuilds.upstream import SourceState, survey
from qwenft_assets.records import MixtureManifest, SampleManifest
from qwenft_assets.release.history import last_decision
from qwenft_assets.release.registry import read_champion
from qwenft_assets.storage.files import read_json
from qwenft_assets.storage.root import Storage

SHOWN_RUNS = 8


def sources_report(config: Config, storage: Storage, *, ask_upstream: bool) -> list[dict[str, Any]]:
    """Each source: rows, version and revision of its sample, and what upstream holds if asked."""
    states: Sequence[SourceState] = survey(config, SOURCE_NAMES, storage) if ask_upstream else ()
    change_of = {state.source: state.change for state in states}
    found: list[dict[str, Any]] = []
    for source in SOURCE_NAMES:
        manifest = read_json(storage.source_sample(source) / SampleManifest.FILE) or {}
        entry = {name: manifest.get(name) for name in ("rows", "version", "revision")}
        asked = {"change": change_of[source]} if ask_upstream else {}
        found.append({"source": source, **entry, **asked})
    return found


def recipe_report(config: Config, storage: Storage, recipe: RecipeName) -> dict[str, Any]:
    """One recipe: mixture, last decision, champion, and what a rebuild would do next."""
    mixture = read_json(storage.mixed_dataset(recipe) / MixtureManifest.FILE) or {}
    decision, champion = last_decision(storage, recipe), read_champion(storage, recipe)
    evaluation = read_evaluation(storage, recipe, decision.version) if decision else None
    return {
        "recipe": recipe,
        "mixture_version": mixture.get("version"),
        "rows": mixture.get("rows"),
        "what_changed": what_changed(mixture_changes(storage, recipe)) if mixture else None,
        "adapter_version": decision.version if decision else None,
        "decision": decision.action if decision else None,
        "reasons": list(decision.reasons) if decision else [],
        "what_it_bought": what_it_bought(evaluation) if evaluation else None,
        "champion": champion.as_json() if champion else None,
        "due": standing(config, recipe, storage).due,
    }


def instigators_report(
    instance: dg.DagsterInstance, repository: dg.RepositoryDefinition, now: datetime
) -> list[dict[str, Any]]:
    """Each schedule and sensor: on or off, its last tick with its reason, a schedule's next tick."""
    stored = {state.instigator_name: state for state in instance.all_instigator_state()}
    found: list[dict[str, Any]] = []
    for definition in (*repository.schedule_defs, *repository.sensor_defs):
        state = stored.get(definition.name)
        on = state.is_running if state else definition.default_status.value == "RUNNING"
        of = (state.instigator_origin_id, state.selector_id) if state else None
        ticks = instance.get_ticks(*of, limit=1) if of else []
        is_schedule = isinstance(definition, dg.ScheduleDefinition)
        found.append(
            {
                "name": definition.name,
                "kind": "schedule" if is_schedule else "sensor",
                "on": on,
                "last_tick": _tick(ticks[0]) if ticks else None,
                "next_tick": _next_tick(definition, now) if is_schedule and on else None,
            }
        )
    return found


def runs_report(instance: dg.DagsterInstance) -> list[dict[str, Any]]:
    """The newest runs, the newest first."""
    return [
        {
            "run_id": record.dagster_run.run_id,
            "job": job_of(record.dagster_run),
            "of": partitions_of(record.dagster_run),
            "status": record.dagster_run.status.value,
            "at": _iso(record.start_time) if record.start_time else None,
            "seconds": round(record.end_time - record.start_time, 1)
            if record.start_time and record.end_time
            else None,
            "rebuild": record.dagster_run.tags.get(REBUILD_TAG),
            "why": record.dagster_run.tags.get(WHY_TAG),
        }
        for record in instance.get_run_records(limit=SHOWN_RUNS)
    ]


def pools_report(instance: dg.DagsterInstance) -> list[dict[str, Any]]:
    """Each pool that the instance has seen, with its slots."""
    storage = instance.event_log_storage
    if not storage.supports_global_concurrency_limits:
        return []
    pools = {name: storage.get_concurrency_info(name) for name in storage.get_concurrency_keys()}
    return [
        {
            "pool": name,
            "slots": info.slot_count,
            "occupied": info.active_slot_count,
            "waiting": info.pending_step_count,
        }
        for name, info in sorted(pools.items())
    ]


def _tick(tick: Any) -> dict[str, Any]:
    reason = tick.skip_reason or (tick.error.message if tick.error else None)
    return {
        "at": _iso(tick.timestamp),
        "status": tick.status.value,
        "runs": list(tick.run_ids),
        "reason": " ".join(reason.split()) if reason else None,
    }


def _next_tick(schedule: dg.ScheduleDefinition, now: datetime) -> str:
    from dagster._utils.schedules import schedule_execution_time_iterator

    ticks = schedule_execution_time_iterator(
        now.timestamp(), schedule.cron_schedule, schedule.execution_timezone, ascending=True
    )
    after = next(tick for tick in ticks if tick > now)
    return after.astimezone(UTC).isoformat(timespec="seconds")


def _iso(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, tz=UTC).isoformat(timespec="seconds")
