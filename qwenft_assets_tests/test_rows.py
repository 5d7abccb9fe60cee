"""The row that crosses stages: its identity, its hashes, its Arrow form."""

from dataclasses import replace

import pyarrow as pa
import pytest

from qwenft_assets.rows import (
    MIXED_SCHEMA,
    ROW_COLUMNS,
    ROW_SCHEMA,
    InstructionRow,
    is_private,
    make_row,
    rows_to_table,
    rows_version,
    table_to_rows,
)


def row(upstream_id: str = "1", output: str = "Its threshold falls.", **fields) -> InstructionRow:
    return make_row(
        source="slimorca",
        upstream_id=upstream_id,
        instruction="What happens to a MOSFET when it is heated?",
        output=output,
        license="MIT",
        revision="abc123",
        admitted_by="all",
        **fields,
    )


ROWS = [row("1", system="Be brief."), row("2", input="65 nm", url="https://x"), row("3", "温度")]


def test_row_id_does_not_depend_on_the_text():
    changed = row("1", output="It conducts more.", input="at 400 K", system="Be brief.")
    assert changed.row_id == row("1").row_id
    assert changed.content_hash != row("1").content_hash


def test_row_id_depends_on_source_and_upstream_id():
    assert row("1").row_id != row("2").row_id
    elsewhere = make_row(
        source="pubmedqa",
        upstream_id="1",
        instruction="a",
        output="b",
        license="MIT",
        revision="abc123",
        admitted_by="all",
    )
    assert elsewhere.row_id != row("1").row_id


def test_content_hash_ignores_provenance_and_knows_a_missing_system_prompt():
    assert row("1").content_hash == row("2", url="https://x", author="me").content_hash
    assert row(system=None).content_hash != row(system="").content_hash


def test_rows_survive_the_table_in_their_order():
    table = rows_to_table(ROWS)
    assert table.schema == ROW_SCHEMA
    assert table.column("system").to_pylist() == ["Be brief.", None, None]
    assert table_to_rows(table) == ROWS


def test_no_rows_make_an_empty_table_of_the_same_schema():
    table = rows_to_table([])
    assert table.schema == ROW_SCHEMA
    assert table_to_rows(table) == []


def test_rows_are_read_from_a_mixed_table_too():
    mixed = pa.table(
        [*rows_to_table(ROWS).columns, pa.array(["train"] * 3), pa.array([0] * 3, pa.int32())],
        schema=MIXED_SCHEMA,
    )
    assert table_to_rows(mixed) == ROWS


def test_only_the_system_prompt_may_be_null():
    assert [field.name for field in ROW_SCHEMA if field.nullable] == ["system"]
    assert not any(MIXED_SCHEMA.field(name).nullable for name in ("split", "copy"))


@pytest.mark.parametrize("field", ROW_COLUMNS)
def test_version_of_rows_changes_with_each_field(field):
    changed = [replace(ROWS[0], **{field: "something else"}), *ROWS[1:]]
    assert rows_version(changed) != rows_version(ROWS)


def test_version_of_rows_changes_with_their_order_and_number():
    versions = {rows_version(rows) for rows in (ROWS, ROWS[::-1], ROWS[:2], ROWS + ROWS[:1], [])}
    assert len(versions) == 5
    assert rows_version(iter(ROWS)) == rows_version(ROWS)


@pytest.mark.parametrize(
    ("license_name", "private"),
    [("private", True), (" Private ", True), ("MIT", False), ("CC BY-SA 4.0", False), ("", True)],
)
def test_private_rows_are_known_by_their_licence(license_name, private):
    assert is_private(license_name) is private
