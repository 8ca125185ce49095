"""Each page while it loads, when it fails, when there is nothing, and when nobody may."""

import contextlib
import json
import re
import time

import pytest
from playwright.sync_api import TimeoutError as TooLate
from playwright.sync_api import expect

from ui.browser import PHONE, log_in, open_page
from ui.rollout_rows import PHASED
from ui.sample_rows import LABELLED
from ui.tour import violations

pytestmark = pytest.mark.chromium

PAGES = [
    "/fleet",
    "/fleet?view=sites",
    "/fleet/pi-porto-01",
    "/enrol",
    "/models",
    "/models/har",
    "/models/har/3",
    "/models/door/6/compare/7",
    "/rollouts",
    f"/rollouts/{PHASED}",
    "/alerts",
    "/drift",
    "/drift/har",
    "/loop",
    "/loop/har",
    "/samples",
    f"/samples/{LABELLED}",
    "/labels",
    "/labels/har",
    "/trust",
    "/audit",
    "/settings",
]
SHELL = re.compile(r"/api/v1/(me|openid|events|alerts/counts)(\?|$)")
"""What the frame around every page asks for; those have tests of their own."""
AGAIN_S = 60.0
"""A page with many parts asks each of them again, and a slow machine is slow at it."""
PROBLEM = {
    "title": "Service Unavailable",
    "status": 503,
    "code": "database.busy",
    "detail": "The database does not answer.",
    "hint": "Look at the server's log.",
    "request_id": "r-4711",
}


def of_the_page(request):
    """Say whether a page asks for its own content."""
    return "/api/v1/" in request.url and not SHELL.search(request.url)


@pytest.mark.parametrize("path", PAGES)
def test_it_says_that_it_loads_and_what_has_failed_and_goes_on(visit, path):
    watched = visit("admin")
    page = watched.page
    held = []
    failing = True

    def answer(route):
        if not of_the_page(route.request):
            route.fallback()
        elif held is not None:
            held.append(route)
        elif failing:
            fail(route)
        else:
            route.fallback()

    def fail(route):
        body = json.dumps(PROBLEM)
        route.fulfill(status=503, content_type="application/problem+json", body=body)

    page.route("**/api/v1/**", answer)
    page.goto(watched.origin + path)
    main = page.locator("main")
    expect(main.locator("[aria-busy=true]").first).to_be_visible()
    expect(main.get_by_role("alert")).to_have_count(0)

    waiting, held = held, None
    for route in waiting:
        fail(route)
    alert = main.get_by_role("alert").first
    expect(alert).to_contain_text("The database does not answer.")
    expect(alert).to_contain_text("Look at the server's log.")
    expect(alert).to_contain_text("database.busy · request r-4711")
    expect(main.locator("[aria-busy=true]")).to_have_count(0)

    failing = False
    alerts = main.get_by_role("alert")
    end = time.monotonic() + AGAIN_S
    while alerts.count() and time.monotonic() < end:  # each part of a page has its own
        with contextlib.suppress(TooLate):  # what is asked again by itself takes it along
            alerts.first.get_by_role("button", name="Try again").click(timeout=1_000)
    expect(alerts).to_have_count(0)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(main.locator(".stale")).to_have_count(0)


NOTHING = {
    "/fleet": "No device has enrolled yet",
    "/fleet?view=sites": "There is no site yet",
    "/enrol": "No device asks",
    "/models": "No model has been pushed yet",
    "/push": "Chosen files",
    "/rollouts": "Nothing has been rolled out yet",
    "/rollouts/new": "No model has been pushed yet",
    "/alerts": "Nothing is wrong",
    "/drift": "Nothing has been judged yet",
    "/loop": "No",
    "/samples": "No",
    "/labels": "No",
    "/trust": "Nothing waits",
    "/settings": "No selector is saved yet",
}


def test_on_the_first_day_each_page_says_what_to_do(empty_server, browser):
    """Nothing there is a state of its own: what it is, and the next step."""
    watched = open_page(browser, empty_server.url.rstrip("/"))
    page = watched.page
    page.goto(watched.origin)
    log_in(page, "admin", (empty_server.data / "admin-password").read_text().strip())
    expect(page.get_by_role("heading", name="Fleet")).to_be_visible()
    wide = page.viewport_size
    for path, words in NOTHING.items():
        watched.goto(path)
        place = page.get_by_role("list", name=words) if path == "/push" else page.get_by_text(words)
        expect(place.first).to_be_visible()
        expect(page.get_by_role("alert")).to_have_count(0)
        assert not violations(page, "main"), path
        page.set_viewport_size(PHONE)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path
        page.set_viewport_size(wide)
    # Before the login, who asks who is there is told 401.
    assert not [one for one in watched.troubles if "401" not in one]
    page.context.close()
