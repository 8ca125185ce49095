"""Pages of samples and of labelling: who sees what, what may leave, and that no label is lost."""

import re

import pytest
from playwright.sync_api import expect

from ui.sample_rows import CLOSED, CONFLICT, LABELLED, PICTURES, SEALED, SERIES, TABLES

pytestmark = pytest.mark.chromium

ALL = SERIES + PICTURES + TABLES + CLOSED


def id_of(number):
    return f"{0x5A00000000000000 + number:016x}"


def said(api, number, who="operator"):
    """What somebody says of a sample; nothing: they have not."""
    found = api("GET", f"/samples/{id_of(number)}/annotations")["annotations"]
    return [one["label"] for one in found if one["labeller"] == who]


def test_each_kind_of_sample_is_shown_as_what_it_is(visit):
    page = visit().goto("/samples")
    cards = page.get_by_role("list", name="Samples").locator("> li")
    expect(cards).to_have_count(ALL)
    for kind, picture in {
        "har": "svg.lines path", "door": "img.pixels", "kws": ".values dd",
    }.items():  # fmt: skip
        card = cards.filter(has_text=f"{kind} ").first
        card.scroll_into_view_if_needed()
        expect(card.locator(picture).first).to_be_visible()
    page.get_by_role("combobox", name="Label", exact=True).click()
    page.get_by_role("option", name="Labels disagree").click()
    expect(cards).to_have_count(1)
    expect(page).to_have_url(re.compile("label_state=conflict"))
    expect(page.get_by_text("edgectl samples list --label-state conflict")).to_be_visible()
    cards.first.get_by_role("link").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(CONFLICT)
    expect(page.get_by_role("list", name="What is said of it").locator("li")).to_have_count(2)
    expect(page.get_by_role("img", name=re.compile("^Channel 8 of window"))).to_be_visible()
    expect(page.get_by_text("<b>lying</b>")).to_be_visible()


def test_a_sealed_sample_is_not_shown_not_labelled_and_says_so(visit):
    watched = visit()
    asked = []
    watched.page.on("request", lambda request: asked.append(request.url))
    page = watched.goto("/samples?model=kws")
    cards = page.get_by_role("list", name="Samples").locator("> li")
    expect(cards).to_have_count(TABLES + CLOSED)
    sealed = cards.filter(has_text="Sealed to a key that this server doesn't have")
    expect(sealed).to_have_count(1)
    sealed.get_by_role("link").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(SEALED)
    expect(page.get_by_text("no dataset is made of it")).to_be_visible()
    expect(page.get_by_text("on the device, before it was written")).to_be_visible()
    expect(page.get_by_text(f"edgectl samples get {SEALED} --key FILE")).to_be_visible()
    expect(page.get_by_role("link", name="Label", exact=True)).to_have_count(0)
    expect(page.get_by_role("link", name="Download")).to_be_visible()
    page = watched.goto("/labels/kws")
    expect(page.get_by_text("1 sample of kws is sealed to a key")).to_be_visible()
    expect(page.get_by_role("button", name="1 silence")).to_be_visible()
    assert not [url for url in asked if f"{SEALED}/content" in url]
    assert not watched.troubles


