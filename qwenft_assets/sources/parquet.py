"""Upstream parquet, checked before it is read: a column that changed is named, not stumbled over."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from qwenft_assets.errors import SourceError
from qwenft_assets.sources.origin import Repository

Shape = Mapping[str, pa.DataType]
"""Column names and the types that they must be readable as."""
Of = TypeVar("Of")
Made = TypeVar("Made")


@contextmanager
def open_parquet(repository: Repository, path: str, shape: Shape) -> Iterator[pq.ParquetFile]:
    """A parquet file that has the columns of `shape`.

    Raises:
        SourceError: The file is broken, or a column is missing or of another type.
    """
    with repository.open(path) as file:
        # By its name, Arrow reads without the GIL; the file is on a disk, nothing to read ahead of.
        parquet = pq.ParquetFile(file.name, pre_buffer=False)
        schema = parquet.schema_arrow
        for name, wanted in shape.items():
            index = schema.get_field_index(name)
            if index < 0:
                problem = "is missing"
            elif not _reads_as(schema.field(index).type, wanted):
                problem = f"is {schema.field(index).type}, {wanted} is needed"
            else:
                continue
            raise SourceError(
                f"{repository.root}/{path}: column {name!r} {problem}. Pin the source's `revision` "
                "to one that has it."
            )
        yield parquet


def read_ahead(make: Callable[[Of], Made], items: Iterable[Of]) -> Iterator[Made]:
    """As `map(make, items)`: the next is made while the last is used, as Arrow frees the GIL."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        ready: Future[Made] | None = None
        for item in items:
            following = pool.submit(make, item)
            if ready is not None:
                yield ready.result()
            ready = following
        if ready is not None:
            yield ready.result()


def _reads_as(found: Any, wanted: Any) -> bool:
    """Whether values of type `found` have at least the fields of `wanted`; widths do not matter."""
    if pa.types.is_struct(wanted):
        return pa.types.is_struct(found) and all(
            found.get_field_index(field.name) >= 0
            and _reads_as(found.field(field.name).type, field.type)
            for field in wanted
        )
    if pa.types.is_list(wanted):
        is_list = pa.types.is_list(found) or pa.types.is_large_list(found)
        return is_list and _reads_as(found.value_type, wanted.value_type)
    if pa.types.is_string(wanted):
        return pa.types.is_string(found) or pa.types.is_large_string(found)
    if pa.types.is_integer(wanted):
        return pa.types.is_integer(found)
    return found == wanted
