"""A sample that is missing, empty or stale is an error that names the command that mends it."""

import pytest

from qwenft_assets.config import Config, Recipe
from qwenft_assets.errors import MixtureError
from qwenft_assets.mixture.samples import require_extended, sample_manifests
from qwenft_assets.sources.sample import sample_source
from qwenft_assets.storage.files import read_json, write_json


def config_with(sources: dict) -> Config:
    return Config.model_validate({"name": "test", "sources": sources})


def stale_message(config, storage, source):
    with pytest.raises(MixtureError, match=rf"the sample of {source} is stale: ") as raised:
        sample_manifests(config, [source], storage)
    assert str(raised.value).endswith(f"Run `qwenft sample {source}`.")
    return str(raised.value)


@pytest.mark.parametrize(
    ("source", "before", "after"),
    [
        pytest.param("slimorca", {"max_rows": 20}, {"max_rows": 20, "seed": 7}, id="seed"),
        pytest.param("slimorca", {"max_rows": 20}, {"max_rows": 40}, id="larger-quota"),
        pytest.param("pubmedqa", {}, {"holdout_official_test": False}, id="held-out-set"),
        pytest.param(
            "stackexchange_ai", {}, {"keywords": {"words": ["neural network"]}}, id="keywords"
        ),
    ],
)
def test_other_settings_make_a_sample_stale_until_it_is_sampled_again(
    storage, source, before, after
):
    sample_source(config_with({source: before}), source, storage)
    assert sample_manifests(config_with({source: before}), [source], storage)
    changed = config_with({source: after})
    stale_message(changed, storage, source)
    sample_source(changed, source, storage)
    assert sample_manifests(changed, [source], storage)


def test_smaller_quota_does_not_make_a_sample_stale(storage):
    sample_source(config_with({"slimorca": {"max_rows": 40}}), "slimorca", storage)
    smaller = config_with({"slimorca": {"max_rows": 20}})
    assert sample_manifests(smaller, ["slimorca"], storage)


def test_edited_reports_make_their_sample_stale(storage, tmp_path):
    reports = tmp_path / "mine.json"
    reports.write_text('[{"instruction": "a", "output": "b"}]', encoding="utf-8")
    config = config_with({"local_reports": {"path": str(reports)}})
    sample_source(config, "local_reports", storage)
    assert sample_manifests(config, ["local_reports"], storage)
    reports.write_text('[{"instruction": "a", "output": "c"}]', encoding="utf-8")
    assert "mine.json has changed since" in stale_message(config, storage, "local_reports")


def test_origin_with_the_same_files_is_taken_over_without_a_new_sample(storage):
    from qwenft_assets.sources.origin import SAMPLES_FOLDER

    sample_source(config_with({}), "slimorca", storage)
    moved = config_with({"origin": str(SAMPLES_FOLDER)})
    stale_message(moved, storage, "slimorca")
    assert sample_source(moved, "slimorca", storage).reused
    assert sample_manifests(moved, ["slimorca"], storage)["slimorca"]["origin"] == str(
        SAMPLES_FOLDER
    )


def test_empty_sample_is_named(storage):
    sample_source(config_with({}), "slimorca", storage)
    path = storage.source_sample("slimorca") / "manifest.json"
    write_json(path, {**(read_json(path) or {}), "rows": 0})
    with pytest.raises(MixtureError, match=r"the sample of slimorca is empty\. .*qwenft sample"):
        sample_manifests(config_with({}), ["slimorca"], storage)


def test_a_sample_cut_short_of_a_recipe_names_the_rows_to_extend_it_to(storage):
    recipe = Recipe(rows=100, ratios={"slimorca": 0.4, "pubmedqa": 0.6})
    config = config_with({})
    enough = {"slimorca": 40, "pubmedqa": 59}
    with pytest.raises(MixtureError, match=r"^pubmedqa: 60 rows asked, .* holds 59 .*--rows 66`"):
        require_extended(recipe, config, enough, {"pubmedqa": {"exhausted": False}})
    # Where upstream has no more, the recipe's `shortfall` decides.
    for no_more in ({"exhausted": True}, {}):
        require_extended(recipe, config, enough, {"pubmedqa": no_more})
