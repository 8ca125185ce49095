"""The page of alerts, with what the server itself finds wrong with the rows; and who sees to it."""

import json
import re

import pytest
from playwright.sync_api import expect

from ui.browser import PHONE
from ui.tour import violations
from ui.watch_rows import DRIFTED, STUCK

pytestmark = pytest.mark.chromium


@pytest.fixture(scope="module")
def raised(browser, origin, sessions):
    """Wait until the server has looked at all that is wrong."""
    context = browser.new_context(storage_state=sessions["viewer"])
    page = context.new_page()
    page.goto(f"{origin}/alerts?kind=drift.site")
    expect(page.get_by_role("region", name="Alerts").locator("tbody .state").first).to_be_visible()
    context.close()


@pytest.fixture
def alerts(raised, visit):
    """``alerts(query, role)``: the page, and its rows by what they say."""

    def begin(query="", role="operator", **options):
        page = visit(role, **options).goto(f"/alerts{query}")
        return page, page.get_by_role("region", name="Alerts").locator("tbody tr:not(.detail)")

    return begin


def test_what_is_wrong_is_listed_and_leads_to_its_cause(alerts):
    page, rows = alerts("?q=sees other data")
    expect(rows.first.locator(".state").first).to_have_text("Critical")
    site = rows.filter(has_text=f"on site {DRIFTED}")
    expect(site).to_have_count(1)
    expect(site).to_contain_text("nobody")
    below = site.locator("+ .detail")
    expect(below).to_contain_text(f"edgectl drift show har --site {DRIFTED}")
    below.get_by_role("link", name="Why").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"har 3, site {DRIFTED}")
    page, rows = alerts()
    total = page.get_by_role("link", name=re.compile("^Open")).locator(".tile-value")
    expect(total).to_have_text(re.compile(r"\d+"))
    page.get_by_role("link", name=re.compile("^Critical")).click()
    expect(page).to_have_url(re.compile("severity=critical"))
    expect(rows.filter(has_text="Warning")).to_have_count(0)
    expect(rows.locator(".state").first).to_have_text("Critical")
    page, rows = alerts("?kind=data.constant")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text(STUCK)
    page.get_by_role("button", name="Kind data.constant, remove filter").click()
    expect(rows.nth(3)).to_be_visible()


def test_somebody_takes_acknowledges_and_ends_one(alerts):
    page, rows = alerts(f"?device={STUCK}&kind=data.constant")
    row = rows.filter(has_text="values do not change")
    below = row.locator("+ .detail")
    below.get_by_role("button", name="Take").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("User")).to_have_value("operator")
    expect(dialog.locator(".command")).to_contain_text("edgectl alerts assign")
    dialog.get_by_role("button", name="Assign").click()
    expect(dialog).to_have_count(0)
    expect(row.locator("td").nth(3)).to_have_text("operator")
    below.get_by_role("button", name="Acknowledge").click()
    dialog.get_by_label("Reason").fill("on my way")
    dialog.get_by_role("button", name="I know of it").click()
    expect(row).to_contain_text("Acknowledged operator")
    expect(below.get_by_role("button", name="Acknowledge")).to_have_attribute(
        "aria-disabled", "true"
    )
    page, rows = alerts()
    page.get_by_role("button", name="Mine").click()
    expect(rows).to_have_count(1)
    expect(page.get_by_text("edgectl alerts list --owner operator")).to_be_visible()
    rows.locator("+ .detail").get_by_role("button", name="End").click()
    page.get_by_role("dialog").get_by_role("button", name="End it").click()
    expect(page.get_by_text("No alert matches")).to_be_visible()
    page, rows = alerts("?state=resolved&owner=operator")
    expect(rows).to_have_count(1)
    expect(rows.locator(".state").nth(1)).to_have_text("Ended")
    expect(rows.locator("+ .detail").get_by_role("button", name="End")).to_have_attribute(
        "aria-disabled", "true"
    )


def test_a_silence_is_seen_on_what_it_keeps_quiet_and_can_be_ended(alerts):
    page, rows = alerts("?kind=devices.overdue")
    row = rows.filter(has_text="porto")
    row.locator("+ .detail").get_by_role("button", name="Silence").click()
    dialog = page.get_by_role("dialog")
    silence = dialog.get_by_role("button", name="Silence")
    expect(silence).to_be_disabled()
    dialog.get_by_role("combobox", name="Which").or_(dialog.get_by_label("Which")).first.click()
    dialog.get_by_role("option", name="All devices.overdue at porto").click()
    dialog.get_by_label("Reason").fill("power works")
    expect(dialog.locator(".command")).to_contain_text(
        "edgectl alerts silence add --kind devices.overdue --site porto --for 4h"
    )
    silence.click()
    expect(dialog).to_have_count(0)
    expect(row).to_contain_text("silent until")
    force = page.get_by_role("list", name="Silences in force").locator("li")
    expect(force).to_have_count(1)
    expect(force).to_contain_text("devices.overdue at porto")
    expect(force).to_contain_text("power works, by operator")
    assert not violations(page)
    force.get_by_role("button", name="End the silence of devices.overdue at porto").click()
    expect(dialog.locator(".command")).to_contain_text("edgectl alerts silence remove ")
    dialog.get_by_role("button", name="End it").click()
    expect(dialog).to_have_count(0)
    expect(force).to_have_count(0)
    expect(row).not_to_contain_text("silent until")


def test_a_viewer_reads_a_phone_fits_and_a_failure_is_told(alerts, visit):
    page, rows = alerts("?kind=drift.site", "viewer")
    expect(rows).to_have_count(1)
    for name in ("Acknowledge", "Take", "Silence", "End"):
        button = rows.locator("+ .detail").get_by_role("button", name=name)
        expect(button).to_have_attribute("aria-disabled", "true")
        button.click(force=True)
    expect(page.get_by_role("dialog")).to_have_count(0)
    page, rows = alerts("?kind=drift.site", viewport=PHONE)
    expect(rows).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    watched = visit()
    problem = {"status": 503, "code": "database.busy", "detail": "The database does not answer."}
    watched.page.route(
        "**/api/v1/alerts?*",
        lambda route: route.fulfill(
            status=503, content_type="application/problem+json", body=json.dumps(problem)
        ),
    )
    watched.page.goto(f"{watched.origin}/alerts")
    expect(watched.page.get_by_role("alert")).to_contain_text("database.busy")
    quiet = visit()
    quiet.page.route(
        "**/api/v1/alerts?*", lambda route: route.fulfill(json={"items": [], "total": 0})
    )
    expect(quiet.goto("/alerts").get_by_text("Nothing is wrong")).to_be_visible()
