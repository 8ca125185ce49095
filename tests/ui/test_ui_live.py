"""Changes arrive by themselves; trouble with the server is said, and nothing shown is lost."""

import json
import re
import signal
from pathlib import Path

import pytest
from playwright.sync_api import expect

from edgectl import demo
from ui.browser import log_in, open_page
from ui.rows import RUNNING
from waiting import wait_for

pytestmark = pytest.mark.chromium

ACTIVITY = Path(demo.__file__).with_name("activity")
STAGES = [
    "fetch", "convert", "check", "clean", "evaluate", "quantize", "sensitivity", "latency",
    "golden", "publish",
]  # fmt: skip
SOON_MS = 12_000
"""A page of a rollout itself asks again after 15 s."""


@pytest.mark.parametrize("alone", [False, True], ids=["shared-worker", "a-stream-for-the-tab"])
def test_what_others_change_is_shown_without_a_reload(visit, api, alone):
    watched = visit()
    if alone:  # as in browsers that have none
        watched.page.add_init_script("delete window.SharedWorker")
    page = watched.goto(f"/rollouts/{RUNNING}")
    expect(page.locator(".side [data-live=true]")).to_be_visible()
    assert page.evaluate("'SharedWorker' in window") is not alone
    page.evaluate("window.stillTheSamePage = true")
    api("POST", f"/rollouts/{RUNNING}/actions/pause", {"reason": "wait for Monday"})
    state = page.locator(".head .state")
    expect(state).to_have_text("Paused", timeout=SOON_MS)
    expect(page.get_by_role("list", name="History of this rollout")).to_contain_text(
        "wait for Monday", timeout=SOON_MS
    )
    api("POST", f"/rollouts/{RUNNING}/actions/resume", {})
    expect(state).to_have_text("Running", timeout=SOON_MS)
    assert page.evaluate("window.stillTheSamePage")
    assert not watched.troubles


STATES = """
  window.states = [];
  new MutationObserver(() => {
    const now = document.querySelector('.head .state')?.innerText;
    if (now && now !== window.states.at(-1)) window.states.push(now);
  }).observe(document, {subtree: true, childList: true, characterData: true});
"""


def test_an_answer_of_before_does_not_undo_what_came_since(visit, api):
    watched = visit()
    page, late = watched.page, []

    def hold(route):
        if late:
            route.fallback()
        else:
            late.append((route, route.fetch()))

    page.add_init_script(STATES)
    page.route(f"**/api/v1/rollouts/{RUNNING}", hold)
    page.goto(f"{watched.origin}/rollouts/{RUNNING}")
    state = page.locator(".head .state")
    expect(state).to_have_text("Running")
    api("POST", f"/rollouts/{RUNNING}/actions/pause", {"reason": "wait for Tuesday"})
    try:
        expect(state).to_have_text("Paused")
        for route, answer in late:
            route.fulfill(response=answer)
        page.evaluate("fetch('/api/v1/me').then((answer) => answer.text())")
        page.evaluate("new Promise(requestAnimationFrame)")
        assert page.evaluate("window.states") == ["Running", "Paused"]
    finally:
        api("POST", f"/rollouts/{RUNNING}/actions/resume", {})
    assert not watched.troubles


def test_the_page_listens_to_every_kind_of_topic(visit):
    watched = visit()
    watched.goto("/trust")
    answer = watched.page.request.get(f"{watched.origin}/api/v1/events?topic=none")
    kinds = answer.json()["hint"].partition("one of: ")[2].split(", ")
    source = (Path(__file__).parents[2] / "server/ui/src/api/stream.ts").read_text()
    listened = re.search(r"TOPIC_KINDS = \[([^\]]*)\]", source)[1]
    assert sorted(re.findall(r'"(\w+)"', listened)) == kinds


def test_silence_without_an_error_is_said_and_ends_by_itself(visit, server):
    """No byte comes, and no end of the connection: as when a laptop slept, or a firewall forgot."""
    watched = visit()
    page = watched.goto(f"/rollouts/{RUNNING}")
    connection = page.locator(".side .connection")
    expect(connection).to_have_text("Live")
    page.wait_for_timeout(8_000)  # longer than from one beat to the next
    expect(connection).to_have_text("Live")
    server.signal(signal.SIGSTOP)
    try:
        expect(connection).to_have_text(re.compile(r"^Stale since"), timeout=40_000)
        stale = page.get_by_role("alert").filter(has_text="numbers below may be old")
        expect(stale).to_be_visible()
    finally:
        server.signal(signal.SIGCONT)
    expect(connection).to_have_text("Live", timeout=30_000)
    expect(stale).to_have_count(0)


COUNT_STREAMS = """
  delete window.SharedWorker;
  window.streams = [];
  window.EventSource = class extends EventSource {
    constructor(address) {
      super(address);
      window.streams.push(this);
    }
  };
"""


