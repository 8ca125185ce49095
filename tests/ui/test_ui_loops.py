"""Pages of loops: where each stands, what it waits for, the story of a run, and actions."""

import json
import re

import pytest
from playwright.sync_api import expect

from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import LoopEventRow, LoopRunRow
from ui.browser import PHONE
from ui.loop_rows import CURRENT, EARLIER, TRAINING
from ui.rows import MARKUP, RUNNING

pytestmark = pytest.mark.chromium

SOON_MS = 12_000
"""The page itself asks again after 15 s."""


def test_all_loops_say_where_they_stand_and_what_they_wait_for(visit):
    page = visit("viewer").goto("/drift/har")
    page.get_by_role("link", name="Loop", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("The loop of har")
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Loops").click()
    rows = page.get_by_role("region", name="Loops").locator("tbody tr")
    expect(rows).to_have_count(3)
    for model, state, waits in (
        ("door", "Collects labels", "0 of 300 labels"),
        ("har", "Canary", "The rollout"),
        ("kws", "Dataset made", "A person, before the training."),
    ):
        row = rows.filter(has=page.get_by_role("link", name=model, exact=True))
        expect(row.locator(".state").first).to_have_text(state)
        expect(row).to_contain_text(waits)
    page.get_by_label("Search models").fill("kw")
    expect(rows).to_have_count(1)
    expect(page).to_have_url(re.compile("q=kw"))


def test_a_run_is_told_with_its_times_gates_and_links(visit):
    page = visit().goto("/models/har")
    page.get_by_role("link", name="Loop", exact=True).click()
    way = page.get_by_role("list", name="The way of this run")
    expect(way.locator("li")).to_have_count(7)
    expect(way.locator("[aria-current=step]")).to_contain_text("Canary")
    expect(way.locator("[data-standing=done]")).to_have_text(
        [
            re.compile(words)
            for words in ("Labels.*5.2.h", "Dataset.*6.min", "Training.*24.min", "Push")
        ]
    )
    steps = page.get_by_role("list", name="Steps of this run").locator("> li")
    expect(steps).to_have_count(6)
    expect(steps.nth(0)).to_contain_text("site porto")
    expect(steps.nth(2)).to_contain_text("168 train, 24 validation, 48 test")
    expect(steps.nth(2)).to_contain_text(f"operator: approve, labels look right {MARKUP}")
    training = steps.nth(3)
    expect(training.get_by_role("list", name="Gates").locator("li")).to_have_count(3)
    compared = training.get_by_role("region", name="In service and candidate").locator("tbody tr")
    expect(compared).to_have_text([re.compile("58.3 %91.7 %"), re.compile("95.2 %94.8 %")])
    training.get_by_text("Log", exact=True).click()
    expect(training.locator("pre")).to_contain_text("epoch 2: loss 0.29")
    expect(steps.nth(5)).to_contain_text("15 of 30 devices committed")
    expect(page.get_by_text(re.compile("155 kB a device, of 460 kB"))).to_be_visible()
    for name, address in (
        ("what has moved", "/drift/har"),
        ("har 3", "/models/har/3"),
        ("compared with 1", "/models/har/1/compare/3"),
        (f"rollout {RUNNING}", f"/rollouts/{RUNNING}"),
    ):
        expect(page.get_by_role("link", name=name, exact=True)).to_have_attribute("href", address)
    for command in (
        f"edgectl loop explain har --run {CURRENT}",
        f"edgectl retrainings show {TRAINING} --log",
    ):
        expect(page.get_by_text(command)).to_be_visible()


def test_an_earlier_run_is_told_as_well(visit):
    page = visit().goto("/loop/har")
    runs = page.get_by_role("region", name="All runs").locator("tbody tr")
    expect(runs).to_have_count(2)
    runs.nth(1).get_by_role("link").first.click()
    expect(page).to_have_url(re.compile(f"run={EARLIER}"))
    expect(page.locator("[data-standing=stopped]")).to_contain_text("Training")
    expect(page.get_by_text("4.2 points worse").first).to_be_visible()
    page.get_by_role("button", name=f"Run {EARLIER}, remove filter").click()
    expect(page.locator("[aria-current=step]")).to_contain_text("Canary")
    page = visit().goto("/loop/har?run=0000000000000000")
    expect(page.get_by_text("has no run 0000000000000000")).to_be_visible()


def test_a_step_that_is_taken_elsewhere_comes_by_itself(visit, server):
    page = visit().goto("/loop/door")
    expect(page.locator(".side [data-live=true]")).to_be_visible()
    expect(page.get_by_text("It gives up in 14")).to_be_visible()
    database = Database(f"sqlite:///{server.data / 'edgectl.sqlite'}")
    try:
        with database.write() as session:
            run = session.query(LoopRunRow).filter_by(model="door").one()
            run.state = "dataset"
            event = LoopEventRow(
                run=run.id, model="door", at=run.since, actor="loop", kind="dataset",
                data={"state": "dataset", "why": "300 labelled samples"},
            )  # fmt: skip
            session.add(event)
        way = page.get_by_role("list", name="The way of this run")
        expect(way.locator("[aria-current=step]")).to_contain_text("Dataset", timeout=SOON_MS)
        expect(page.get_by_text("300 labelled samples")).to_be_visible()
    finally:
        with database.write() as session:
            session.query(LoopRunRow).filter_by(model="door").one().state = "collecting"
            session.query(LoopEventRow).filter_by(model="door", kind="dataset").delete()
        database.close()


def test_a_person_approves_pauses_and_resumes(visit):
    page = visit().goto("/loop/kws")
    note = page.locator(".note").filter(has_text="It waits for a person before the training")
    expect(note).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("holidays")
    expect(dialog.get_by_text("edgectl loop pause kws --reason holidays")).to_be_visible()
    dialog.get_by_role("button", name="Pause").click()
    expect(dialog).to_have_count(0)
    expect(page.locator("h1 + .state, .head .state").first).to_have_text("Paused")
    page.get_by_role("button", name="Resume").click()
    page.get_by_role("dialog").get_by_role("button", name="Resume").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    page.get_by_role("button", name="Approve the training").focus()
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("A candidate is trained")
    expect(dialog.locator(".command")).to_contain_text("edgectl loop approve kws training --run ")
    dialog.get_by_role("button", name="Approve").click()
    # Nothing can be trained from a version that was imported without its file: the loop says so.
    trouble = page.locator(".note[data-tone=bad]")
    expect(trouble).to_contain_text("training.source", timeout=60_000)  # at one of its turns
    page.get_by_role("button", name="Stop").click()
    stop = page.get_by_role("dialog").get_by_role("button", name="Stop the run")
    expect(stop).to_be_disabled()
    page.get_by_label("Type kws to confirm").fill("kws")
    stop.click()
    expect(page.locator(".head .state").first).to_have_text("Watching")
    expect(page.get_by_text("Stopped by operator", exact=True)).to_be_visible()
    page.get_by_role("button", name="Run now").click()
    page.get_by_role("dialog").get_by_label("Reason").fill("new sensors")
    expect(page.get_by_text("edgectl loop run kws --reason 'new sensors'")).to_be_visible()
    page.get_by_role("dialog").get_by_role("button", name="Run now").click()
    expect(page.locator(".head .state").first).to_have_text("Collects labels")


def test_an_admin_gives_a_model_its_policy_and_others_are_told_why_not(visit):
    page = visit("viewer").goto("/loop/newmodel")
    expect(page.get_by_text("newmodel does not learn by itself")).to_be_visible()
    give = page.get_by_role("button", name="Give it a policy")
    expect(give).to_have_attribute("aria-disabled", "true")
    give.click(force=True)
    expect(page.get_by_role("dialog")).to_have_count(0)
    page = visit("admin").goto("/loop/newmodel")
    page.get_by_role("button", name="Give it a policy").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Labels before it trains").fill("321")
    dialog.get_by_label("before it rolls out").check()
    dialog.get_by_label("a device drifts").uncheck()
    expect(dialog.locator(".command")).to_contain_text("--labels-min 321")
    expect(dialog.locator(".command")).to_contain_text("--drift fleet --drift site")
    expect(dialog.locator(".command")).to_contain_text("--approve rollout")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).to_have_count(0)
    policy = page.locator("#policy")
    expect(policy).to_contain_text("321, within 14")
    expect(policy).to_contain_text("before the rollout")
    expect(page.get_by_role("status").filter(has_text="No trigger")).to_be_visible()


def test_failures_and_a_phone(visit):
    watched = visit(viewport=PHONE)
    problem = {"status": 503, "code": "database.busy", "detail": "The database does not answer."}
    answer = {
        "status": 503,
        "content_type": "application/problem+json",
        "body": json.dumps(problem),
    }
    watched.page.route("**/api/v1/models/har/loop", lambda route: route.fulfill(**answer))
    page = watched.goto("/loop")
    page.goto(f"{watched.origin}/loop/har")
    expect(page.get_by_role("alert")).to_contain_text("database.busy")
    page.unroute("**/api/v1/models/har/loop")
    page.reload()
    expect(page.get_by_role("list", name="The way of this run").locator("li")).to_have_count(7)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    empty = visit()
    empty.page.route(
        "**/api/v1/loops*", lambda route: route.fulfill(json={"items": [], "total": 0})
    )
    page = empty.goto("/loop")
    expect(page.get_by_text("No model learns by itself yet")).to_be_visible()
    expect(page.get_by_text("edgectl loop set MODEL --file loop.yaml")).to_be_visible()
