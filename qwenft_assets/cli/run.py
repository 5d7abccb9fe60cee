"""`qwenft demo` and `qwenft run`: one rebuild, as two runs of the same instance that the UI shows."""

import json
import os
import sys
import time
import uuid
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from qwenft_assets.cli.gpu_queue import (
    EXIT_INTERRUPTED,
    INTERRUPTED,
    end_stale_runs,
    process_tag,
    reporting_gpu_holders,
)
from qwenft_assets.cli.options import (
    ConfigOption,
    JsonOption,
    RecipeOption,
    load,
    recipe_named,
    storage_of,
    use_dagster_home,
)
from qwenft_assets.config import SOURCE_NAMES, Config, RecipeName, SourceName
from qwenft_assets.errors import ConfigError, GateRefusedError, error_by_name
from qwenft_assets.rebuilds.upstream import contiguous, sources_of_recipe
from qwenft_assets.sources.registry import bundled_sources
from qwenft_assets.training.feasibility import require_feasible_here

EXIT_REFUSED = 3
"""The rebuild went through, and the release gate said no to its adapter."""
UNEXPECTED_TERMINATION = "UNEXPECTED_TERMINATION"
"""Dagster's word for a signal that nobody asked it to send."""


def demo(as_json: JsonOption = False) -> None:
    """The whole path on bundled samples, on a CPU, in minutes.

    Samples the bundled sources, mixes them, trains a LoRA adapter of SmolLM2-135M-Instruct, measures it
    against its base, and releases it if it is better. Run again, it finds everything unchanged.

    Example: `qwenft demo`
    """
    os.environ.pop("QWENFT_CONFIG", None)
    config = load(None)
    rebuild(config, recipe_named(config, "small"), bundled_sources(), as_json=as_json)


def run(
    recipe: RecipeOption = "small", config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Rebuild one recipe: sources, mixture, adapter, evaluation, release.

    What is unchanged is not done again. Ends with 3 when the release gate refuses the adapter.

    Examples: `qwenft run --recipe small`, `qwenft run --recipe large --config
    configs/qwen2.5-7b.yaml`
    """
    settings = load(config)
    name = recipe_named(settings, recipe)
    rebuild(settings, name, sources_of_recipe(settings, name), as_json=as_json)


def sample(
    source: Annotated[
        str,
        typer.Argument(
            help="A source, such as `stackexchange_ai`.", autocompletion=lambda: list(SOURCE_NAMES)
        ),
    ],
    rows: Annotated[
        int | None, typer.Option("--rows", min=1, help="Rows wanted, above the config's max_rows.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Sample one source, or extend its sample; goes on where the last scan stopped.

    Example: `qwenft sample stackexchange_ai --rows 50000 --config configs/qwen2.5-7b.yaml`
    """
    settings = load(config)
    if source not in SOURCE_NAMES:
        raise ConfigError(f"{source}: no such source. There is: {', '.join(SOURCE_NAMES)}.")
    storage_of(settings).ensure_writable()
    use_dagster_home()

    import dagster as dg

    ops = {"source_sample": {"config": {"max_rows": rows}}} if rows else {}
    with dg.DagsterInstance.get() as instance:
        _execute(instance, "sources_job", ops=ops, partition_key=source)


def rebuild(
    config: Config, recipe: RecipeName, sources: Sequence[SourceName], *, as_json: bool
) -> None:
    """Run both jobs and print the summary, also when the gate refused the adapter.

    Raises:
        QwenftError: What an asset reported.
        typer.Exit: With EXIT_REFUSED after a refusal.
    """
    started = time.monotonic()
    storage = storage_of(config)
    storage.ensure_writable()
    storage.fetch_overview()
    require_feasible_here(config, recipe, storage)
    use_dagster_home()

    import dagster as dg

    from qwenft_assets.cli.summary import print_summary, summarize

    with dg.DagsterInstance.get() as instance:
        for first, last in contiguous(sources):
            tags = {
                "dagster/asset_partition_range_start": first,
                "dagster/asset_partition_range_end": last,
            }
            _execute(instance, "sources_job", tags=tags)
        unchanged, refusal = _execute(instance, "finetune_job", partition_key=recipe)
        if config.publishing.target is not None and refusal is None:
            unchanged += _execute(instance, "publish_job", partition_key=recipe)[0]
    summary = summarize(config, recipe, storage, time.monotonic() - started, unchanged)
    if as_json:
        print(json.dumps(summary, ensure_ascii=False, indent=2))
    else:
        print_summary(summary)
    if refusal is not None:
        print(f"qwenft: {refusal} The champion stays.", file=sys.stderr)
        raise typer.Exit(EXIT_REFUSED)


def _execute(
    instance: Any,
    job_name: str,
    ops: dict[str, Any] | None = None,
    tags: dict[str, str] | None = None,
    **options: Any,
) -> tuple[list[str], GateRefusedError | None]:
    """Run a job in this process; returns the assets found unchanged, and the gate's refusal."""
    from qwenft_assets.definitions import defs

    end_stale_runs(instance)
    run_id = str(uuid.uuid4())
    with reporting_gpu_holders(instance, run_id):
        result = defs.resolve_job_def(job_name).execute_in_process(
            instance=instance,
            raise_on_error=False,
            run_id=run_id,
            run_config={"loggers": {"terminal": {}}, "ops": ops or {}},
            tags={**(tags or {}), **process_tag()},
            **options,
        )
    if _was_interrupted(instance, result):
        print(INTERRUPTED, file=sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED)
    failures = [
        _error_of(event.step_failure_data) for event in result.all_events if event.is_step_failure
    ]
    refusals = [error for error in failures if isinstance(error, GateRefusedError)]
    for error in failures:
        if error not in refusals:
            raise error
    if not (result.success or refusals):
        raise RuntimeError(f"{job_name} failed in run {result.run_id}; `qwenft ui` shows its log")
    return _unchanged(result), next(iter(refusals), None)


def _was_interrupted(instance: Any, result: Any) -> bool:
    """Whether Ctrl-C or SIGTERM ended the run; one that ended between two steps is marked as canceled."""
    import dagster as dg

    run = instance.get_run_by_id(result.run_id)
    ends = [event.event_specific_data for event in result.all_events if event.is_job_failure]
    if any(getattr(end.failure_reason, "value", "") == UNEXPECTED_TERMINATION for end in ends):
        instance.report_run_canceled(run, "Interrupted between two steps.")
        return True
    return run.status is dg.DagsterRunStatus.CANCELED


def _error_of(failure: Any) -> Exception:
    user_failure = failure.user_failure_data
    if user_failure and user_failure.metadata and "error" in user_failure.metadata:
        kind = str(user_failure.metadata["error"].value)
        return error_by_name(kind)(user_failure.description)
    return RuntimeError(failure.error.to_string() if failure.error else "step failed")


def _unchanged(result: Any) -> list[str]:
    events = [event for event in result.all_events if event.is_step_materialization]
    found = [event.step_materialization_data.materialization for event in events]
    return [m.asset_key.to_user_string() for m in found if m.metadata["unchanged"].value]
