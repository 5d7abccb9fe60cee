"""When the graph rebuilds itself, and where failures are sent."""

from __future__ import annotations

import re
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator

from qwenft_assets.config.section import RecipeName, Section

InstigatorName = Literal[
    "rebuild_small",
    "rebuild_large",
    "local_reports_changed",
    "hub_revisions_changed",
    "automation_conditions",
]
CRON_FIELD = re.compile(r"[0-9A-Za-z*/,\-]+")
CRON_LARGEST = (59, 23, 31, 12, 7)
"""Largest value of each field: minute, hour, day of the month, month, day of the week."""


class AutomationConfig(Section):
    """When the graph rebuilds itself. Nothing does until it is switched on, here or in the web UI."""

    switched_on: tuple[InstigatorName, ...] = Field(
        default=(),
        description="Schedules and sensors that run from the start; the web UI's switch wins over it.",
    )
    time_zone: str = Field(
        default="UTC", description="Time zone of both schedules, such as Europe/Berlin."
    )
    rebuild_small_cron: str = Field(
        default="0 3 * * 1", description="When `small` is rebuilt if its inputs changed: weekly."
    )
    rebuild_large_cron: str = Field(
        default="0 3 1 * *", description="When `large` is rebuilt if its inputs changed: monthly."
    )
    executor: Literal["in_process", "k8s"] = Field(
        default="in_process",
        description="Steps of a run: one after the other in its process, or each in a pod of its own, "
        "of which only training and evaluation ask for a GPU (extra k8s; needs a remote storage_root).",
    )
    recipes: tuple[RecipeName, ...] = Field(
        default=("small",),
        description="What sensors and automation conditions rebuild. They start `large`, which may "
        "train for days, only where it is named here.",
    )
    reports_interval_seconds: int = Field(
        default=60, ge=1, description="Seconds between two looks at the local reports file."
    )
    hub_interval_seconds: int = Field(
        default=3600, ge=1, description="Seconds between two requests for each dataset's revision."
    )
    follow_interval_seconds: int = Field(
        default=30,
        ge=1,
        description="Seconds between two looks for runs that ended: how soon the next run of a "
        "rebuild starts, and a failure is reported.",
    )
    fresh_days: float | None = Field(
        default=8,
        gt=0,
        description="Days after which sources and champion count as overdue, unless a rebuild or a "
        "tick that found nothing new confirmed them; null: never.",
    )
    webhook_variable: str = Field(
        default="QWENFT_WEBHOOK_URL",
        description="Environment variable with the URL that failures are posted to as JSON. The URL "
        "itself stands in no file, because most hold a secret. Without it they are only logged.",
    )

    @field_validator("time_zone")
    @classmethod
    def _is_time_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(
                f"{name!r} is no time zone; write one such as Europe/Berlin"
            ) from error
        return name

    @field_validator("rebuild_small_cron", "rebuild_large_cron")
    @classmethod
    def _is_cron(cls, cron: str) -> str:
        fields = cron.split()
        if len(fields) != len(CRON_LARGEST) or not all(
            CRON_FIELD.fullmatch(field) and all(int(n) <= top for n in re.findall(r"\d+", field))
            for field, top in zip(fields, CRON_LARGEST, strict=True)
        ):
            raise ValueError(f"{cron!r} is no cron line of five fields, such as '0 3 * * 1'")
        return cron
