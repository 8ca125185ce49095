"""Every page: clean console, nothing from outside, accessible in both themes, fits a phone."""

import re
import shlex

import click
import pytest
from playwright.sync_api import expect

from edgectl.cli import cli
from edgectl_agent.cli import make_parser as agent_parser
from edgectl_protocol.names import digest_of
from ui.browser import PHONE, open_page
from ui.rows import LAST_EVENTS, MARKUP, MEASURED, PAUSED, RUNNING
from ui.tour import PATHS, commands, look, violations

pytestmark = [pytest.mark.chromium, pytest.mark.timeout(1800)]  # the walk is long


@pytest.fixture(scope="module")
def tour(browser, origin, sessions):
    """What an administrator sees on a walk through all pages; and what went wrong on the way."""
    watched = open_page(browser, origin, storage_state=sessions["admin"])
    sights = {path: look(watched, path) for path in PATHS}
    watched.page.context.close()
    return sights, watched.troubles


def test_every_page_is_clean_and_accessible(tour):
    sights, troubles = tour
    assert not [line for sight in sights.values() for line in sight.violations]
    assert not troubles


def test_no_table_is_cut_off_on_a_laptop(tour):
    sights, _ = tour
    assert not {path: sight.cut_off for path, sight in sights.items() if sight.cut_off}


def test_no_page_is_wider_than_a_phone(tour):
    sights, _ = tour
    for path, sight in sights.items():
        assert sight.phone_width <= PHONE["width"], f"{path} is {sight.phone_width} px wide"
        assert not sight.small_targets, f"{path}: targets under 24 px: {sight.small_targets}"


def test_markup_in_names_and_reasons_is_text(tour):
    sights, troubles = tour
    for path in (
        "/fleet?q=lyon",
        "/fleet/pi-lyon-01",
        "/models/har/3",
        f"/rollouts/{PAUSED}",
        f"/rollouts/{RUNNING}?q=lyon",
    ):
        assert MARKUP in sights[path].text, path
    assert not [path for path, sight in sights.items() if sight.smuggled]
    assert not [path for path, sight in sights.items() if "owned" in sight.title]
    assert not troubles, "the policy of the page has nothing to block"


def parse(line):
    """Have the real command line take a command, short of doing it."""
    program, *words = shlex.split(line)
    if program == "edgectl-agent":
        agent_parser().parse_args(words)
        return
    assert program == "edgectl", line
    command, context, name = cli, None, program
    while isinstance(command, click.Group):
        context = command.make_context(name, words, parent=context)
        name, command, words = command.resolve_command(
            context, [*context._protected_args, *context.args]
        )
    command.make_context(name, words, parent=context)


def test_the_command_line_takes_every_command_that_is_shown(tour, visit, tmp_path, monkeypatch):
    sights, _ = tour
    shown = {line for sight in sights.values() for line in sight.commands}
    page = visit("admin").goto(f"/rollouts/{RUNNING}")
    for name in ("Pause", "Abort"):
        page.get_by_role("button", name=name).click()
        shown.update(commands(page))
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
    monkeypatch.chdir(tmp_path)
    for name in ("model.onnx", "calibration.npz", "evaluation.npz"):
        (tmp_path / name).touch()
    for line in shown:
        parse(line)
    words = {tuple(line.split()[1:3]) for line in shown}
    assert {("rollout", "pause"), ("rollout", "start"), ("tokens", "create")} <= words
    with pytest.raises(click.ClickException):
        parse("edgectl tokens create NAME --colour red")


def test_what_was_published_stands_out_from_what_was_only_accepted(visit):
    page = visit().goto("/models/har/3")
    table = page.get_by_role("region", name="Recipes that were tried")
    verdicts = table.locator(".verdict").all_inner_texts()
    assert verdicts == [
        "Published as onnx-fp32",
        "Published as onnx-int8",
        "Accepted",
        "Rejected",
        "Failed",
    ]
    devices = page.locator(".tile", has_text="Latency, devices")
    expect(devices).to_contain_text(re.compile(r"1\.21 ms.*median of \d+ trials", re.DOTALL))


def test_gates_and_data_checks_are_beneath_the_report(visit):
    page = visit().goto("/models/har/3")
    rows = page.get_by_role("region", name="Gates").locator("tbody tr")
    texts = [re.sub(r"\s+", " ", row) for row in rows.all_inner_texts()]
    assert len(texts) == 4
    assert texts[0].startswith("contract all Overridden by ann ")
    assert texts[1].startswith("size int8 Passed 328 kB ≤ 400 kB")
    assert texts[2].startswith("latency_p95 int8 Failed 6.00 ms ≤ 5.00 ms")
    assert re.match("own int8 Not enough data . ≥ 0.5", texts[3])
    checks = page.get_by_role("region", name="Data checks").locator("tbody tr")
    expect(checks).to_have_count(1)
    expect(checks).to_contain_text(re.compile("range.*Warning.*are outside.*calibrate with more"))