def test_a_policy_names_the_key_that_devices_seal_to(visit, api):
    page = visit("admin").goto("/samples?model=kws")
    page.get_by_role("button", name="Change", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Budget of a device and day, in MB").fill("2")
    dialog.get_by_label("Uncertain").check()
    dialog.get_by_role("combobox", name="Sealed on the device to").click()
    page.get_by_role("option", name="A key that this server doesn't have").click()
    dialog.get_by_label("Public key").fill("too short")
    expect(dialog.get_by_text("This is no public key")).to_be_visible()
    public = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
    dialog.get_by_label("Public key").fill(public)
    expect(dialog.get_by_text(re.compile(f"--seal .*{re.escape(public)}"))).to_be_visible()
    dialog.get_by_role("button", name="Let samples leave").click()
    expect(dialog).to_have_count(0)
    policy = api("GET", "/models/kws/samples")
    assert policy["seal"] == public
    expect(page.locator("#policy")).to_contain_text(policy["key"])
    api("PUT", "/models/kws/samples", {"seal": "server"})


def test_viewers_see_which_are_here_and_nothing_of_what_is_in_them(visit):
    watched = visit("viewer")
    asked = []
    watched.page.on("request", lambda request: asked.append(request.url))
    page = watched.goto("/samples?model=har&site=porto")
    cards = page.get_by_role("list", name="Samples").locator("> li")
    expect(cards.first).to_contain_text("Only operators see what is in it")
    expect(page.get_by_role("button", name="Change", exact=True)).to_have_attribute(
        "aria-description", re.compile("role admin")
    )
    page = watched.goto(f"/samples/{LABELLED}")
    expect(page.get_by_text("What is in a sample is for operators")).to_be_visible()
    expect(page.get_by_role("link", name="Download")).to_have_count(0)
    page = watched.goto("/labels/har")
    expect(page.get_by_text("Labelling is for operators")).to_be_visible()
    assert not [url for url in asked if "/content" in url or "/queue" in url]
    assert not watched.troubles


def test_a_policy_says_what_it_means_for_the_fleet_before_it_is_given(visit, api):
    page = visit("admin").goto("/samples?model=door")
    expect(page.get_by_text("nothing leaves a device")).to_be_visible()
    page.get_by_role("button", name="Change", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Budget of a device and day, in MB").fill("2")
    expect(dialog.get_by_role("button", name="Let nothing leave")).to_be_visible()
    dialog.get_by_label("Uncertain").check()
    dialog.get_by_label("Random control", exact=True).check()
    for reason in ("Out of reference", "Diverse", "Asked for"):
        dialog.get_by_label(reason).check()
    expect(dialog.get_by_text("most unlike those taken lately")).to_be_visible()
    expect(dialog.get_by_text("nothing is taken for it yet")).to_have_count(0)
    devices = api("GET", "/models/door")["devices_desired"]
    expect(dialog.locator(".consequences")).to_contain_text(f"from {devices} devices")
    expect(dialog.locator(".consequences")).to_contain_text("up to 40 a day and device")
    command = (
        "edgectl samples policy door --bytes-per-day 2000000 --reason uncertain --reason random "
        "--reason out-of-reference --reason diverse --reason asked"
    )
    expect(dialog.get_by_text(command)).to_be_visible()
    dialog.get_by_role("button", name="Let samples leave").click()
    expect(dialog).to_have_count(0)
    expect(page.get_by_text("samples, by policy")).to_be_visible()
    policy = api("GET", "/models/door/samples")
    assert (policy["bytes_per_day"], policy["revision"]) == (2_000_000, 1)
    assert {"diverse", "out-of-reference", "asked"} < set(policy["reasons"])
    api("PUT", "/models/door/samples", {})


def test_a_sample_is_deleted_after_it_was_said_what_that_means(visit):
    page = visit().goto(f"/samples/{id_of(ALL - 2)}")
    page.get_by_role("button", name="Delete").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("cannot be brought back")
    dialog.get_by_role("button", name="Delete").click()
    expect(page).to_have_url(re.compile("/samples$"))
    expect(page.get_by_text(re.compile(rf"^1.{ALL - 1} of {ALL - 1}$"))).to_be_visible()


def test_labels_are_given_and_taken_back_by_keys(visit, api):
    page = visit().goto("/labels/har?first=newest")
    left = page.get_by_text(re.compile(r"samples? left$"))
    number = page.locator(".panel h2.mono, .panel h2 .mono").first
    expect(number).to_have_text(id_of(2))
    expect(left).to_have_text("6 samples left")
    page.keyboard.press("4")
    expect(number).to_have_text(id_of(3))
    page.keyboard.press("0")
    expect(number).to_have_text(id_of(4))
    expect(left).to_have_text("cannot tell. 4 samples left")
    page.keyboard.press("u")
    expect(number).to_have_text(id_of(3))
    page.keyboard.press("ArrowLeft")
    expect(number).to_have_text(id_of(2))
    expect(page.get_by_role("button", name="4 sitting")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("m")
    expect(page.get_by_text("What the model answered")).to_be_visible()
    expect(page.locator(".legend.column")).to_contain_text("Labelled 2")
    assert said(api, 2) == ["sitting"]
    assert said(api, 3) == []


def test_no_label_is_lost_by_a_lost_connection_and_a_reload(visit, api):
    watched = visit()
    page = watched.goto("/labels/door?first=newest")
    first = id_of(SERIES)
    expect(page.locator(".panel h2 .mono").first).to_have_text(first)
    page.route("**/annotation", lambda route: route.abort())
    page.keyboard.press("2")
    page.keyboard.press("3")
    expect(page.get_by_text("2 labels wait for the server")).to_be_visible()
    page.reload()
    expect(page.get_by_text("2 labels wait for the server")).to_be_visible()
    expect(page.locator(".panel h2 .mono").first).to_have_text(id_of(SERIES + 2))
    assert said(api, SERIES) == []
    page.unroute("**/annotation")
    expect(page.get_by_text("wait for the server")).to_have_count(0)
    expect(page.locator(".legend.column")).to_contain_text("Labelled 2")
    assert (said(api, SERIES), said(api, SERIES + 1)) == (["closed"], ["ajar"])
    assert page.evaluate("Object.keys(localStorage).filter(one => one.includes('label'))") == []


def test_a_label_that_is_refused_is_told(visit):
    page = visit().goto("/labels/kws")
    expect(page.get_by_role("button", name="1 silence")).to_be_visible()
    problem = {"status": 404, "code": "sample.unknown", "detail": "there is no such sample"}
    page.route("**/annotation", lambda route: route.fulfill(status=404, json=problem))
    page.get_by_role("button", name="1 silence").click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("A label was not taken: there is no such sample")
    alert.get_by_role("button", name="I have seen it").click()
    expect(alert).to_have_count(0)
