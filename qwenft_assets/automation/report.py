"""What the instance knows of a deployment, as plain values: switches, ticks, runs, pool slots."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from qwenft_assets.assets.reporting import REBUILD_TAG, WHY_TAG
from qwenft_assets.automation.requests import job_of, partitions_of

SHOWN_RUNS = 8


def instigators_report(
    instance: dg.DagsterInstance, repository: dg.RepositoryDefinition, now: datetime
) -> list[dict[str, Any]]:
    """Each schedule and sensor: on or off, its last tick with its reason, a schedule's next tick."""
    stored = {state.instigator_name: state for state in instance.all_instigator_state()}
    found: list[dict[str, Any]] = []
    for definition in (*repository.schedule_defs, *repository.sensor_defs):
        state = stored.get(definition.name)
        on = state.is_running if state else definition.default_status.value == "RUNNING"
        ticks = (
            instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1)
            if state
            else []
        )
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
    """Each pool with its slots, as far as the instance has seen it."""
    return list(_pools(instance))


def _pools(instance: dg.DagsterInstance) -> Iterator[dict[str, Any]]:
    storage = instance.event_log_storage
    if not storage.supports_global_concurrency_limits:
        return
    for name in sorted(storage.get_concurrency_keys()):
        info = storage.get_concurrency_info(name)
        yield {
            "pool": name,
            "slots": info.slot_count,
            "occupied": info.active_slot_count,
            "waiting": info.pending_step_count,
        }


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
