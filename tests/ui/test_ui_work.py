"""What operators do with the page: find, start, steer, make tokens; by mouse and by keyboard."""

import re

import pytest
from playwright.sync_api import expect

from ui.rows import PAUSED, RUNNING
from ui.update_rows import SPECIAL

pytestmark = pytest.mark.chromium


def test_search_filters_and_order_are_in_the_address_and_survive_a_reload(visit, api):
    devices = api("GET", "/fleet")["devices"]
    watched = visit()
    page = watched.goto("/fleet")
    rows = page.get_by_role("region", name="Devices").locator("tbody tr:not(.detail)")
    expect(rows).to_have_count(25)
    expect(page.get_by_text(f"1\N{EN DASH}25 of {devices}")).to_be_visible()

    page.get_by_role("link", name=re.compile("^Offline")).click()
    expect(rows).to_have_count(4)
    page.get_by_label("Search devices").fill("gdansk")
    expect(page).to_have_url(re.compile("online=false.*q=gdansk"))
    page.get_by_role("button", name="Device", exact=True).click()
    expect(page).to_have_url(re.compile("sort=-id"))
    expect(rows).to_have_count(1)
    names = [name.split("\n")[0] for name in rows.all_inner_texts()]

    page.reload()
    watched.settled()
    expect(page.get_by_label("Search devices")).to_have_value("gdansk")
    expect(page.get_by_role("columnheader", name="Device")).to_have_attribute(
        "aria-sort", "descending"
    )
    assert [name.split("\n")[0] for name in rows.all_inner_texts()] == names
    page.get_by_role("button", name="Offline, remove filter").click()
    page.get_by_label("Clear search").click()
    expect(rows).to_have_count(25)
    page.get_by_role("button", name="Next page").click()
    expect(page.get_by_text(f"26\N{EN DASH}{devices} of {devices}")).to_be_visible()
    assert not watched.troubles


def test_numbers_lead_to_the_list_that_they_count(visit):
    page = visit().goto("/fleet")
    failing = page.get_by_role("link", name=re.compile("^Failing"))
    expect(failing).to_contain_text("3")
    failing.click()
    rows = page.get_by_role("region", name="Devices").locator("tbody tr:not(.detail)")
    expect(rows).to_have_count(3)
    expect(page.get_by_text("no space left on the device")).to_be_visible()

    page.get_by_role("link", name=re.compile("^Updating")).click()
    expect(page).to_have_url(re.compile(r"/fleet\?updating=true$"))
    expect(rows).to_have_count(2 + len(SPECIAL))
    expect(page.get_by_role("button", name="Updating, remove filter")).to_be_visible()

    page.goto(page.url.split("/fleet")[0] + f"/rollouts/{RUNNING}")
    page.get_by_role("link", name=re.compile("Rolled back 1")).click()
    expect(page).to_have_url(re.compile("state=rolled_back"))
    table = page.get_by_role("region", name="Devices of this rollout")
    expect(table.locator("tbody tr:not(.detail)")).to_have_count(1)


def test_the_abort_dialog_by_keyboard(visit):
    watched = visit()
    page = watched.goto(f"/rollouts/{RUNNING}")
    button = page.get_by_role("button", name="Abort")
    button.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Abort this rollout")
    expect(dialog.locator(":focus")).to_have_count(1)
    for _ in range(12):
        page.keyboard.press("Tab")
        assert page.evaluate(
            "document.querySelector('[role=dialog]').contains(document.activeElement)"
        )
    confirm = dialog.get_by_role("button", name="Abort rollout")
    expect(confirm).to_be_disabled()
    dialog.get_by_label("Reason").fill("it's wrong")
    expect(dialog.locator("code", has_text="edgectl rollout abort")).to_contain_text(
        f"edgectl rollout abort {RUNNING} --reason 'it'\\''s wrong'"
    )
    dialog.get_by_label("Type har@3 to confirm").fill("har@3")
    expect(confirm).to_be_enabled()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(button).to_be_focused()
    assert not watched.troubles


def test_a_paused_rollout_is_aborted_with_a_reason_and_stays_so(visit):
    page = visit().goto(f"/rollouts/{PAUSED}")
    page.get_by_role("button", name="Abort").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("wrong labels")
    dialog.get_by_label("Type kws@1.0 to confirm").fill("kws@1.0")
    dialog.get_by_role("button", name="Abort rollout").click()
    expect(dialog).to_have_count(0)
    expect(page.get_by_text("Aborted", exact=True).first).to_be_visible()
    history = page.get_by_role("list", name="History of this rollout")
    expect(history).to_contain_text("wrong labels")
    expect(page.get_by_role("button", name="Abort")).to_have_attribute("aria-disabled", "true")


