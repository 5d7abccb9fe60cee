"""Mistakes in a config file: each is told in one line with the file and the key."""

import pytest

from qwenft_assets.config import load_config
from qwenft_assets.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "key"),
    [
        pytest.param("trainig: {epochs: 1}", "`trainig`", id="unknown-section"),
        pytest.param("training: {lora: {rnk: 8}}", "`training.lora.rnk`", id="unknown-nested-key"),
        pytest.param("training: {epochs: many}", "`training.epochs`", id="not-a-number"),
        pytest.param(
            "automation: {rebuild_small_cron: '0 25 * * 1'}",
            "`automation.rebuild_small_cron`: '0 25 * * 1' is no cron line",
            id="no-such-hour",
        ),
        pytest.param(
            "automation: {rebuild_large_cron: weekly}",
            "`automation.rebuild_large_cron`: 'weekly' is no cron line of five fields",
            id="no-cron",
        ),
        pytest.param(
            "automation: {time_zone: Mars/Olympus}",
            "`automation.time_zone`: 'Mars/Olympus' is no time zone",
            id="no-time-zone",
        ),
        pytest.param(
            "automation: {switched_on: [rebuild_tiny]}",
            "`automation.switched_on.0`",
            id="no-such-schedule",
        ),
        pytest.param("training: {epochs: 0}", "`training.epochs`", id="out-of-bounds"),
        pytest.param("training: {weights: int8}", "`training.weights`", id="not-a-choice"),
        pytest.param(
            "mixture: {recipes: {small: {rows: 10, ratios: {slimorca: 0.5, pubmedqa: 0.6}}}}",
            "`mixture.recipes.small`: ratios sum to 1.1000",
            id="ratios-above-1",
        ),
        pytest.param(
            "mixture: {recipes: {small: {rows: 10, ratios: {}}}}",
            "`mixture.recipes.small`: ratios sum to 0.0000",
            id="no-ratios",
        ),
        pytest.param(
            "mixture: {recipes: {small: {rows: 10, ratios: {slimorca: 1.0, pubmedqa: 0.0}}}}",
            "`mixture.recipes.small`: every ratio must be above 0",
            id="ratio-zero",
        ),
        pytest.param(
            "mixture: {recipes: {small: {rows: 10, ratios: {slimorka: 1}}}}",
            "recipes.small.ratios: 'slimorka' is neither a source",
            id="unknown-source",
        ),
        pytest.param(
            "mixture: {recipes: {small: {rows: 10, ratios: {bio: 0.5, pubmedqa: 0.5}}}}",
            "recipes.small.ratios: 'pubmedqa' is counted twice",
            id="source-also-in-a-group",
        ),
        pytest.param(
            "mixture: {recipes: {medium: {rows: 10, ratios: {slimorca: 1}}}}",
            "`mixture.recipes.medium",
            id="unknown-recipe",
        ),
        pytest.param(
            "mixture: {groups: {bio: [pubmedqa, pubmed]}}",
            "`mixture.groups.bio.1`: 'pubmed' is no source; there is: local_reports, slimorca",
            id="unknown-source-in-a-group",
        ),
        pytest.param("sources: {stackexchange_ai: {sites: 3}}", "sites`", id="sites-no-list"),
    ],
)
def test_wrong_setting_names_the_file_and_the_key(write_config, text, key):
    path = write_config(text)
    with pytest.raises(ConfigError) as raised:
        load_config(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert key in message
    assert "\n" not in message


def test_several_mistakes_are_counted(write_config):
    path = write_config("training: {epochs: 0, seeed: 1}\nname: x")
    with pytest.raises(ConfigError, match=r"\(1 more\)"):
        load_config(path)


@pytest.mark.parametrize(
    ("text", "about"),
    [
        pytest.param("training: {epochs: 1\nname: x", "not YAML", id="bad-yaml"),
        pytest.param("- training\n- sources", "must be a mapping", id="a-list"),
        pytest.param("", "must be a mapping", id="empty"),
        pytest.param("just words", "must be a mapping", id="text"),
    ],
)
def test_file_that_is_no_mapping_is_refused(write_config, text, about):
    path = write_config(text)
    with pytest.raises(ConfigError) as raised:
        load_config(path)
    assert str(raised.value).startswith(f"{path}: {about}")
    assert "\n" not in str(raised.value)


def test_missing_file_is_named_with_one_that_exists(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read.*configs/demo\.yaml"):
        load_config(tmp_path / "nowhere.yaml")


def test_file_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes("name: Müller".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml: cannot be read"):
        load_config(path)