def test_what_devices_have_measured_is_on_the_page_of_the_version(visit):
    page = visit().goto("/models/har/3")
    table = page.get_by_role("region", name="Measured on devices")
    expect(table.locator("tbody tr")).to_have_count(MEASURED)
    refused = table.locator("tbody tr", has_text="Rejected")
    expect(refused).to_have_count(1)
    expect(refused).to_contain_text("rpi4-arm64")
    measured = table.locator("tbody tr", has_text="Accepted").first
    expect(measured).to_contain_text("1.21 ms")
    expect(measured).to_contain_text("16 of 16")
    page.goto(page.url.replace("/models/har/3", "/models/kws/1.0"))
    expect(page.get_by_text("edgectl bench kws@1.0 --device DEVICE")).to_be_visible()


def test_a_trial_is_shown_where_it_ended_and_older_updates_on_request(visit):
    page = visit().goto("/fleet/pi-porto-01")
    timeline = page.get_by_role("list", name="Update timeline")
    steps = timeline.get_by_role("listitem")
    trials = timeline.locator(".evidence").filter(has_text="golden inputs")
    expect(steps).to_have_count(14)
    expect(trials).to_have_count(2)
    expect(trials.first.locator("xpath=..")).to_contain_text("Activating from trial")
    expect(page.get_by_text(f"newest 14 of {LAST_EVENTS}")).to_be_visible()
    page.get_by_role("button", name=f"Show {LAST_EVENTS - 14} more").click()
    expect(steps).to_have_count(LAST_EVENTS)
    expect(trials).to_have_count(3)
    expect(page.get_by_role("button", name=re.compile("^Show .* more"))).to_have_count(0)


def test_where_an_imported_version_comes_from_is_in_its_lineage(visit):
    page = visit().goto("/models/kws/1.0")
    expect(page.get_by_text("Imported from")).to_be_visible()
    expect(page.get_by_text(f"lab, where vera {MARKUP} pushed it")).to_be_visible()


def test_logs_of_a_device_are_listed_and_can_be_downloaded(visit):
    page = visit().goto("/fleet/pi-porto-01")
    rows = page.get_by_role("list", name="Uploads").get_by_role("listitem")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text("Complete 48")
    expect(rows.nth(1)).to_contain_text("upload.stalled asked 8 times")
    link = rows.nth(0).get_by_role("link", name="Download")
    digest = digest_of(b"logs 0").replace(":", "%3A")
    expect(link).to_have_attribute("href", f"/api/v1/devices/pi-porto-01/uploads/{digest}")
    page.get_by_role("button", name="Ask for its logs").click()
    expect(page.get_by_text("edgectl devices logs pi-porto-01")).to_be_visible()
    viewer = visit("viewer").goto("/fleet/pi-porto-01")
    expect(viewer.get_by_role("list", name="Uploads").get_by_role("link")).to_have_count(0)


def test_dialogs_and_the_login_are_accessible(visit, browser, origin):
    watched = visit("admin")
    page = watched.goto(f"/rollouts/{RUNNING}")
    page.get_by_role("button", name="Abort").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert not violations(page)

    stranger = open_page(browser, origin)
    stranger.page.goto(origin)
    expect(stranger.page.get_by_label("User name")).to_be_visible()
    seen = violations(stranger.page)
    stranger.page.context.close()
    assert not seen


def test_what_does_not_exist_leads_back(visit, origin):
    page = visit().page
    for path, back in {
        "/fleet/pi-nowhere": "Back to the fleet",
        "/models/nothing": "All models",
        "/rollouts/what-is-this": "All rollouts",
        "/models/har/99": "All versions of har",
        "/rollouts/0000000000000000": "All rollouts",
        "/no/such/page": "Go to the fleet",
    }.items():
        page.goto(origin + path)
        heading = page.get_by_role("heading", level=1)
        expect(heading).to_have_text(re.compile("[Tt]here is no|[Uu]nknown"))
        lost = heading.inner_text()
        page.get_by_role("link", name=back).click()
        expect(page.get_by_role("heading", level=1)).not_to_have_text(lost)
        expect(page).not_to_have_url(origin + path)


def test_what_leads_back_stays_while_the_page_is_asked_for_again(visit, origin):
    """Between press and release too, where a click would get lost with its link."""
    page = visit().goto("/models/har/99")
    page.get_by_role("link", name="All versions of har").hover()
    page.mouse.down()
    page.route("**/versions/99", lambda _route: None)  # the answer takes its time
    with page.expect_request("**/versions/99"):
        # Again and again: what is asked already is not asked for again.
        page.evaluate(
            "setInterval(() => window.dispatchEvent(new Event('visibilitychange')), 100), undefined"
        )
    for _ in range(2):
        page.evaluate("new Promise(requestAnimationFrame)")
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("there is no version"))
    page.mouse.up()
    expect(page).to_have_url(f"{origin}/models/har")
    expect(page.get_by_role("heading", level=1)).to_have_text("har")


def test_the_keyboard_reaches_the_content_first(visit):
    page = visit().goto("/fleet")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.querySelector('main').contains(document.activeElement)")
