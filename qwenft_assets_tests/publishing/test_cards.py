"""The cards: valid for the Hub, true to the records, silent about private rows."""

from typing import Any

import httpx
import pytest
from huggingface_hub import ModelCard, close_session, set_client_factory
from huggingface_hub.utils import build_hf_headers

from qwenft_assets.publishing.bundle import build_bundle
from qwenft_assets.publishing.dataset import render_dataset_card
from qwenft_assets.publishing.model_card import render_model_card
from qwenft_assets_tests.loopback_hub_writes import LoopbackHub
from qwenft_assets_tests.loopback_server import serving
from qwenft_assets_tests.publishing.conftest import BASE, COMMIT, PRIVATE_REPORT


@pytest.fixture
def validated_on_loopback():
    """The client sends cards to huggingface.co whatever HF_ENDPOINT says: lead it to loopback."""
    with serving(LoopbackHub()) as hub:

        class ToLoopback(httpx.HTTPTransport):
            def handle_request(self, request):
                local = httpx.URL(hub.url)
                request.url = request.url.copy_with(scheme="http", host=local.host, port=local.port)
                return super().handle_request(request)

        set_client_factory(lambda: httpx.Client(transport=ToLoopback()))
        yield hub
        set_client_factory(lambda: httpx.Client(headers=build_hf_headers()))
        close_session()


def test_both_cards_pass_the_clients_validation(released, validated_on_loopback):
    subject = released.subject()
    for content in ("adapter", "merged", "gguf"):
        render_model_card(subject, content).validate()
    render_dataset_card(subject, {"train": 5, "eval": 1}).validate()
    assert len(validated_on_loopback.sent("POST /api/validate-yaml")) == 4
    wrong = released.subject(license="my-licence")
    with pytest.raises(ValueError, match="my-licence"):
        render_model_card(wrong, "adapter").validate()


def test_the_metadata_names_base_data_licence_and_results(released):
    data: Any = ModelCard.load(
        build_bundle(released.subject(), "adapter").folder / "README.md"
    ).data
    assert (data.base_model, data.library_name, data.license) == (BASE, "peft", "apache-2.0")
    assert data.to_dict()["base_model_relation"] == "adapter"
    assert data.datasets == [
        "HuggingFaceH4/stack-exchange-preferences", "me/tiny-mixture", "qiaojin/PubMedQA",
    ]  # fmt: skip
    results = {result.dataset_type: result for result in data.eval_results}
    assert results["qiaojin/PubMedQA"].dataset_revision == COMMIT
    assert results["me/tiny-mixture"].metric_value == 7.389


def test_the_text_gives_figures_licences_and_limits_but_no_private_row(released):
    text = str(render_model_card(released.subject(), "adapter"))
    assert "| pubmedqa | 4 | 9.03 | 7.39 | -0.2000 | -0.3000 to -0.1000 |" in text
    assert "| local_reports | private | 1 | 0 | not published |" in text
    assert "CC BY-SA 4.0" in text
    assert "1 of the train rows are private" in text
    assert "r 4, alpha 8" in text
    for fragment in (PRIVATE_REPORT[:20], "Why does it fail", "f" * 64, str(released.base)):
        assert fragment not in text


def test_bundled_stand_ins_are_not_passed_off_as_the_datasets(released):
    subject = released.subject()
    sources = subject.config.sources.model_copy(update={"origin": "samples"})
    bundled = type(subject)(
        **{
            **{name: getattr(subject, name) for name in subject.__dataclass_fields__},
            "config": subject.config.model_copy(update={"sources": sources}),
        }
    )
    card: Any = render_model_card(bundled, "adapter")
    assert card.data.datasets == ["me/tiny-mixture"]
    text = str(card)
    assert "bundled stand-in for [qiaojin/PubMedQA]" in text
    assert "written for the qwenft project" in text
    for of_the_real_ones in (COMMIT, "aclanthology.org", "by their authors"):
        assert of_the_real_ones not in text
