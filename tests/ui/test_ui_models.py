"""The pages of models: who descends from whom, what differs, who runs what."""

import re

import pytest
from playwright.sync_api import expect

from ui.bundle_files import CASES
from ui.rows import MANIFEST
from ui.test_ui_pages import parse
from ui.tour import commands

pytestmark = pytest.mark.chromium


def test_the_lineage_is_drawn_and_its_nodes_are_links(visit):
    watched = visit()
    page = watched.goto("/models/door")
    nodes = page.get_by_role("region", name="Lineage").get_by_role("link")
    assert [name.split("\n")[0] for name in nodes.all_inner_texts()] == ["5", "6", "7", "6-lab"]
    expect(nodes.nth(3)).to_contain_text("from 6")
    nodes.nth(0).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Version 5")
    expect(page.get_by_role("link", name="version 6", exact=True)).to_be_visible()
    assert not watched.troubles


def test_two_versions_side_by_side(visit):
    watched = visit()
    page = watched.goto("/models/door/7")
    page.get_by_role("button", name="Compare with 6").or_(
        page.get_by_role("link", name="Compare with 6")
    ).click()
    expect(page).to_have_url(re.compile("/models/door/6/compare/7$"))
    expect(page.get_by_text("7 descends from 6")).to_be_visible()
    contract = page.get_by_role("region", name="Input and output").locator("tbody tr")
    texts = [re.sub(r"\s+", " ", text) for text in contract.all_inner_texts()]
    assert texts == ["Output scores FP32 [N, 2] FP32 [N, 3]", "Label 2 none ajar"]
    variants = page.get_by_role("region", name="Variants").locator("tbody tr")
    expect(variants.filter(has_text="onnx-int8")).to_contain_text("+2.5 %")
    expect(page.get_by_role("region", name="Gates").locator("tbody tr")).to_have_count(4)
    assert commands(page) == ["edgectl models compare door@6 door@7"]
    parse(commands(page)[0])
    page.get_by_role("button", name="Swap").click()
    expect(page).to_have_url(re.compile("/models/door/7/compare/6$"))
    expect(variants.filter(has_text="onnx-int8")).to_contain_text("\N{MINUS SIGN}2.5 %")
    assert not watched.troubles


def test_who_runs_it_leads_to_the_devices(visit, api):
    page = visit().goto("/models/har")
    rows = page.get_by_role("region", name="Who runs it").locator("tbody tr")
    found = api("GET", "/models/har/running")
    expect(rows).to_have_count(len(found))
    for row, one in zip(rows.all(), found, strict=True):
        expect(row).to_contain_text(str(one["devices"]))
    link = rows.first.get_by_role("link").last
    expect(link).to_have_attribute("href", re.compile("where=runs%3Dhar%40sha256"))
    page = api("GET", f"/devices?where=runs=har@{MANIFEST}&limit=1")
    assert page["total"] == sum(one["devices"] for one in found)


def test_golden_inputs_are_told(visit):
    page = visit().goto("/models/har/3")
    rows = page.get_by_role("region", name="Golden inputs").locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text(
        re.compile(rf"{CASES}.*90 %.*0\.02 \+ 0\.001 of it", re.DOTALL)
    )
    expect(page.get_by_text("Chosen: 10 confident, 6 uncertain")).to_be_visible()
    expect(page.get_by_text("4f1c2ab")).to_be_visible()


def test_values_are_of_the_metric_of_their_version(visit):
    """An error of 2.5 is no share of one, and an agreement no better accuracy."""
    watched = visit()

    def change(route):
        found = route.fetch().json()
        found["left"]["metric"], found["left"]["best"]["trial"]["value"] = "rmse", 2.5
        found["right"]["metric"] = metric
        route.fulfill(json=found)

    watched.page.route("**/compare?*", change)
    metric = "agreement"
    page = watched.goto("/models/har/1/compare/3")
    rows = page.get_by_role("region", name="At a glance").locator("tbody tr")
    expect(rows.filter(has_text="Its value")).to_have_text(re.compile(r"2\.5 rmse.* % agreement$"))
    metric = "rmse"
    page = watched.goto("/models/har/1/compare/3")
    expect(rows.filter(has_text="Its rmse")).to_have_text(
        re.compile("2.50\\..*\N{MINUS SIGN}.* %$")  # smaller by so much, which is better
    )
    page = watched.goto("/models/har")
    versions = page.get_by_role("region", name="Versions").locator("tbody tr")
    expect(versions.first.locator("xpath=..")).to_contain_text(re.compile(r"% ?accuracy"))
    assert not watched.troubles