def test_starting_a_rollout(visit, api):
    watched = visit()
    page = watched.goto("/models/kws/1.0")
    page.get_by_role("button", name="Start rollout").click()
    expect(page.get_by_role("heading", name="Start rollout")).to_be_visible()
    expect(page.get_by_role("combobox", name="Version")).to_have_value(re.compile(r"^1\.0"))
    page.get_by_text("Chosen", exact=True).click()
    start = page.get_by_role("button", name="Start rollout")
    expect(start).to_have_attribute("aria-description", "Choose at least one device.")
    page.get_by_role("combobox", name="Devices").fill("lyon-09")
    page.get_by_role("option", name=re.compile("pi-lyon-09")).click()
    page.keyboard.press("Escape")
    page.get_by_label("Pause after failures").fill("2")
    expect(page.locator("code")).to_have_text(
        "edgectl rollout start kws@1.0 --device pi-lyon-09 "
        "--max-in-progress 100 --failures-max 2 --observe 10"
    )
    start.click()
    expect(page.get_by_role("heading", name="kws 1.0")).to_be_visible()
    identity = page.url.rsplit("/", 1)[1]
    started = api("GET", f"/rollouts/{identity}")
    chosen = {"all": False, "group": "", "where": "", "devices": ["pi-lyon-09"]}
    assert started["selector"] == chosen
    assert started["policy"]["failures_max"] == 2
    assert not watched.troubles

    # The same again is refused, with the way to the one that is in the way.
    page.goto(f"{watched.origin}/rollouts/new?model=kws&version=1.0&device=pi-lyon-09")
    page.get_by_role("button", name="Start rollout").click()
    problem = page.get_by_role("alert")
    expect(problem).to_contain_text("rollout.conflict")
    problem.get_by_role("link", name=f"Open rollout {identity}").click()
    expect(page).to_have_url(re.compile(identity))
    api("POST", f"/rollouts/{identity}/actions/abort", {})


def test_an_api_token_works_once_created_and_not_once_revoked(visit, origin):
    page = visit().goto("/settings")
    page.get_by_label("Name", exact=True).fill("nightly <b>build</b>")
    page.get_by_role("button", name="Create token").click()
    token = page.locator("code", has_text=re.compile("^edgectl_")).inner_text()

    def status():
        headers = {"Authorization": f"Bearer {token}"}
        return page.request.get(f"{origin}/api/v1/fleet", headers=headers).status

    assert status() == 200
    page.get_by_role("button", name="Revoke nightly <b>build</b>").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name="Revoke nightly <b>build</b>")).to_have_count(0)
    page.context.clear_cookies()
    assert status() == 401


def test_an_enrol_token_comes_with_the_command_to_copy(visit, origin):
    watched = visit(permissions=["clipboard-read", "clipboard-write"])
    page = watched.goto("/fleet")
    page.get_by_role("button", name="Enrol devices").click()
    page.get_by_label("Group").first.fill("site-a")
    page.get_by_role("button", name="Make an enrol token").click()
    panel = page.locator("#token")
    command = panel.locator("code", has_text="edgectl-agent run")
    expect(command).to_contain_text(f"run --server {origin} --device DEVICE")
    panel.get_by_role("button", name="Copy command").click()
    expect(panel.get_by_role("status").filter(has_text="Copied")).to_have_count(1)
    copied = page.evaluate("navigator.clipboard.readText()")
    start = rf"edgectl-agent run --server {re.escape(origin)} --device DEVICE"
    assert re.fullmatch(rf"EDGECTL_AGENT_TOKEN=ee_\S+ {start}", copied)
    table = page.get_by_role("region", name="Enrol tokens")
    row = table.locator("tr", has_text="site-a")
    row.get_by_role("button", name="Revoke").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(row).to_have_count(0)
    expect(table).to_contain_text("site-lyon")


def test_a_new_token_is_listed_though_an_answer_of_before_comes_late(visit):
    """The list is asked for, a token is made, and only then comes the answer."""
    watched = visit()
    page, late = watched.page, []

    def hold(route):
        if late:
            route.fallback()
        else:
            late.append((route, route.fetch()))

    page.route("**/api/v1/enrolment/tokens?*", hold)
    page.goto(f"{watched.origin}/enrol")
    page.get_by_label("Group").first.fill("site-b")
    page.get_by_role("button", name="Make an enrol token").click()
    expect(page.locator("#token code", has_text="edgectl-agent run")).to_be_visible()
    for route, answer in late:
        route.fulfill(response=answer)
    row = page.get_by_role("region", name="Enrol tokens").locator("tr", has_text="site-b")
    row.get_by_role("button", name="Revoke").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(row).to_have_count(0)


def test_a_decommissioned_device_says_so(visit, api):
    before = api("GET", "/fleet")
    page = visit("admin").goto("/fleet/pi-gdansk-10")
    page.get_by_role("button", name="Decommission").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("edgectl devices decommission pi-gdansk-10")
    dialog.get_by_label(re.compile("to confirm")).fill("pi-gdansk-10")
    dialog.get_by_role("button", name="Decommission").click()
    expect(dialog).to_have_count(0)
    expect(page.get_by_text("Decommissioned").first).to_be_visible()

    # It is counted no longer, and listed on request.
    page.get_by_role("link", name="Fleet", exact=True).first.click()
    for name, left in (("Devices", before["devices"] - 1), ("Offline", before["offline"])):
        tile = page.get_by_role("link", name=re.compile(f"^{name}"))
        expect(tile.locator(".tile-value")).to_have_text(str(left))
        tile.click()
        expect(page.locator(".pager")).to_contain_text(f"of {left}")
    page.get_by_role("link", name=re.compile("^Devices")).click()
    page.get_by_role("combobox", name="State").click()
    page.get_by_role("option", name="Decommissioned").click()
    expect(page.locator(".pager")).to_contain_text("of 1")
    expect(page.get_by_role("link", name="pi-gdansk-10")).to_be_visible()
