"""The pages of rollouts: the form that starts one, its preview, the page that follows it."""

import re

import pytest
from playwright.sync_api import expect

from ui.rollout_rows import PHASED, VERDICTS
from ui.rows import DEVICES
from ui.test_ui_pages import parse
from ui.tour import commands, violations

pytestmark = pytest.mark.chromium

FORM = (
    "/rollouts/new?model=kws&version=1.0&to=where&where=group%3Dsite-a+or+device%3Dpi-lyon-0*"
    "&phases=canary:2,25%25&approve-after=canary&soak=10m&gate=error_rate%3C%3D0.01&deadline=2h"
    "&on-deadline=fail&min-available=50%25&priority=3&max-in-progress=7&shadow=60"
    "&window=mon-fri+02:00-04:00&latency-ratio-max=none&with=har@3&forgive=true"
)
COMMAND = (
    "edgectl rollout start kws@1.0 --where 'group=site-a or device=pi-lyon-0*' --max-in-progress 7 "
    "--failures-max 1 --observe 10 --phases canary:2,25% --soak 10m --approve-after canary "
    "--gate 'error_rate<=0.01' --deadline 2h --on-deadline fail --min-available 50% --priority 3 "
    "--shadow 60 --window 'mon-fri 02:00-04:00' --latency-ratio-max none --with har@3 --forgive"
)


def test_a_link_opens_the_form_as_it_was_and_the_command_says_the_same(visit):
    watched = visit()
    page = watched.goto(FORM)
    assert commands(page) == [COMMAND]
    parse(COMMAND)
    expect(page.get_by_role("textbox", name="Selector")).to_have_value(
        "group=site-a or device=pi-lyon-0*"
    )
    expect(page.get_by_role("link", name="9 devices now")).to_have_attribute(
        "href", re.compile(r"^/fleet\?where=group%3Dsite-a")
    )
    plan = page.get_by_role("region", name="Phases of the plan").locator("tbody tr")
    expect(plan).to_have_count(3)
    expect(plan.nth(0)).to_contain_text(re.compile("canary.*asks.*2.*onnx-fp32 2", re.DOTALL))
    expect(plan.nth(1)).to_contain_text("soaks 10 min")

    page.get_by_label("Size of phase canary").fill("3")
    page.get_by_label("Approval after phase 2").check()
    page.get_by_label("Success").fill("95")
    expect(page).to_have_url(re.compile("phases=canary%3A3%2C25%25.*approve-after=all"))
    expect(plan.nth(0)).to_contain_text("onnx-fp32 3")
    changed = commands(page)[0]
    assert "--phases canary:3,25% --soak 10m --approve-after all --gate 'success>=0.95'" in changed
    parse(changed)
    page.reload()
    watched.settled()
    assert commands(page) == [changed]
    assert not watched.troubles


def gates(request):
    """Return the gates of each phase that a request asks a plan for; an empty one for others."""
    if not request.url.endswith("/rollouts/plan"):
        return [{}]
    return [phase.get("gates") or {} for phase in request.post_data_json["policy"]["phases"]]


def test_a_phase_has_gates_of_its_own(visit):
    watched = visit()
    page = watched.goto(f"{FORM}&gate=canary:success%3E%3D0.5")
    assert "--gate 'canary:success>=0.5'" in commands(page)[0]
    own = page.get_by_role("group", name="Gates of phase canary")
    expect(own.get_by_label("Success")).to_have_value("50 %")
    page.get_by_label("Gates of phase 2 alone").check()
    second = page.get_by_role("group", name="Gates of phase 2")
    second.get_by_label("Committed devices").fill("4")
    expect(page).to_have_url(re.compile(r"gate=2%3Acommitted%3E%3D4"))
    shown = commands(page)[0]
    assert "--gate '2:committed>=4'" in shown
    parse(shown)
    with page.expect_request(lambda request: gates(request)[0].get("success_min") == 0.6) as asked:
        own.get_by_label("Success").fill("60")
    assert gates(asked.value)[1]["committed_min"] == 4
    assert not watched.troubles


