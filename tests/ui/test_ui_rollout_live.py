"""A rollout to simulated devices from the form to its end, through a server that is killed."""

import os
import re
import subprocess
import sys

import pytest
from playwright.sync_api import expect

from ui.browser import log_in, open_page
from ui.test_ui_live import ACTIVITY
from waiting import wait_for

pytestmark = pytest.mark.chromium

DEVICES = 4
BOUND_MS = 60_000


@pytest.fixture
def devices(empty_server, tmp_path):
    """Simulated devices that speak the real protocol."""
    token = empty_server.client.create_token("simulation", "operator", expires_in_s=3600).token
    with (tmp_path / "simulation.err").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "edgectl", "simulate", "--json", "--devices", str(DEVICES),
             "--folder", str(tmp_path / "fleet"), "--download", "0.1"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
            env={**os.environ, "EDGECTL_URL": empty_server.url, "EDGECTL_TOKEN": token},
        )  # fmt: skip
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.usefixtures("devices")
def test_a_rollout_is_followed_from_the_form_to_its_end(empty_server, browser):
    pushed = empty_server.push("har", ACTIVITY / "har_v1.onnx", "1", precisions=["fp32"])
    assert pushed.state == "succeeded", pushed
    client = empty_server.client
    wait_for(lambda: client.fleet().online == DEVICES, "all devices are there", bound_s=60)
    watched = open_page(browser, empty_server.url.rstrip("/"))
    page = watched.page
    page.goto(
        f"{watched.origin}/rollouts/new?model=har&version=1&phases=canary:1"
        "&approve-after=canary&observe=0"
    )
    log_in(page, "admin", (empty_server.data / "admin-password").read_text().strip())
    plan = page.get_by_role("region", name="Phases of the plan").locator("tbody tr")
    expect(plan.nth(1)).to_contain_text(str(DEVICES - 1))
    page.get_by_role("button", name="Start rollout").click()
    state = page.locator(".head .state")
    expect(state).to_have_text("Running")
    phases = page.get_by_role("list", name="Phases", exact=True).locator("> li")
    expect(phases).to_have_count(2)
    canary, others = phases.nth(0), phases.nth(1)
    expect(canary).to_contain_text("waits for your approval", timeout=BOUND_MS)
    expect(canary).to_contain_text(re.compile("Passed.*Committed", re.DOTALL))
    expect(others).to_contain_text(f"Open places {DEVICES - 1}")
    page.evaluate("window.stillTheSamePage = true")

    page.get_by_label("Search devices").fill("sim")
    empty_server.kill()
    stale = page.get_by_role("alert").filter(has_text="Stale since")
    expect(stale).to_be_visible(timeout=BOUND_MS)
    expect(canary).to_contain_text("waits for your approval")
    empty_server.start()
    expect(stale).to_have_count(0, timeout=BOUND_MS)
    expect(page.get_by_label("Search devices")).to_have_value("sim")

    page.get_by_role("button", name="Approve").click()
    page.get_by_role("dialog").get_by_role("button", name="Approve").click()
    expect(state).to_have_text("Completed", timeout=2 * BOUND_MS)
    expect(others).to_contain_text(f"Committed {DEVICES - 1}")
    assert page.evaluate("window.stillTheSamePage")
    page.context.close()
