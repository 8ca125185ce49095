"""Pages of datasets: what is in one, where it comes from, and what was trained on it."""

import re

import pytest
from playwright.sync_api import expect

from ui.browser import PHONE
from ui.loop_rows import CURRENT, DATASET

pytestmark = pytest.mark.chromium


def test_from_a_run_to_its_dataset_and_what_was_trained_on_it(visit):
    page = visit("viewer").goto(f"/loop/har?run={CURRENT}")
    page.get_by_role("link", name=DATASET).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(DATASET)
    rows = page.get_by_role("region", name="Rows by class and split").locator("tbody tr")
    expect(rows).to_have_count(5)
    expect(rows.nth(0)).to_contain_text(re.compile("100.*16.*30"))
    expect(rows.nth(3)).to_contain_text(re.compile("All.*168.*24.*48"))
    expect(rows.nth(4)).to_contain_text(re.compile("devices.*7.*1.*2"))
    expect(page.get_by_text("no device is in two splits")).to_be_visible()
    expect(page.get_by_text("7 conflict")).to_be_visible()
    trained = page.get_by_role("list", name="Retrainings").locator("li")
    expect(trained).to_have_count(2)
    for command in (
        f"edgectl dataset show {DATASET}",
        f"edgectl data check {DATASET}",
        f"edgectl retrain har --dataset {DATASET}",
    ):
        expect(page.get_by_text(command, exact=True)).to_have_count(1)


def test_the_list_is_searched_and_filtered_by_model(visit):
    page = visit().goto("/labels/har")
    page.get_by_role("link", name="Datasets", exact=True).last.click()
    rows = page.get_by_role("region", name="Datasets").locator("tbody tr")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("168, 24, 48")
    page.get_by_label("Search datasets").fill("nothing-of-it")
    expect(page.get_by_text("No dataset matches")).to_be_visible()
    page = visit().goto("/datasets?model=kws")
    expect(page.get_by_text("No dataset matches")).to_be_visible()


def test_rules_of_data_are_asked_when_somebody_wants_it(visit):
    """Here the store has no rows of it, which is told as what it is."""
    watched = visit()
    page = watched.goto(f"/datasets/{DATASET}")
    expect(page.get_by_role("alert")).to_have_count(0)
    page.get_by_role("button", name="Check it").click()
    expect(page.get_by_role("alert")).to_be_visible()
    page.route(
        "**/checks*",
        lambda route: route.fulfill(
            json={
                "id": "sha256:" + "0" * 64,
                "failed": 1,
                "findings": [
                    {"check": "schema", "status": "passed", "detail": "240 rows", "samples": []},
                    {"check": "labels", "status": "failed", "detail": "one input has two labels",
                     "samples": ["5a00000000000000"]},
                ],
            }
        ),
    )  # fmt: skip
    page.get_by_role("button", name="Try again").click()
    findings = page.get_by_role("list", name="Findings").locator("li")
    expect(findings).to_have_count(2)
    expect(findings.nth(1)).to_contain_text("Failed")
    expect(findings.nth(1).get_by_role("link")).to_have_attribute(
        "href", "/samples/5a00000000000000"
    )


def test_it_fits_a_phone_and_an_unknown_one_is_told(visit):
    page = visit(viewport=PHONE).goto(f"/datasets/{DATASET}")
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= PHONE["width"]
    page = visit().goto("/datasets/unknown")
    expect(page.get_by_role("link", name="All datasets")).to_be_visible()
