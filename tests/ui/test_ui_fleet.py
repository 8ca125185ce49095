"""The fleet's lists and what is done with one device or many; in a real browser."""

import re

import pytest
from playwright.sync_api import expect

from ui.fleet_rows import HELD, PLACES
from ui.rows import name_of

pytestmark = pytest.mark.chromium


def counted(api, query):
    """Return how many devices there are of it now: other tests change the fleet too."""
    return api("GET", f"/devices?{query}")["total"]


def rows_of(page, name="Devices"):
    return page.get_by_role("region", name=name).locator("tbody tr:not(.detail)")


def test_sites_lead_to_their_devices(visit):
    watched = visit("viewer")
    page = watched.goto("/fleet")
    page.get_by_text("Sites", exact=True).click()
    expect(page).to_have_url(re.compile("view=sites"))
    expect(rows_of(page, "Sites")).to_have_count(3)
    drawn = page.get_by_role("group", name=f"Map of {len(PLACES)} sites")
    expect(drawn.get_by_role("link")).to_have_count(len(PLACES))
    overdue = rows_of(page, "Sites").filter(has_text="porto").get_by_role("link").nth(3)
    number = overdue.inner_text()
    overdue.click()
    expect(page).to_have_url(re.compile(r"site=porto&overdue=true"))
    expect(rows_of(page)).to_have_count(int(number))
    expect(page.get_by_role("button", name="Site porto, remove filter")).to_be_visible()
    expect(page.locator(".command", has_text="--overdue")).to_contain_text("--site porto")
    page.go_back()
    drawn.get_by_role("link", name=re.compile("^lyon")).focus()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("site=lyon"))
    assert not watched.troubles


def test_a_selector_says_where_it_goes_wrong_and_keeps_the_list(visit, api):
    meant = counted(api, "where=site%3Dporto%20and%20hw%3Drpi5")
    watched = visit("viewer")
    page = watched.goto("/fleet")
    selector = page.get_by_label("Selector", exact=True)
    selector.fill("site=porto and hw=rpi5")
    page.keyboard.press("Enter")
    expect(rows_of(page)).to_have_count(meant)
    selector.fill("site=porto and hw=")
    page.keyboard.press("Enter")
    problem = page.get_by_role("alert")
    expect(problem).to_contain_text("expected a value of hw, at character 19")
    expect(problem.locator("mark")).to_have_count(1)
    expect(rows_of(page)).to_have_count(meant)
    page.get_by_role("button", name="Clear selector").click()
    expect(problem).to_have_count(0)
    expect(rows_of(page)).to_have_count(25)
    # The browser says of its own accord that a request was refused; nothing else went wrong.
    assert not [one for one in watched.troubles if "status of 422" not in one]


def test_selectors_are_saved_used_and_deleted(visit, api):
    page = visit("operator").goto("/fleet?where=hw%3Drpi4")
    page.get_by_role("button", name="Save selector").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill("four")
    expect(dialog.locator("code")).to_have_text("edgectl selectors set four hw=rpi4")
    dialog.get_by_role("button", name="Save").click()
    expect(page).to_have_url(re.compile("where=%40four"))
    expect(rows_of(page)).to_have_count(counted(api, "where=hw%3Drpi4"))
    page.get_by_role("button", name="Saved").click()
    page.get_by_role("menuitem", name=re.compile("^porto-pis")).click()
    expect(page).to_have_url(re.compile("where=%40porto-pis"))
    expect(rows_of(page)).to_have_count(counted(api, "where=%40porto-pis"))
    page.get_by_role("link", name="Settings", exact=True).click()
    page.get_by_role("button", name="Delete four").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("button", name="Delete four")).to_have_count(0)


def test_what_selectors_share_is_shown(visit, api):
    api("PUT", "/selectors/rpi5", {"text": "hw=rpi5"})
    watched = visit("viewer")
    page = watched.goto("/settings#selectors")
    page.get_by_role("button", name="Overlaps of porto-pis").click()
    dialog = page.get_by_role("dialog")
    row = dialog.locator("tbody tr", has_text="@rpi5")
    expect(dialog.locator(".command")).to_contain_text("edgectl selectors overlaps porto-pis")
    shared = row.get_by_role("link").first
    number = counted(api, "where=%40porto-pis%20and%20%40rpi5")
    expect(shared).to_have_text(f"{number} devices")
    shared.click()
    expect(rows_of(page)).to_have_count(number)
    api("DELETE", "/selectors/rpi5")
    assert not watched.troubles


def test_chosen_devices_go_to_the_form_of_a_rollout(visit, api):
    page = visit().goto("/fleet?q=lyon")
    for name in ("pi-lyon-01", "pi-lyon-04"):
        page.get_by_label(f"Choose {name}").check()
    page.get_by_role("button", name="Roll out to 2").click()
    expect(page).to_have_url(re.compile("rollouts/new.*device=pi-lyon-01&device=pi-lyon-04"))
    command = page.locator(".command").last
    expect(command).to_contain_text("--device pi-lyon-01 --device pi-lyon-04")
    page = visit().goto("/fleet")
    number = counted(api, "limit=1")
    page.get_by_label("Choose all on this page").check()
    page.get_by_role("button", name=f"Choose all {number} that match").click()
    page.get_by_role("button", name=f"Roll out to {number}").click()
    expect(page.get_by_role("link", name=f"{number} devices now")).to_be_visible()


