"""What devices say of updates: the story, the evidence, what is waited for; and the policy."""

import itertools
import re

import pytest
from playwright.sync_api import expect

from ui.browser import PHONE
from ui.rows import RUNNING
from ui.tour import violations
from ui.update_rows import BREACH

pytestmark = pytest.mark.chromium


def story(page, policy=None):
    """Return the chapters of the newest update of har, as they are read.

    They grow as answers arrive: first the device, then its events, then, where words of it are
    given, the policy.
    """
    chapters = page.get_by_role("list", name="What happened in har").get_by_role("listitem")
    expect(chapters.first).to_be_visible()
    timeline = page.get_by_role("list", name="Update timeline")
    expect(timeline.get_by_role("listitem").first).to_be_visible()
    if policy:
        expect(chapters.filter(has_text=policy)).to_have_count(1)
    return [re.sub(r"\s+", " ", text) for text in chapters.all_inner_texts()]


def test_a_rollback_is_told_at_a_glance(visit):
    page = visit().goto("/fleet/pi-lyon-01")
    ran, came, back, now = story(page)
    assert ran == "Ran version 1 onnx-int8"
    assert came.startswith("Came version 3 onnx-int8 Passed its trial. Served 213 requests in ")
    assert came.endswith(" s, 31.0 % failed.")
    assert back.startswith(f"Went back {BREACH}")
    assert "observe.error_rate" in back
    assert now == "Runs now version 1 onnx-int8"


def test_the_evidence_names_what_was_beyond_its_limit(visit):
    page = visit().goto("/fleet/pi-lyon-01")
    blocks = page.locator(".evidence").first.locator("> div")
    expect(blocks.last).to_contain_text("at most")  # the policy has come
    fetched, trial, shadow, switch, observed = (
        re.sub(r"\s+", " ", text) for text in blocks.all_inner_texts()
    )
    assert fetched == "Fetched by a delta 155 kB of 460 kB saved 305 kB"
    for part in ("threads 2", "provider CPU not Xnnpack", "hottest sensor 81 °C", "throttled"):
        assert part in trial
    assert "same answer 404 of 412 copies 98.1 %, at most 50 % may differ" in shadow
    assert "p95 1.60 ms model before 1.25 ms (1.3\N{MULTIPLICATION SIGN}), no limit" in shadow
    assert "not copied 12 for the budget" in shadow
    assert "loaded and warmed up in 52.0 ms requests waited not at all" in switch
    assert "errors 66 (31.0 %) at most 5 %" in observed
    marked = page.locator(".evidence").first.locator(".fact[data-tone=bad]")
    expect(marked).to_have_count(1)  # the device's reason, and no other figure
    expect(marked).to_contain_text("errors")


@pytest.mark.parametrize(
    ("device", "heading", "words"),
    [
        ("pi-gdansk-03", "Held at the device", "the line is being calibrated"),
        ("pi-porto-04", "Waits for its window", "opens at 2026-11-30T02:00+00:00 ("),
        ("pi-lyon-04", "Waits for its partners", "switches together with kws"),
    ],
)
def test_what_an_update_waits_for(visit, device, heading, words):
    page = visit().goto(f"/fleet/{device}")
    now, ready, waits = story(page)
    assert now.startswith("Runs now version 1")
    assert ready.startswith("Ready version 3")
    assert waits.startswith(heading)
    assert words in waits


def test_a_shadow_and_an_observation_say_since_when_and_for_how_long(visit):
    page = visit().goto("/fleet/pi-gdansk-04")
    assert re.search(
        r"^Answers copies version 3 .* ago, for 10 min\. Nobody sees", story(page, "10 min")[1]
    )
    page = visit().goto("/fleet/pi-gdansk-02")
    ran, serves = story(page, "60 min")
    assert ran == "Ran version 1 onnx-int8"
    assert re.search(r"^Serves, observed version 3 .* for 60 min\. The model before it", serves)


def test_what_was_rejected_and_is_not_tried_again(visit):
    page = visit().goto("/fleet/pi-gdansk-01")
    came, rejected, now = story(page)
    assert came.endswith("Never served. It is not tried here again.")
    assert rejected.startswith("Rejected output differs by 0.41, at most 0.05")
    assert now.startswith("Runs now version 1")
    panel = page.locator(".panel", has=page.get_by_role("heading", name="Identity"))
    expect(panel).to_contain_text(re.compile(r"4f4f4f4f4f4f….*har 3"))


