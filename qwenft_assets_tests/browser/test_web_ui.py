"""What a person does in the web UI, by clicking: look, materialize, read, switch on, terminate.

The tests build on one another, top to bottom, as a person's first session would.
"""

import os
import re
import time
from pathlib import Path

import pytest

from qwenft_assets_tests.browser.conftest import PAYLOADS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FLOW = ("source_sample", "mixed_dataset", "lora_adapter", "evaluation", "release")
STEP = re.compile(r"step \d+/\d+ loss \d")
SCHEDULES = """{ schedulesOrError(repositorySelector: {repositoryName: "__repository__",
  repositoryLocationName: "qwenft_assets"}) {
  ... on Schedules { results { name scheduleState { status } } } } }"""
RUN_STATUS = '{ runOrError(runId: "%s") { ... on Run { status } } }'


def launch(page, partition):
    """Materialize one partition by the page's button; the id of the run, whose page is open then."""
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_text("Select a partition or create one").click()
    page.get_by_text(partition, exact=True).first.click()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Launch 1 run").click()
    page.get_by_text("View", exact=True).last.click()
    page.wait_for_url("**/runs/*")
    return page.url.rsplit("/", 1)[1].split("?")[0]


def ended(web_ui, run_id, seconds=240):
    """The status that a run ends with."""
    deadline = time.monotonic() + seconds
    while True:
        status = web_ui.ask(RUN_STATUS % run_id)["runOrError"]["status"]
        if status in {"SUCCESS", "FAILURE", "CANCELED"}:
            return status
        assert time.monotonic() < deadline, status
        time.sleep(1)


def wait_for_live_loss(page, web_ui, run_id, seconds=240):
    """Until the log of the running run, open in the page, shows a step's loss."""
    deadline = time.monotonic() + seconds
    while page.get_by_text(STEP).count() == 0:
        status = web_ui.ask(RUN_STATUS % run_id)["runOrError"]["status"]
        assert status not in {"SUCCESS", "FAILURE", "CANCELED"}, f"no loss was seen: {status}"
        assert time.monotonic() < deadline
        page.wait_for_timeout(200)


def open_asset(page, name):
    page.goto(f"/assets/{name}")
    page.get_by_text("Filter metadata keys").or_(
        page.get_by_placeholder("Filter metadata keys")
    ).first.wait_for()


def open_lineage(page):
    """The whole graph, large enough to read what each asset is."""
    page.set_viewport_size({"width": 2200, "height": 640})
    page.goto("/asset-groups")
    page.get_by_text("Hide navigation").click()
    page.get_by_text("training", exact=True).first.wait_for()
    page.get_by_label("panel_show_right").last.click()  # the list of groups beside the graph
    page.wait_for_timeout(1500)
    page.keyboard.press("Alt+e")  # all groups open
    page.get_by_text("published_adapter", exact=True).last.wait_for()


def test_the_lineage_shows_the_assets_in_flow_order(page, shoot):
    open_lineage(page)
    boxes = [page.get_by_text(name, exact=True).last.bounding_box() for name in FLOW]
    lefts = [box["x"] for box in boxes]
    assert lefts == sorted(lefts)
    shoot("lineage_before")


def test_a_source_is_sampled_by_clicking(page, web_ui, shoot):
    page.goto("/assets/source_sample")
    for source in ("local_reports", "slimorca", "pubmedqa"):
        run_id = launch(page, source)
        assert ended(web_ui, run_id) == "SUCCESS"
        page.goto("/assets/source_sample")
    page.goto("/assets/source_sample?view=partitions&partition=local_reports")
    page.get_by_text("admitted_by").first.wait_for()
    shoot("source_sample")


def test_text_of_a_dataset_never_becomes_markup(page, shoot):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: asked.append(f"dialog {dialog.message}"))
    page.goto("/assets/source_sample?view=partitions&partition=local_reports")
    page.get_by_text("first_rows", exact=True).first.wait_for()
    for payload in PAYLOADS:
        page.get_by_text(payload).first.wait_for()  # as it was written, letter by letter
    page.wait_for_timeout(1500)
    assert page.evaluate("window.stolen") is None
    assert page.locator("img[src=x]").count() == 0
    assert page.locator("a[href^='javascript:']").count() == 0
    assert page.locator("a[href*='collector.example']").count() == 0
    assert [url for url in asked if "collector.example" in url or url.startswith("dialog")] == []
    shoot("hostile_rows")