def test_a_phase_soaks_for_itself_and_is_an_experiment_with_its_stop_rule_in_words(visit):
    watched = visit()
    page = watched.goto("/rollouts/new?model=kws&version=1.0&phases=canary:2,25%25&soak=10m")
    plan = page.get_by_role("region", name="Phases of the plan").locator("tbody tr")
    expect(plan.nth(0)).to_contain_text("soaks 10 min")
    page.get_by_label("Soak of phase canary").fill("2h")
    expect(plan.nth(0)).to_contain_text("soaks 2 h")
    expect(plan.nth(1)).to_contain_text("soaks 10 min")
    page.get_by_label("Experiment in phase canary").check()
    fields = page.get_by_role("group", name="Experiment of phase canary")
    fields.get_by_label("May be higher by").fill("2")
    fields.get_by_label("Ends after").fill("2d")
    fields.get_by_label("or so many requests").fill("90000")
    rule = page.get_by_role("region", name="Stop rule of phase canary")
    expect(rule).to_contain_text("Passes as soon as it is sure that the new version has fewer than")
    expect(rule).to_contain_text("Fails as soon as it is sure that it has more: the rollout pauses")
    expect(rule).to_contain_text(re.compile("2.d after the phase has settled, or after 90.000"))
    expect(rule).to_contain_text("With 2 devices in this phase it cannot come to an answer")
    page.get_by_label("Size of phase canary").fill("5")
    expect(rule).not_to_contain_text("cannot come to an answer")
    asked = "'canary:error_rate margin=0.02 limit=2d requests=90000'"
    expect(page.locator(".command").first).to_contain_text(
        f"--soak 10m --soak canary=2h --experiment {asked}"
    )
    (command,) = commands(page)
    parse(command)
    expect(page).to_have_url(re.compile("experiment=canary%3Aerror_rate"))
    page.reload()
    watched.settled()
    assert commands(page) == [command]
    fields.get_by_label("Ends after").fill("5")
    expect(page.get_by_role("button", name="Start rollout")).to_have_attribute(
        "aria-description", re.compile("limit of the experiment")
    )
    assert not watched.troubles


def test_phases_are_added_named_and_taken_away(visit):
    page = visit().goto("/rollouts/new?model=kws&version=1.0")
    page.get_by_role("button", name="Begin with a canary").click()
    rows = page.get_by_role("list", name="Phases").get_by_role("listitem")
    expect(rows).to_have_count(4)
    expect(rows.last).to_contain_text("then all the others")
    page.get_by_role("button", name="Remove phase 2").click()
    page.get_by_role("button", name="Add a phase").click()
    assert "--phases canary:5,50%,100%" in commands(page)[0]
    page.get_by_label("Name of phase 2").fill("Canary!")
    expect(
        page.get_by_role("alert").filter(has_text="Two phases are named canary.")
    ).to_be_visible()
    start = page.get_by_role("button", name="Start rollout")
    expect(start).to_have_attribute("aria-description", "Two phases are named canary.")
    page.get_by_role("button", name="All at once").click()
    expect(rows).to_have_count(0)
    page.get_by_label("Deadline").fill("soon")
    expect(start).to_have_attribute("aria-description", re.compile("^Write 90"))


def test_a_selector_that_is_wrong_says_where(visit):
    watched = visit()
    page = watched.goto("/rollouts/new?model=kws&version=1.0&to=where&where=site%3Datlantis")
    expect(page.get_by_text("No device now")).to_be_visible()
    page.get_by_role("textbox", name="Selector").fill("site=porto and ) x")
    expect(page.locator("mark.wrong")).to_have_text(")")
    expect(page.get_by_text(re.compile("at character 16"))).to_be_visible()
    expect(page.get_by_text("The selector says what is wrong with it.")).to_be_visible()
    button = page.get_by_role("button", name="Start rollout")
    expect(button).to_have_attribute("aria-disabled", "true")
    # The preview is refused too: nobody is meant, and then the selector is wrong.
    assert all("409" in trouble or "422" in trouble for trouble in watched.troubles)


def test_without_a_canary_many_devices_are_asked_for(visit):
    watched = visit()
    page = watched.goto("/rollouts/new?model=door&version=6")
    expect(page.get_by_text("devices of it are in another rollout")).to_be_visible()
    page.get_by_role("button", name="Start rollout").click()
    dialog = page.get_by_role("dialog", name="Start without a canary")
    confirm = dialog.get_by_role("button", name=f"Start on {DEVICES} devices")
    expect(confirm).to_be_disabled()
    assert not violations(page)
    dialog.get_by_label(f"Type {DEVICES} to confirm").fill(str(DEVICES))
    confirm.click()
    # Confirmed, and refused: what it would disturb is linked.
    expect(dialog.get_by_role("alert")).to_contain_text("rollout.conflict")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Begin with a canary").click()
    expect(page.get_by_role("region", name="Phases of the plan").locator("tbody tr")).to_have_count(
        4
    )
    page.get_by_role("button", name="Start rollout").click()
    expect(page.get_by_role("alert")).to_contain_text("rollout.conflict")
    expect(dialog).to_have_count(0)


def test_who_may_not_start_can_plan(visit):
    page = visit("viewer").goto("/rollouts/new?model=kws&version=1.0&device=pi-lyon-07")
    expect(page.get_by_text("You can plan a rollout here")).to_be_visible()
    expect(page.get_by_role("region", name="Phases of the plan").locator("tbody tr")).to_have_count(
        1
    )
    button = page.get_by_role("button", name="Start rollout")
    expect(button).to_have_attribute("aria-description", re.compile("needs the role operator"))
    button.focus()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/rollouts/new"))
    page.goto(page.url.split("/rollouts")[0] + f"/rollouts/{PHASED}")
    for name in ("Pause", "Approve", "Abort"):
        button = page.get_by_role("button", name=name)
        expect(button).to_have_attribute("aria-description", re.compile("needs the role operator"))