def test_chosen_devices_are_labelled(visit):
    page = visit("operator").goto("/fleet?site=gdansk&sort=id")
    first = rows_of(page).first
    first.get_by_role("checkbox").check()
    rows_of(page).nth(1).get_by_role("checkbox").check()
    page.get_by_role("button", name="Label 2").click()
    dialog = page.get_by_role("dialog", name="Label 2 devices")
    dialog.get_by_label("Labels").fill("tag=demo")
    expect(dialog.locator("code")).to_have_text(
        "edgectl devices label tag=demo --device pi-gdansk-01 --device pi-gdansk-02"
    )
    dialog.get_by_role("button", name="Label").click()
    expect(page.get_by_text("2 devices of 2 changed.")).to_be_visible()
    expect(first.get_by_role("link", name="tag: demo")).to_be_visible()


def test_all_that_match_are_labelled_after_they_were_counted(visit, api):
    number = counted(api, "where=hw%3Drpi4")
    page = visit("operator").goto("/fleet?where=hw%3Drpi4")
    page.get_by_label("Choose all on this page").check()
    expect(page.get_by_text(f"{number} devices chosen")).to_be_visible()
    page.get_by_label("Choose pi-lyon-01").uncheck()
    page.get_by_role("button", name=f"Choose all {number} that match").click()
    page.get_by_role("button", name=f"Label {number}").click()
    dialog = page.get_by_role("dialog", name=f"Label {number} devices")
    dialog.get_by_label("Labels").fill("fan=yes note- 7up")
    expect(dialog.get_by_role("button", name="Label")).to_be_disabled()
    dialog.get_by_label("Labels").fill("fan=yes note-")
    expect(dialog.locator("code")).to_have_text(
        f"edgectl devices label fan=yes note- --where hw=rpi4 --expect {number}"
    )
    # Somebody else was quicker: what was counted is not what would be done, so nothing is.
    api("POST", "/devices/labels", {"devices": ["pi-lyon-01"], "set": {"hw": "rpi5"}})
    dialog.get_by_role("button", name="Label").click()
    expect(dialog.get_by_role("alert")).to_contain_text("labels.expected")
    api("POST", "/devices/labels", {"devices": ["pi-lyon-01"], "set": {"hw": "rpi4"}})
    dialog.get_by_role("button", name="Label").click()
    expect(dialog).to_have_count(0)
    assert api("GET", "/devices?where=fan%3Dyes")["total"] == number
    page.goto(page.url.split("/fleet")[0] + "/fleet?q=pi-lyon")
    rows_of(page).first.get_by_role("checkbox").check()
    button = page.get_by_role("button", name=re.compile("^Choose all"))
    expect(button).to_have_attribute("aria-description", re.compile("take off the search"))


def test_every_number_links_to_what_it_counts_and_is_a_selector(visit, api):
    page = visit("operator").goto("/fleet")
    summary = api("GET", "/fleet")
    for name in ("online", "offline", "overdue", "updating", "failing", "held", "security"):
        field, value = ("online", "false") if name == "offline" else (name, "true")
        tile = page.locator(f".tile[href^='/fleet?{field}={value}']")
        expect(tile.locator(".tile-value")).to_have_text(str(summary[name]))
        assert counted(api, f"{field}={value}") == summary[name]
        assert counted(api, f"where={field}%3D{value}") == summary[name], "as a selector too"
    number = summary["failing"]
    page.locator(".tile", has_text="Failing").click()
    expect(page).to_have_url(re.compile("failing=true"))
    expect(rows_of(page)).to_have_count(number)
    rows_of(page).first.get_by_role("checkbox").check()
    page.get_by_role("button", name=f"Choose all {number} that match").click()
    page.get_by_role("button", name=f"Label {number}").click()
    expect(page.get_by_role("dialog").locator("code")).to_contain_text(
        f"--where failing=true --expect {number}"
    )


def test_numbers_of_a_model_lead_to_the_devices_that_they_count(visit, api):
    watched = visit("viewer")
    page = watched.goto("/models")
    row = page.get_by_role("region", name="Models").locator("tbody tr", has_text="har").first
    desired = api("GET", "/models/har")["devices_desired"]
    assert desired > 0
    row.get_by_role("link", name=str(desired), exact=True).last.click()
    expect(page).to_have_url(re.compile("where=desired%3Dhar"))
    expect(page.locator(".pager")).to_contain_text(f"of {desired}")
    page = watched.goto("/models/har")
    page.get_by_role("link", name=f"desired on {desired}").click()
    expect(page.locator(".pager")).to_contain_text(f"of {desired}")
    assert not watched.troubles


