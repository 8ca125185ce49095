"""Pages of drift: numbers lead to their lists, and why is told in pictures and in words."""

import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import expect
from sqlalchemy import update

from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import DriftStateRow
from ui.browser import PHONE, WIDE
from ui.test_ui_pages import parse
from ui.tour import commands, violations
from ui.watch_rows import DRIFTED, MOVED, STUCK, USUAL_DAYS

pytestmark = pytest.mark.chromium

SOON_MS = 20_000
"""The page itself asks again after a minute."""


def test_numbers_lead_to_the_lists_that_they_count(visit):
    page = visit().goto("/drift")
    models = page.get_by_role("region", name="Models")
    row = models.locator("tbody tr")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("har 3")
    where = page.get_by_role("region", name="Where")
    for link, state in ((row.get_by_role("link", name=re.compile("drifting")).nth(1), "drifting"),
                        (row.get_by_role("link").last, None)):  # fmt: skip
        counted = int(re.match(r"\d+", link.inner_text())[0])
        link.click()
        expect(page).to_have_url(re.compile("level=device"))
        expect(page.get_by_text(re.compile(rf"^1.\d+ of {counted}$"))).to_be_visible()
        if state:
            expect(where.locator("tbody .state").first).to_have_text("Drifting")
    expect(where).to_contain_text("stuck at one value")
    page.get_by_role("button", name="Faulty data, remove filter").click()
    page.get_by_label("Search sites and devices").fill("gdansk-0")
    expect(page.get_by_text(re.compile("of 9$"))).to_be_visible()
    expect(page).to_have_url(re.compile("q=gdansk-0"))


def test_why_is_told_in_pictures_with_words_and_in_numbers(visit):
    page = visit().goto("/drift/har")
    expect(page.get_by_role("heading", level=1)).to_have_text("har 3, the fleet")
    expect(page.get_by_text("of 8 features have left the reference")).to_be_visible()
    moved = page.locator("#features .feature").first
    expect(moved).to_contain_text(MOVED)
    expect(moved).to_contain_text("Values are higher")
    picture = moved.get_by_role("img")
    expect(picture).to_have_attribute(
        "aria-label", re.compile(rf"^{MOVED}, reference and now over 14 bins. Most different: ")
    )
    expect(moved.locator("rect[data-of=now]")).to_have_count(14)
    moved.get_by_text("As a table").click()
    expect(moved.get_by_role("region").locator("tbody tr")).to_have_count(14)
    moved.get_by_role("button", name=f"{MOVED} over time").click()
    expect(page).to_have_url(re.compile(f"feature={MOVED}"))
    course = page.locator("#course")
    for name in ("How far from the reference", "How likely by chance"):
        chart = course.get_by_role("img", name=re.compile(f"^{name}"))
        expect(chart).to_have_attribute("aria-label", re.compile(MOVED))
    expect(course).to_contain_text("30 of 30 devices")
    page.get_by_role("link", name=DRIFTED, exact=True).first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"har 3, site {DRIFTED}")
    expect(page.get_by_role("region", name="Devices").locator("tbody tr")).to_have_count(10)
    expect(page.get_by_text("edgectl drift show har --site porto").first).to_be_visible()


def test_a_device_tells_its_drift_and_leads_to_why(visit):
    page = visit("viewer").goto(f"/fleet/{STUCK}")
    panel = page.locator("#drift")
    expect(panel).to_contain_text("stuck at one value")
    panel.get_by_role("link", name="har 3").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"har 3, {STUCK}")
    expect(page.get_by_text("Something is wrong with the data itself")).to_be_visible()
    expect(page.get_by_role("link", name="the device")).to_have_attribute("href", f"/fleet/{STUCK}")


@pytest.fixture
def usual(api):
    """The days that are usual, as they were before and are again after a test."""
    before = api("GET", "/models/har/drift/usual")
    yield before
    api("PUT", "/models/har/drift/usual", {name: before[name] for name in ("since", "until")})


def said(day):
    return f"{day.day} {day:%b %Y}"


