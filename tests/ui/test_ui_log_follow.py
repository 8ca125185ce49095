"""An operator follows the log of a real device on its page; in a real browser."""

import pytest
from playwright.sync_api import expect

from e2e.fleet import Agent
from edgectl.types import LogsStart
from ui.browser import log_in
from waiting import wait_for

pytestmark = [pytest.mark.chromium, pytest.mark.e2e]


def test_lines_of_a_real_device_appear_while_somebody_looks(browser, empty_server, tmp_path):
    server = empty_server
    agent = Agent(server, "pi-1", tmp_path / "pi-1", server.enrol_token())
    agent.start()
    context = browser.new_context()
    try:
        wait_for(lambda: server.client.device("pi-1").online, "the device online")
        password = (server.data / "admin-password").read_text().strip()
        page = context.new_page()
        page.goto(server.url)
        log_in(page, "admin", password)
        expect(page.get_by_role("link", name="Settings")).to_be_visible()
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{server.url.rstrip('/')}/fleet/pi-1")
        page.get_by_role("button", name="Follow", exact=True).click()
        log = page.get_by_role("log", name="Log of pi-1")
        expect(log).to_contain_text("an operator follows the log")
        server.client.wait_job(server.client.start_logs("pi-1", LogsStart()).id)
        expect(log).to_contain_text("an operator has asked for the logs")
        expect(page.locator(".command", has_text="--follow")).to_have_count(1)
        expect(page.get_by_text("ends by itself")).to_be_visible()

        page.get_by_role("button", name="Stop", exact=True).click()
        expect(log).to_have_count(0)
        del asked[:]
        page.get_by_role("button", name="Follow", exact=True).click()
        expect(log).to_contain_text("an operator follows the log")
        agent.stop()
        expect(page.get_by_text("The device is not connected any more.")).to_be_visible()
        follows = [url for url in asked if "/logs/follow" in url]
        assert follows
        page.get_by_role("button", name="Follow again").click()
        expect(page.get_by_role("alert")).to_contain_text("pi-1 is not connected")
    finally:
        context.close()
        agent.stop()


def test_who_may_only_look_does_not_follow(visit):
    page = visit("viewer").goto("/fleet/pi-porto-01")
    button = page.get_by_role("button", name="Follow", exact=True)
    expect(button).to_have_attribute("aria-disabled", "true")
