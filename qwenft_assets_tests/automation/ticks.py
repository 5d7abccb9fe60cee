"""Ticks of schedules and sensors, evaluated in this process."""

from datetime import UTC, datetime
from typing import Any

import dagster as dg

from qwenft_assets.definitions import defs
from qwenft_assets.resources import ProjectResource

RESOURCES = {"project": ProjectResource()}
SMALL = ("local_reports", "slimorca", "pubmedqa")


def schedule_tick(place, name="rebuild_small") -> Any:
    repository: Any = defs.get_repository_def()
    schedule = repository.get_schedule_def(name)
    with dg.build_schedule_context(
        instance=place.instance,
        repository_def=repository,
        resources=RESOURCES,
        scheduled_execution_time=datetime(2026, 11, 30, 3, tzinfo=UTC),
    ) as context:
        return schedule.evaluate_tick(context)


def sensor_tick(place, name, cursor=None) -> Any:
    repository: Any = defs.get_repository_def()
    context = dg.build_sensor_context(
        instance=place.instance,
        repository_def=repository,
        cursor=cursor,
        sensor_name=name,
        resources=RESOURCES,
    )
    return repository.get_sensor_def(name).evaluate_tick(context)


def stretches(tick):
    names = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
    return [tuple(request.tags[name] for name in names) for request in tick.run_requests]
