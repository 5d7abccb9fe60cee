"""What every asset shows in the same way: errors in one line, counts and rows as tables.

Rows are untrusted text: they are shown as table cells, never as Markdown or HTML.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq

from qwenft_assets.errors import QwenftError
from qwenft_assets.rows import ROW_COLUMNS

OWNERS = ["team:qwenft"]
REBUILD_TAG = "qwenft/rebuild"
"""The same for all runs of a rebuild that a schedule began: which one, and when."""
WHY_TAG = "qwenft/why"
LONGEST_TAG = 400
MAX_INLINE_BYTES = 700
"""The web UI shows Markdown of up to 1,000 characters in place, and longer behind a link."""
SHOWN_ROWS = 5
SHOWN_CHARACTERS = 160
SHOWN_AROUND = 60
SHOWN_COLUMNS = ("source", "instruction", "input", "output", "license")
COLUMN_SCHEMA = dg.TableSchema([dg.TableColumn(name, "string") for name in ROW_COLUMNS])


@contextmanager
def one_line_failures() -> Iterator[None]:
    """Turn a mistake the user can mend into a failure whose description is that one line.

    A run that is interrupted, by Ctrl-C or SIGTERM, is marked as cancelled and not as failed.
    """
    try:
        yield
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
        _mark_as_cancelled()
        raise
    except QwenftError as error:
        raise dg.Failure(
            description=str(error), metadata={"error": type(error).__name__}, allow_retries=False
        ) from error


def tag_run(context: dg.AssetExecutionContext, tags: Mapping[str, str]) -> None:
    """Tag the present run, so that the list of runs reads as the story of the deployment.

    A tag that the run was started with stays; an empty one is left out.
    """
    run = context.run
    own = {n: v[:LONGEST_TAG] for n, v in tags.items() if v and n not in run.tags}
    context.instance.add_run_tags(run.run_id, own)


def newest(
    instance: dg.DagsterInstance, asset: dg.AssetKey, partition: str
) -> dg.EventLogRecord | None:
    """The last materialization of a partition."""
    filters = dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[partition])
    return next(iter(instance.fetch_materializations(filters, limit=1).records), None)


def _mark_as_cancelled() -> None:
    """Say that the present run is being cancelled, unless the UI's Terminate has said so."""
    with suppress(dg.DagsterInvariantViolationError):  # there is no run outside of one
        context = dg.AssetExecutionContext.get()
        run = context.instance.get_run_by_id(context.run.run_id)
        if run is not None and run.status == dg.DagsterRunStatus.STARTED:
            context.instance.report_run_canceling(run)


def count_table(counts: Mapping[str, int], label: str) -> dg.TableMetadataValue:
    """Counts by name as a table with the columns `label` and `rows`."""
    records = [dg.TableRecord({label: name, "rows": n}) for name, n in counts.items()]
    columns = [dg.TableColumn(label, "string"), dg.TableColumn("rows", "int")]
    return dg.MetadataValue.table(records, schema=dg.TableSchema(columns))


def record_table(
    records: Sequence[Mapping[str, str | int | float]], columns: Sequence[tuple[str, str]]
) -> dg.TableMetadataValue:
    """Records as a table; `columns` are (name, type) pairs."""
    schema = dg.TableSchema([dg.TableColumn(name, kind) for name, kind in columns])
    return dg.MetadataValue.table([dg.TableRecord(dict(r)) for r in records], schema=schema)


def first_rows(parquet: Path) -> dg.TableMetadataValue:
    """The first rows of a rows.parquet, each cell cut to one readable line."""
    batch = next(pq.ParquetFile(parquet).iter_batches(SHOWN_ROWS, columns=list(SHOWN_COLUMNS)))
    records = [{name: _shortened(row[name]) for name in SHOWN_COLUMNS} for row in batch.to_pylist()]
    return record_table(records, [(name, "string") for name in SHOWN_COLUMNS])


def image(png: bytes, about: str) -> dg.MarkdownMetadataValue:
    """A picture that the web UI shows; in place where it is no larger than MAX_INLINE_BYTES."""
    return dg.MetadataValue.md(
        f"![{about}](data:image/png;base64,{base64.b64encode(png).decode()})"
    )


def in_context(text: str, keyword: str) -> str:
    """The keyword with what stands around it, on one line."""
    line = " ".join(text.split())
    start = max(line.casefold().find(keyword.casefold()), 0)
    cut = line[max(start - SHOWN_AROUND, 0) : start + len(keyword) + SHOWN_AROUND]
    return f"…{cut}…"


def rounded(figure: Any) -> Any:
    """A figure with as many digits as a person reads; the artifact's own file holds them all."""
    return round(figure, 4) if isinstance(figure, float) else figure


def dropped_of(manifest: Mapping[str, Any]) -> dict[str, int]:
    """The `dropped_<reason>` counts of a manifest, by reason."""
    return {
        key.removeprefix("dropped_"): n for key, n in manifest.items() if key.startswith("dropped_")
    }


def format_dropped(manifest: Mapping[str, Any]) -> str:
    """The same counts in one line; `none` where nothing was dropped."""
    return ", ".join(f"{reason} {n}" for reason, n in dropped_of(manifest).items() if n) or "none"


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else line[: SHOWN_CHARACTERS - 1] + "…"