def test_a_device_is_held_and_released(visit, api):
    watched = visit("operator")
    page = watched.goto("/fleet/pi-lyon-08")
    page.get_by_role("button", name="Hold", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("fan is loud")
    expect(dialog.locator("code")).to_have_text(
        "edgectl devices hold pi-lyon-08 --reason 'fan is loud'"
    )
    dialog.get_by_role("button", name="Hold").click()
    expect(page.get_by_text("No rollout begins on pi-lyon-08")).to_be_visible()
    expect(page.get_by_text("fan is loud")).to_be_visible()
    assert api("GET", "/devices?held=true")["total"] == 2
    page.get_by_role("button", name="Release").click()
    page.get_by_role("dialog").get_by_role("button", name="Release").click()
    expect(page.get_by_text("No rollout begins on")).to_have_count(0)
    page.goto(page.url.replace("pi-lyon-08", name_of(HELD)))
    expect(page.get_by_text("on the test bench until Friday")).to_be_visible()
    assert not watched.troubles


def test_a_device_is_taken_back_to_the_version_before(visit, api):
    page = visit("operator").goto("/fleet/pi-lyon-07")
    page.get_by_role("button", name="Roll back").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("har goes from 3 to 1")
    expect(dialog.locator("code")).to_have_text(
        "edgectl devices rollback pi-lyon-07 har --version 1"
    )
    dialog.get_by_role("button", name="Roll back").click()
    expect(dialog).to_have_count(0)
    (slot,) = api("GET", "/devices/pi-lyon-07")["slots"]
    assert (slot["desired_version"], slot["desired_rollout"]) == ("1", None)


def test_a_device_is_asked_to_measure_what_it_runs(visit, api):
    page = visit("operator").goto("/fleet/pi-lyon-09")
    page.get_by_role("button", name="Bench").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("code")).to_have_text("edgectl bench har@3 --device pi-lyon-09")
    dialog.get_by_role("button", name="Measure").click()
    expect(page).to_have_url(re.compile("/models/har/3$"))
    jobs = api("GET", "/jobs?limit=200")["items"]
    assert [one for one in jobs if one["kind"] == "benchmark"]


def test_latency_and_health_are_drawn_and_can_be_read(visit):
    watched = visit("viewer")
    page = watched.goto("/fleet/pi-porto-01")
    panel = page.locator("#charts")
    latency = page.get_by_role("img", name=re.compile("^har: latency. p50: now .* to .*; p95"))
    chart = panel.locator(latency)
    expect(chart.locator("canvas")).to_have_count(1)
    expect(
        panel.get_by_role("img", name=re.compile("^Temperature. temperature: now"))
    ).to_be_visible()
    panel.locator("figure").filter(has=latency).get_by_text("As a table").click()
    table = panel.get_by_role("region", name="har: latency, as a table")
    expect(table.locator("tbody tr").nth(9)).to_be_visible()
    panel.get_by_role("combobox", name="Time range").click()
    page.get_by_role("option", name="Last 7 days").click()
    expect(page).to_have_url(re.compile("range=7d"))
    expect(chart).to_be_visible()
    assert not watched.troubles


def test_a_page_that_is_older_than_the_server_says_so_in_place_of_a_chart(visit):
    watched = visit("viewer", color_scheme="light")  # in a browser that has fetched nothing yet
    watched.page.route("**/assets/echarts-*.js", lambda route: route.fulfill(status=404))
    page = watched.goto("/fleet/pi-porto-01")
    panel = page.locator("#charts")
    expect(panel.get_by_text("Reload the page.").first).to_be_visible()
    panel.get_by_text("As a table").first.click()
    expect(panel.locator("tbody tr").first).to_be_visible()


def test_a_viewer_sees_everything_and_changes_nothing(visit):
    page = visit("viewer").goto("/fleet/pi-porto-01")
    for name in ("Hold", "Roll back", "Bench", "Lost", "Decommission"):
        button = page.get_by_role("button", name=name, exact=True)
        expect(button).to_have_attribute("aria-disabled", "true")
        expect(button).to_have_attribute("aria-description", re.compile("This needs the role"))
        button.click(force=True)  # though it says that it cannot be pressed
        expect(page.get_by_role("dialog")).to_have_count(0)
    page.goto(page.url.split("/fleet")[0] + "/fleet?where=hw%3Drpi4")
    rows_of(page).first.get_by_role("checkbox").check()
    expect(page.get_by_role("button", name="Label 1")).to_have_attribute("aria-disabled", "true")
    expect(page.get_by_role("button", name="Save selector")).to_have_attribute(
        "aria-disabled", "true"
    )
    page.goto(page.url.split("/fleet")[0] + "/push")
    expect(page.get_by_role("button", name="Choose files")).to_be_disabled()
    page.goto(page.url.split("/push")[0] + "/audit")
    expect(page.get_by_text("The audit log is for admins")).to_be_visible()
