"""Logging in and out, what a role may do, and what happens when the session ends."""

import re

import pytest
from playwright.sync_api import expect

from ui.browser import log_in, open_page
from ui.rows import RUNNING

pytestmark = pytest.mark.chromium


@pytest.fixture
def stranger(browser, origin):
    watched = open_page(browser, origin)
    yield watched
    watched.page.context.close()


def test_logging_in_opens_the_address_that_was_asked_for_and_out_closes_it(stranger):
    page = stranger.page
    page.goto(f"{stranger.origin}/models/har")
    log_in(page, "operator")
    expect(page.get_by_role("heading", name="har", exact=True)).to_be_visible()
    cookie = page.context.cookies()[0]
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"

    page.get_by_role("button", name="operator, operator: user menu").click()
    page.get_by_role("menuitem", name="Log out").click()
    expect(page.get_by_role("button", name="Log in")).to_be_visible()
    page.reload()
    expect(page.get_by_role("button", name="Log in")).to_be_visible()


def test_a_wrong_password_is_said_and_the_name_stays(stranger):
    page = stranger.page
    page.goto(stranger.origin)
    log_in(page, "viewer", "not this one")
    expect(page.get_by_role("alert")).to_have_text("The user name or the password is wrong.")
    expect(page.get_by_label("User name")).to_have_value("viewer")
    log_in(page, "viewer")
    expect(page.get_by_role("heading", name="Fleet")).to_be_visible()


def test_when_the_session_ends_the_next_answer_leads_to_the_login(stranger):
    page = stranger.page
    page.goto(stranger.origin)
    log_in(page, "viewer")
    expect(page.get_by_role("heading", name="Fleet")).to_be_visible()
    stranger.settled()
    page.context.clear_cookies()
    # In one step: the page may ask by itself at any time, and then the login is there already.
    page.evaluate("document.querySelector('a[href=\"/rollouts\"]')?.click()")
    expect(page.get_by_role("button", name="Log in")).to_be_visible()
    asked_for = page.url.removeprefix(stranger.origin)
    log_in(page, "viewer")
    heading = {"/fleet": "Fleet", "/rollouts": "Rollouts"}[asked_for]
    expect(page.get_by_role("heading", name=heading, exact=True)).to_be_visible()
    assert page.url == stranger.origin + asked_for


def test_a_viewer_sees_what_others_may_do_and_why_not_they(visit):
    watched = visit("viewer")
    page = watched.goto(f"/rollouts/{RUNNING}")
    for name in ("Pause", "Abort"):
        button = page.get_by_role("button", name=name)
        expect(button).to_have_attribute("aria-disabled", "true")
        expect(button).to_have_attribute(
            "aria-description", re.compile("needs the role operator; you are logged in as viewer")
        )
    abort = page.get_by_role("button", name="Abort")
    abort.hover(force=True)
    expect(page.get_by_role("tooltip")).to_contain_text("needs the role operator")
    abort.click(force=True)
    abort.press("Enter")
    expect(page.get_by_role("dialog")).to_have_count(0)

    watched.goto("/fleet/pi-porto-01")
    expect(page.get_by_role("button", name="Decommission")).to_have_attribute(
        "aria-description", re.compile("needs the role admin")
    )
    assert not watched.troubles


def test_the_server_refuses_what_the_page_would_not_offer(visit):
    page = visit("viewer").goto("/fleet")
    refusals = page.evaluate(
        """async (id) => {
          const me = await (await fetch('/api/v1/me')).json();
          const post = (headers) => fetch(`/api/v1/rollouts/${id}/actions/abort`, {
            method: 'POST', body: '{}', headers: {'Content-Type': 'application/json', ...headers},
          }).then((answer) => answer.json());
          return [await post({}), await post({'X-CSRF-Token': me.csrf})].map((one) => one.code);
        }""",
        RUNNING,
    )
    assert refusals == ["auth.csrf", "auth.role"]