def test_the_small_recipe_is_trained_by_clicking_with_live_loss(page, web_ui, shoot):
    page.goto("/locations/qwenft_assets/jobs/finetune_job")
    run_id = launch(page, "small")
    wait_for_live_loss(page, web_ui, run_id)
    shoot("live_loss")
    assert ended(web_ui, run_id) == "SUCCESS"


def test_the_lineage_is_filled_after_a_rebuild(page, shoot):
    open_lineage(page)
    page.get_by_text("4 / 4 Passed").wait_for()  # the mixture's checks
    shoot("lineage")


def test_the_figures_are_read_at_a_glance(page, shoot):
    page.set_viewport_size({"width": 1500, "height": 1500})
    open_asset(page, "evaluation")
    page.get_by_text("per_source", exact=True).first.wait_for()
    page.get_by_role("columnheader", name="base_perplexity").or_(
        page.get_by_text("base_perplexity")
    ).first.wait_for()
    shoot("evaluation")
    page.get_by_role("button", name="Plots").click()
    page.get_by_text("perplexity", exact=True).first.wait_for()
    assert page.locator("canvas").count() >= 1
    shoot("perplexity_plot")


def test_the_loss_picture_is_drawn_in_place(page, shoot):
    open_asset(page, "lora_adapter")
    picture = page.locator("img[src^='data:image/png']").first
    picture.wait_for()
    assert picture.evaluate("image => image.complete && image.naturalWidth") > 100
    shoot("loss_picture")


def test_the_champion_says_what_changed_and_what_it_bought(page, shoot):
    page.set_viewport_size({"width": 1500, "height": 1200})
    open_asset(page, "release")
    page.get_by_text("what_it_bought", exact=True).first.wait_for()
    page.get_by_text(re.compile(r"^perplexity [\d.]+, the base [\d.]+")).first.wait_for()
    # From the release to its evaluation and adapter.
    assert page.locator("a[href$='/assets/evaluation']").count() >= 1
    assert page.locator("a[href$='/assets/lora_adapter']").count() >= 1
    shoot("release")


def test_a_schedule_is_switched_on_and_off(page, web_ui, shoot):
    def status():
        results = web_ui.ask(SCHEDULES)["schedulesOrError"]["results"]
        return {r["name"]: r["scheduleState"]["status"] for r in results}["rebuild_small"]

    assert status() == "STOPPED"
    page.goto("/locations/qwenft_assets/schedules/rebuild_small")
    switch = page.locator("input[type=checkbox]").first
    for wanted in ("RUNNING", "STOPPED"):
        switch.wait_for(state="attached")
        switch.locator("xpath=..").click()
        deadline = time.monotonic() + 30
        while status() != wanted:
            assert time.monotonic() < deadline
            time.sleep(0.3)
        shoot(f"schedule_{wanted.lower()}")


def test_a_running_training_is_terminated(page, web_ui, shoot):
    config = web_ui.deployment.config
    config.write_text(config.read_text("utf-8").replace("epochs: 1", "epochs: 5000"), "utf-8")
    page.goto("/locations/qwenft_assets/jobs/finetune_job")
    run_id = launch(page, "small")
    wait_for_live_loss(page, web_ui, run_id)
    assert workers_of(web_ui)
    page.get_by_role("button", name="Terminate").click()
    page.get_by_role("button", name="Terminate").last.click()
    assert ended(web_ui, run_id) == "CANCELED"
    deadline = time.monotonic() + 60
    while workers_of(web_ui):
        assert time.monotonic() < deadline, "the training process is still there"
        time.sleep(0.5)
    page.goto(f"/runs/{run_id}")
    page.get_by_text("Canceled").first.wait_for()
    shoot("terminated")


def workers_of(web_ui):
    """Ids of the training processes of this deployment."""
    storage = f"QWENFT_STORAGE={web_ui.deployment.storage}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if b"qwenft_assets.training.worker" in command and storage in environment:
                found.append(int(entry.name))
    return found