def test_phases_gates_and_what_they_count(visit):
    watched = visit()
    page = watched.goto(f"/rollouts/{PHASED}")
    phases = page.get_by_role("list", name="Phases", exact=True).locator("> li")
    expect(phases).to_have_count(3)
    canary, second, last = phases.nth(0), phases.nth(1), phases.nth(2)
    expect(canary).to_contain_text(re.compile("Committed 3", re.DOTALL))
    expect(second).to_have_attribute("aria-current", "step")
    expect(last).to_contain_text("Open places 15")
    expect(last.get_by_role("link", name=re.compile("Open places"))).to_have_count(0)
    gates = page.get_by_role("list", name="Gates of this phase").get_by_role("listitem")
    texts = [re.sub(r"\s+", " ", text) for text in gates.all_inner_texts()]
    assert texts == [
        f"Passed Committed {VERDICTS[0]['detail']}",
        f"Not enough data Error rate {VERDICTS[1]['detail']}",
        f"Failed Class mix {VERDICTS[2]['detail']}",
    ]
    rows = page.get_by_role("region", name="Devices of this rollout").locator(
        "tbody tr:not(.detail)"
    )
    second.get_by_role("link", name=re.compile("Rolled back 2")).click()
    expect(page).to_have_url(re.compile(r"\?phase=2&state=rolled_back"))
    expect(rows).to_have_count(2)
    page.get_by_role("button", name="Phase 2, remove filter").click()
    page.get_by_role("list", name="Reasons").get_by_role("listitem").filter(
        has_text="trial.golden"
    ).get_by_role("link").click()
    expect(page).to_have_url(re.compile("state=rejected&reason=trial.golden"))
    expect(rows).to_have_count(1)
    expect(page.get_by_text("output differs by 0.41")).to_have_count(2)  # there and in its row
    assert not watched.troubles


def test_the_new_version_in_service_is_shown_beside_the_others(visit):
    page = visit().goto(f"/rollouts/{PHASED}")
    table = page.locator(".figures-table")
    expect(table.locator("tr", has_text="p95")).to_contain_text(re.compile(r"2\.90 ms.*1\.45 ms"))
    expect(
        page.get_by_role("img", name=re.compile("^Latency of requests: p95 2.90 ms"))
    ).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("^p95 over time, 12 points"))).to_be_visible()


def test_what_an_action_will_do_is_said_before(visit):
    page = visit().goto(f"/rollouts/{PHASED}")
    page.get_by_role("button", name="Approve").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Not passed: error_rate")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Pause").click()
    expect(dialog).to_contain_text("15 devices that are pending stay as they are")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Abort").click()
    expect(dialog).to_contain_text(re.compile("11 committed keep the new version"))
    expect(dialog).to_contain_text(re.compile("15 pending are not touched"))
    expect(dialog).to_contain_text("4 that went wrong are told to run what they ran before")
    dialog.get_by_label("Revert: go back too").check()
    expect(dialog).to_contain_text("11 committed go back to what they ran before, all at once")
    expect(dialog.locator("code")).to_have_text(f"edgectl rollout abort {PHASED} --revert")
    assert not violations(page)
    parse(commands(page)[-1])


def test_a_rollout_is_started_paused_resumed_and_taken_back(visit, api):
    watched = visit()
    page = watched.goto("/rollouts/new?model=kws&version=1.0&device=pi-lyon-07&observe=60")
    page.get_by_role("button", name="Start rollout").click()
    expect(page.get_by_role("heading", name="kws 1.0")).to_be_visible()
    rollout = page.url.rsplit("/", 1)[1]
    state = page.locator(".head .state")
    for action, words, then in (
        ("Pause", "No further device is started", "Paused"),
        ("Resume", "It goes on with", "Running"),
    ):
        page.get_by_role("button", name=action).click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text(words)
        dialog.get_by_role("button", name=action).click()
        expect(dialog).to_have_count(0)
        expect(state).to_have_text(then)
    page.get_by_role("button", name="Abort").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Revert: go back too").check()
    dialog.get_by_label("Reason").fill("wrong labels")
    dialog.get_by_label("Type kws@1.0 to confirm").fill("kws@1.0")
    dialog.get_by_role("button", name="Abort rollout").click()
    expect(state).to_have_text("Aborted")
    event = api("GET", f"/rollouts/{rollout}/events?q=aborted")["items"][0]
    assert event["data"] == {"reason": "wrong labels", "revert": True}
    assert not watched.troubles


def test_the_list_is_searched_filtered_and_sorted_by_the_server(visit):
    page = visit().goto("/rollouts?q=door")
    rows = page.get_by_role("region", name="Rollouts").locator("tbody tr:not(.detail)")
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text("2, 2 of 3")
    page.get_by_label("Clear search").click()
    expect(page).not_to_have_url(re.compile("q=door"))
    page.get_by_role("button", name="Version", exact=True).click()
    expect(page).to_have_url(re.compile("sort=model"))
    expect(rows.first).to_contain_text("door")
    page.get_by_role("combobox", name="State").click()
    page.get_by_role("option", name="Completed").click()
    expect(page.get_by_text("No rollout matches")).to_be_visible()
    page.get_by_role("button", name="Clear filters").click()
    expect(rows.first).to_be_visible()
