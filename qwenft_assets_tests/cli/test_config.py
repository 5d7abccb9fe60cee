"""docs/configuration.md is what the models say, and `qwenft config` shows what is in effect."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from qwenft_assets.cli import app
from qwenft_assets.cli.config import render_reference
from qwenft_assets.config import PROJECT_ROOT, Config, load_config

PAGE = PROJECT_ROOT / "docs" / "configuration.md"


@pytest.fixture
def mine(tmp_path, demo_config, monkeypatch):
    """A config file that sets two values; the environment sets none."""
    path = tmp_path / "mine.yaml"
    path.write_text("training: {epochs: 7, lora: {rank: 8}}", encoding="utf-8")
    monkeypatch.setenv("QWENFT_CONFIG", str(path))  # as `--config` does, for child processes
    return path


def printed(*arguments) -> str:
    answer = CliRunner().invoke(app, ["config", *map(str, arguments)], catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    return answer.stdout


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == render_reference(), "run `make docs`"


def test_the_page_names_every_setting_with_its_default_and_bounds():
    lines = render_reference().splitlines()
    for section in (Config(name="x").training, Config(name="x").decoding):
        for name in type(section).model_fields:
            nested = f"## `training.{name}`"
            assert any(line.startswith(f"| `{name}` |") or nested in line for line in lines), name
    rank = next(line for line in lines if line.startswith("| `rank` |"))
    assert rank == "| `rank` | `16` | whole number > 0 | Inner dimension r of B A. |"
    fraction = next(line for line in lines if line.startswith("| `eval_fraction` |"))
    assert "| `0.1` | number > 0 and < 0.5 |" in fraction


def test_sources_with_the_same_settings_share_a_table():
    headings = [line for line in render_reference().splitlines() if line.startswith("### `sources")]
    domains = ("ai", "ic", "biomed")
    assert "### " + ", ".join(f"`sources.stackexchange_{name}`" for name in domains) in headings


def test_every_row_of_the_page_has_the_cells_of_its_table():
    rows = [line for line in render_reference().splitlines() if line.startswith("| ")]
    assert {row.replace("\\|", "").count("|") for row in rows} == {3, 5}
    assert not any(" |  |" in row for row in rows)


def test_config_shows_a_file_that_loads_to_the_same_settings(mine, tmp_path):
    text = printed("--config", mine)
    assert "  epochs: 7.0  # default: 3.0" in text.splitlines()
    assert "    rank: 8  # default: 16" in text.splitlines()
    assert text.count("# default") == 2
    again = tmp_path / "again.yaml"
    again.write_text(text, encoding="utf-8")
    assert load_config(again) == load_config(mine)


def test_config_as_json_is_the_same_mapping(mine):
    assert json.loads(printed("--config", mine, "--json")) == yaml.safe_load(
        printed("--config", mine)
    )


def test_config_prints_the_reference_and_a_schema_that_refuses_unknown_keys(demo_config):
    assert printed("--reference") == render_reference()
    schema = json.loads(printed("--schema"))
    assert schema["additionalProperties"] is False
    assert "training" in schema["properties"]