def test_a_rollout_shows_its_policy_and_on_request_all_figures(visit):
    page = visit().goto(f"/rollouts/{RUNNING}?q=lyon")
    panel = page.locator(".panel", has=page.get_by_role("heading", name="Policy"))
    expect(panel).to_be_visible()
    facts = re.sub(r"\s+", " ", panel.inner_text())
    for words in (
        "Shadow answers copies for 10 min",
        "Switches mon-fri 02:00-04:00",
        "Goes with kws@1.0",
        "Errors at most 5 %",
        "Latency no limit",
        "Other answers at most 50 % of copies",
    ):
        assert words in facts
    table = page.get_by_role("region", name="Devices of this rollout")
    waiting = table.locator("tr", has_text="pi-lyon-04")
    expect(waiting).to_contain_text("Waits for its partners")
    expect(table).to_contain_text("switches together with kws, not ready yet")

    expect(table.locator(".evidence")).to_have_count(0)
    page.get_by_role("switch", name="Figures").focus()
    page.keyboard.press("Space")
    expect(page).to_have_url(re.compile("figures=true"))
    expect(table).to_contain_text("404 of 412 copies")
    assert not violations(page)


@pytest.mark.parametrize("device", ["pi-lyon-01", "pi-porto-04", "pi-gdansk-04"])
def test_on_a_phone_the_story_goes_downwards(visit, device):
    page = visit(viewport=PHONE).goto(f"/fleet/{device}")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    chapters = page.get_by_role("list", name="What happened in har").get_by_role("listitem")
    boxes = [chapters.nth(number).bounding_box() for number in range(chapters.count())]
    assert all(
        upper["y"] + upper["height"] < lower["y"] for upper, lower in itertools.pairwise(boxes)
    )
    assert not violations(page)


def test_a_careful_rollout_by_keyboard(visit, api):
    watched = visit()
    page = watched.goto("/rollouts/new?model=kws&version=1.0&device=pi-lyon-09")
    windows = page.get_by_label("Maintenance windows")
    expect(windows).to_have_count(0)  # folded away
    page.locator("summary").focus()
    page.keyboard.press("Enter")
    page.get_by_label("Shadow, seconds").fill("600")
    windows.fill("sun 03:00-25:00")
    for label, typed in (("Latency, times", "2.5"), ("Failed requests, %", "0.5")):
        page.get_by_label(label).fill("")
        page.get_by_label(label).press_sequentially(typed)
    page.get_by_label("Class shift").fill("")
    page.get_by_role("combobox", name="Goes with").fill("har@3")
    page.keyboard.press("Enter")
    again = page.get_by_role("switch", name="Try again what devices found bad")
    again.focus()
    page.keyboard.press("Space")
    expect(again).to_be_checked()
    assert not violations(page)

    # The preview says what is wrong with it, folded or not, and the field does.
    page.locator("summary").click()
    expect(windows).to_have_count(0)
    start = page.get_by_role("button", name="Start rollout")
    expect(page.get_by_text("25:00 is no time of day").first).to_be_visible()
    expect(start).to_be_disabled()
    page.locator("summary").click()
    expect(page.get_by_text("25:00 is no time of day", exact=True)).to_be_visible()
    assert not violations(page)
    windows.focus()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("sun 03:00-04:00 utc")
    expect(page.get_by_text("25:00 is no time of day")).to_have_count(0)
    expect(page.locator(".command code")).to_have_text(
        "edgectl rollout start kws@1.0 --device pi-lyon-09 --max-in-progress 100 "
        "--failures-max 1 --observe 10 --shadow 600 --window 'sun 03:00-04:00 utc' "
        "--error-rate-max 0.005 --latency-ratio-max 2.5 --class-shift-max none --with har@3 "
        "--forgive"
    )
    start.click()
    expect(page.get_by_role("heading", name="kws 1.0")).to_be_visible()
    started = api("GET", f"/rollouts/{page.url.rsplit('/', 1)[1]}")
    api("POST", f"/rollouts/{started['id']}/actions/abort", {})
    wanted = {
        "max_in_progress": 100,
        "failures_max": 1,
        "observe_s": 10.0,
        "shadow_s": 600.0,
        "windows": "sun 03:00-04:00 utc",
        "error_rate_max": 0.005,
        "latency_ratio_max": 2.5,
        "class_shift_max": None,
        "disagreement_max": 0.5,
        "goes_with": ["har@3"],
        "forgive": True,
    }
    assert {name: started["policy"][name] for name in wanted} == wanted
    assert all("422" in trouble for trouble in watched.troubles), watched.troubles


def test_what_deltas_save_is_told_of_the_rollout_and_of_each_device(visit, api):
    page = visit().goto(f"/rollouts/{RUNNING}")
    told = page.get_by_text("expected to be fetched")
    counted = {
        name: value / 1e6 for name, value in api("GET", f"/rollouts/{RUNNING}")["bytes"].items()
    }
    assert counted["saved"] > 0
    expect(told).to_contain_text(
        f"{counted['predicted']:.2f} MB of {counted['whole']:.1f} MB expected to be fetched"
    )
    expect(told).to_contain_text(f"{counted['saved']:.2f} MB saved")
    expect(page.get_by_text("305 kB", exact=True).first).to_be_visible()
