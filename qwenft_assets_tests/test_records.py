"""Records: their bytes stay what they were, and a file that is no record is one clear line."""

import json
import re
from pathlib import Path

import pytest

import qwenft_assets
from qwenft_assets import records
from qwenft_assets.errors import StorageError
from qwenft_assets.records import (
    Champion,
    EvaluationResult,
    Figures,
    HistoryLine,
    Latest,
    MixtureDiff,
    MixtureLengths,
    MixtureManifest,
    PublishedManifest,
    SampleManifest,
    TrainingRecord,
)
from qwenft_assets.storage.files import (
    append_json_line,
    read_lines,
    read_record,
    write_json,
    write_record,
)
from qwenft_assets_tests.made_up_records import as_written, made_up

KINDS = (
    SampleManifest, MixtureManifest, MixtureDiff, MixtureLengths, TrainingRecord, Latest,
    EvaluationResult, Champion, PublishedManifest,
)  # fmt: skip
PACKAGE = Path(qwenft_assets.__file__).parent


@pytest.mark.parametrize("kind", KINDS)
def test_what_dicts_once_wrote_is_written_again_to_the_byte(tmp_path, kind):
    (tmp_path / kind.FILE).write_text(as_written(kind), encoding="utf-8")
    record = read_record(tmp_path, kind)
    assert record is not None
    write_record(tmp_path / "again", record)
    assert (tmp_path / "again" / kind.FILE).read_text(encoding="utf-8") == as_written(kind)


def test_every_kind_of_history_line_is_written_again_to_the_byte(tmp_path):
    (tmp_path / HistoryLine.FILE).write_text(as_written(HistoryLine), encoding="utf-8")
    history = read_lines(tmp_path, HistoryLine)
    assert [line.action for line in history] == ["release", "refuse", "promote", "rollback"]
    for line in history:
        append_json_line(tmp_path / "again", line.as_json())
    assert (tmp_path / "again").read_text(encoding="utf-8") == as_written(HistoryLine)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_field_is_one_line_that_names_it(tmp_path, kind):
    values = made_up(kind).as_json()
    missing = next(
        name for name, field in kind.model_fields.items() if field.is_required() and name in values
    )
    del values[missing]
    path = tmp_path / kind.FILE
    write_json(path, values)
    with pytest.raises(StorageError) as raised:
        read_record(tmp_path, kind)
    assert str(raised.value) == (
        f"{path}: field '{missing}': Field required. It is damaged, or another version of qwenft "
        f"wrote it. {kind.REMEDY}"
    )


def test_a_wrong_field_deep_inside_is_named_with_its_place(tmp_path):
    values = made_up(MixtureManifest).as_json()
    values["sources"]["slimorca"]["rows"] = "many"
    write_json(tmp_path / MixtureManifest.FILE, values)
    with pytest.raises(StorageError, match=r"field 'sources\.slimorca\.rows': Input should be"):
        read_record(tmp_path, MixtureManifest)


def test_a_file_cut_in_half_is_one_line(tmp_path):
    (tmp_path / Champion.FILE).write_text(as_written(Champion)[:100], encoding="utf-8")
    with pytest.raises(StorageError, match=r"champion\.json: not readable JSON") as raised:
        read_record(tmp_path, Champion)
    assert "\n" not in str(raised.value)


def test_a_damaged_line_of_the_history_is_named_by_its_number(tmp_path):
    line = made_up(HistoryLine).as_json()
    append_json_line(tmp_path / HistoryLine.FILE, line)
    append_json_line(tmp_path / HistoryLine.FILE, {**line, "released": "perhaps"})
    with pytest.raises(StorageError) as raised:
        read_lines(tmp_path, HistoryLine)
    message = str(raised.value)
    assert message.startswith(f"{tmp_path / HistoryLine.FILE}: line 2: field 'released': Input ")
    assert message.endswith("Remove that line.")


def test_keys_of_a_newer_version_are_ignored(tmp_path):
    champion = made_up(Champion)
    write_json(tmp_path / Champion.FILE, {**champion.as_json(), "mood": "good"})
    assert read_record(tmp_path, Champion) == champion


def test_settings_of_another_version_are_ignored_in_a_training_record():
    record = made_up(TrainingRecord)
    values = record.as_json()
    values["settings"]["learning_by_heart"] = True
    values["settings"]["lora"]["shape"] = "round"
    assert TrainingRecord.model_validate(values) == record


def test_a_new_metric_is_kept_in_figures():
    values = {**made_up(EvaluationResult).per_source["slimorca"].as_json(), "accuracy": 0.5}
    assert Figures.model_validate(values).as_json() == values


def test_a_file_that_is_not_there_is_none(tmp_path):
    assert read_record(tmp_path, Champion) is None
    assert read_lines(tmp_path, HistoryLine) == []


@pytest.mark.parametrize("name", sorted(records.RECORD_FILES))
def test_each_name_of_a_file_is_spelled_once(name):
    spelled = re.compile(rf"""["'][^"'\s]*{re.escape(name)}["']""")
    places = [
        path.relative_to(PACKAGE).as_posix()
        for path in sorted(PACKAGE.rglob("*.py"))
        for _ in spelled.findall(path.read_text(encoding="utf-8"))
    ]
    assert places == ["records.py"]


def test_infinite_figures_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="Out of range float"):
        write_record(tmp_path, made_up(Champion, perplexity=float("inf")))
    assert json.loads(as_written(Champion))["perplexity"] > 0