def test_usual_days_are_shown_changed_taken_back_and_said_again(visit, api, usual):
    page = visit().goto("/drift/har")
    panel = page.locator("#usual")
    today = datetime.now(UTC).date()  # noqa: TID251 - the browser has this clock
    begin, end = (datetime.fromisoformat(usual[name]).date() for name in ("since", "until"))
    assert (end - begin).days == USUAL_DAYS
    expect(panel).to_contain_text(f"{said(begin)} to {said(end - timedelta(days=1))}")
    expect(panel).to_contain_text(f"{USUAL_DAYS} days")
    expect(panel).to_contain_text("by operator")

    panel.get_by_role("button", name="Change").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("First day")).to_have_value(f"{begin}")
    expect(dialog.get_by_label("Last day")).to_have_value(f"{end - timedelta(days=1)}")
    change = dialog.get_by_role("button", name="Change")
    for first, last, why in (
        (today, today + timedelta(days=4), "has to be over"),
        (end, end, "takes 3 to 62 days"),
        (end - timedelta(days=62), end, "takes 3 to 62 days"),
        ("", end, "Choose both days"),
    ):
        dialog.get_by_label("First day").fill(f"{first}")
        dialog.get_by_label("Last day").fill(f"{last}")
        expect(dialog.get_by_role("status").first).to_contain_text(why)
        expect(change).to_be_disabled()
        assert not commands(dialog)
    first, last = begin + timedelta(days=1), end
    dialog.get_by_label("First day").fill(f"{first}")
    dialog.get_by_label("Last day").fill(f"{last}")
    after = last + timedelta(days=1)
    (command,) = commands(dialog)
    assert command == f"edgectl drift usual har --from {first}T00:00Z --to {after}T00:00Z"
    parse(command)
    change.click()
    expect(dialog).to_have_count(0)
    expect(panel).to_contain_text(f"{said(first)} to {said(last)}")
    stored = api("GET", "/models/har/drift/usual")
    assert datetime.fromisoformat(stored["since"]) == datetime(*first.timetuple()[:3], tzinfo=UTC)
    assert datetime.fromisoformat(stored["until"]) == datetime(*after.timetuple()[:3], tzinfo=UTC)

    panel.get_by_role("button", name="Remove").click()
    (command,) = commands(dialog)
    assert command == "edgectl drift usual har --off"
    dialog.get_by_role("button", name="Remove").click()
    expect(panel).to_contain_text("none: the reference decides alone")
    expect(panel.get_by_role("button", name="Remove")).to_have_count(0)
    assert not violations(page, "#usual")
    page.set_viewport_size(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    panel.get_by_role("button", name="Say which were usual").click()
    expect(dialog.get_by_label("First day")).to_have_value(f"{today - timedelta(days=7)}")
    expect(dialog.get_by_label("Last day")).to_have_value(f"{today - timedelta(days=1)}")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.set_viewport_size(WIDE)
    assert not violations(page, "[role=dialog]")
    dialog.get_by_role("button", name="Say that they were usual").click()
    expect(panel).to_contain_text(f"to {said(today - timedelta(days=1))}")
    expect(panel.get_by_role("button", name="Change")).to_be_focused()


def test_usual_days_with_hours_are_told_with_them_and_a_refusal_is(visit, api, usual):
    """The command line takes any moments; between showing and pressing a day may have passed."""
    moments = {name: usual[name].replace("T00:00", "T22:00") for name in ("since", "until")}
    api("PUT", "/models/har/drift/usual", moments)
    page = visit().goto("/drift/har")
    panel = page.locator("#usual")
    expect(panel).to_contain_text(re.compile(r"20\d\d, 22:00 to .*20\d\d, 22:00"))
    refused = {"status": 422, "code": "drift.usual", "detail": "usual are days that are over"}
    page.route(
        "**/models/har/drift/usual",
        lambda route: route.fulfill(
            status=422, content_type="application/problem+json", body=json.dumps(refused)
        ),
    )
    panel.get_by_role("button", name="Change").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Change").click()
    expect(dialog.get_by_role("alert")).to_contain_text("drift.usual")
    expect(dialog.get_by_role("button", name="Change")).to_be_enabled()


def test_a_viewer_sees_usual_days_and_why_not_to_change_them(visit):
    page = visit("viewer").goto(f"/drift/har?device={STUCK}")
    panel = page.locator("#usual")
    expect(panel).to_contain_text(f"{USUAL_DAYS} days")
    assert commands(panel) == ["edgectl drift usual har"]
    for name in ("Change", "Remove"):
        button = panel.get_by_role("button", name=name)
        expect(button).to_have_attribute("aria-disabled", "true")
        expect(button).to_have_attribute("aria-description", re.compile("operator"))
        button.click(force=True)
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_what_is_judged_meanwhile_comes_by_itself(visit, server):
    page = visit().goto("/drift?level=site&q=lyon")
    state = page.get_by_role("region", name="Where").locator("tbody .state")
    expect(state).to_have_text("As the reference")
    expect(page.locator(".side [data-live=true]")).to_be_visible()
    database = Database(f"sqlite:///{server.data / 'edgectl.sqlite'}")
    group = (DriftStateRow.level == "site", DriftStateRow.group == "lyon")
    try:
        with database.write() as session:
            later = DriftStateRow.until
            until = session.query(later).filter(*group).scalar() + timedelta(seconds=1)
            session.execute(
                update(DriftStateRow).where(*group).values(state="suspected", until=until)
            )
        expect(state).to_have_text("Suspected", timeout=SOON_MS)
    finally:
        with database.write() as session:
            session.execute(update(DriftStateRow).where(*group).values(state="quiet"))
        database.close()


def test_nothing_judged_and_a_failure_are_told(visit):
    page = visit().page
    page.route(
        "**/api/v1/drift-summary*",
        lambda route: route.fulfill(json={"items": [], "total": 0}),
    )
    watched = visit()
    watched.page.route(
        "**/api/v1/drift-summary*", lambda route: route.fulfill(json={"items": [], "total": 0})
    )
    page = watched.goto("/drift")
    expect(page.get_by_text("Nothing has been judged yet")).to_be_visible()
    problem = {"status": 503, "code": "database.busy", "detail": "The database does not answer."}
    page.route(
        "**/api/v1/models/har/drift?*",
        lambda route: route.fulfill(
            status=503, content_type="application/problem+json", body=json.dumps(problem)
        ),
    )
    page.goto(f"{watched.origin}/drift/har?site=porto")
    expect(page.get_by_role("alert")).to_contain_text("database.busy")
    page.goto(f"{watched.origin}/drift/kws")
    expect(page.get_by_role("heading", level=1)).to_contain_text("nothing was judged of kws")
    page.get_by_role("link", name="Drift of all models").click()
    expect(page).to_have_url(f"{watched.origin}/drift")