def test_a_page_that_is_left_before_its_stream_is_open_leaves_none_behind(visit):
    """Six connections are all that a browser has; each stream that nobody reads takes one."""
    watched = visit()
    page, held = watched.page, []

    def hold(route):
        held.append(route)

    page.add_init_script(COUNT_STREAMS)
    watched.goto("/fleet")
    live = page.locator(".side [data-live=true]")
    expect(live).to_be_visible()
    page.route("**/api/v1/events*", hold)
    for number, name in enumerate(("Drift", "Samples"), 1):
        page.get_by_role("link", name=name, exact=True).first.click()
        wait_for(lambda n=number: page.evaluate("1") and len(held) == n, f"the stream of {name}")
    page.unroute("**/api/v1/events*")
    page.get_by_role("link", name="Fleet", exact=True).first.click()
    page.wait_for_function("window.streams.at(-1).readyState === EventSource.OPEN")
    expect(live).to_be_visible()
    open_ones = "window.streams.filter((one) => one.readyState !== EventSource.CLOSED).length"
    page.wait_for_function(f"{open_ones} === 1")
    assert not watched.troubles


def test_more_tabs_than_connections(visit):
    # Over HTTP/1.1 a browser opens six connections to an origin; a stream a tab would hang it.
    watched = visit()
    context = watched.page.context
    pages = [watched.page, *(context.new_page() for _ in range(7))]
    for page in pages:
        page.goto(f"{watched.origin}/rollouts/{RUNNING}")
    for page in pages:
        expect(page.get_by_role("region", name="Devices of this rollout")).to_be_visible()
        expect(page.locator(".side [data-live=true]")).to_be_visible()


def test_a_failed_request_keeps_what_was_shown_and_can_be_tried_again(visit, api):
    devices = api("GET", "/fleet")["devices"]
    page = visit().goto("/fleet")
    rows = page.get_by_role("region", name="Devices").locator("tbody tr:not(.detail)")
    expect(rows).to_have_count(25)
    problem = {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "code": "database.busy",
        "detail": "The database does not answer.",
        "hint": "Look at the server's log.",
        "request_id": "r-4711",
    }

    asked = []

    def fail(route):
        asked.append(route.request.url)
        route.fulfill(status=503, content_type="application/problem+json", body=json.dumps(problem))

    page.route("**/api/v1/devices?*", fail)
    page.get_by_role("button", name="Device", exact=True).click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("The database does not answer.")
    expect(alert).to_contain_text("database.busy · request r-4711")
    expect(rows).to_have_count(25)
    before = len(asked)
    with page.expect_response("**/api/v1/devices?*", timeout=9_000):  # by itself after 10 s
        alert.get_by_role("button", name="Try again").click()
    assert len(asked) > before
    page.unroute("**/api/v1/devices?*")
    expect(alert).to_have_count(0, timeout=30_000)
    expect(page.get_by_role("columnheader", name="Device")).to_have_attribute(
        "aria-sort", "descending"
    )
    expect(page.get_by_text(f"1\N{EN DASH}25 of {devices}")).to_be_visible()


def test_a_push_is_followed_while_it_is_processed(visit):
    page = visit().goto("/models/har/4")
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "2")
    expect(page.locator(".stages [aria-current=step]")).to_have_text("quantize")
    expect(page.get_by_role("button", name="Start rollout")).to_have_attribute(
        "aria-description", re.compile("still being processed")
    )


FOLLOW = """
  window.stages = [];
  new MutationObserver(() => {
    const now = document.querySelector('.stages [aria-current=step]')?.innerText;
    if (now && now !== window.stages.at(-1)) window.stages.push(now);
  }).observe(document, {subtree: true, childList: true, characterData: true, attributes: true});
"""


def test_a_real_push_is_followed_to_its_report_without_a_reload(visit, server):
    watched = visit()
    watched.page.add_init_script(FOLLOW)
    job = server.begin_push(
        "walking",
        ACTIVITY / "har_v1.onnx",
        "1",
        calibration=ACTIVITY / "calibration.npz",
        evaluation=ACTIVITY / "eval.npz",
    )
    page = watched.goto("/models/walking/1")
    expect(page.locator(".head .state")).to_have_text("Ready", timeout=60_000)
    assert server.client.wait_job(job).state == "succeeded"
    table = page.get_by_role("region", name="Recipes that were tried")
    expect(table.get_by_text("Published as int8")).to_have_count(1)
    seen = page.evaluate("window.stages")
    assert len(set(seen)) > 1, "it was followed; which stages last long enough, the machine decides"
    assert seen == sorted(seen, key=STAGES.index), "each stage is known, and after the one before"
    assert not watched.troubles


def test_a_killed_server_is_said_and_loses_nothing_that_was_typed(empty_server, browser):
    password = (empty_server.data / "admin-password").read_text().strip()
    watched = open_page(browser, empty_server.url.rstrip("/"))
    page = watched.page
    page.clock.install()
    page.goto(watched.origin)
    log_in(page, "admin", password)
    expect(page.get_by_text("No device has enrolled yet")).to_be_visible()
    expect(page.get_by_text("edgectl devices token create")).to_be_visible()
    connection = page.locator(".side .connection")
    expect(connection).to_have_text("Live")
    page.get_by_role("link", name="Settings", exact=True).click()
    page.get_by_label("Name", exact=True).fill("half-typed")

    empty_server.kill()
    expect(connection).to_have_text("Reconnecting\N{HORIZONTAL ELLIPSIS}", timeout=10_000)
    page.clock.fast_forward(15_000)
    expect(connection).to_have_text(re.compile(r"^Stale since \d\d:\d\d:\d\d$"))
    empty_server.start()
    expect(connection).to_have_text("Live", timeout=20_000)
    expect(page.get_by_label("Name", exact=True)).to_have_value("half-typed")
    page.get_by_role("button", name="Create token").click()
    expect(page.get_by_text("It is shown this once")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    page.context.close()
