"""A model from a browser: dropped, sent in pieces, and followed to what becomes of it."""

import re

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.chromium

PIECE_BYTES = 2 * 1024 * 1024
DROP = """(names) => {
  const transfer = new DataTransfer();
  for (const name of names) transfer.items.add(new File(['content of ' + name], name));
  document.querySelector('.drop-zone').dispatchEvent(
    new DragEvent('drop', {dataTransfer: transfer, bubbles: true, cancelable: true}));
}"""


def test_files_that_are_dropped_find_their_places(visit):
    watched = visit("operator")
    page = watched.goto("/push")
    expect(page.get_by_text(re.compile("up to .* a file; the server has room for"))).to_be_visible()
    push = page.get_by_role("button", name=re.compile("^Push"))
    expect(push).to_have_attribute("aria-description", "Choose a model first.")
    names = ["HAR v2.onnx", "calib.npz", "eval.npz", "labels.txt", "steps.toml", "photo.png"]
    page.evaluate(DROP, names)
    expect(page.get_by_role("alert")).to_contain_text("photo.png")
    page.get_by_label("Largest loss, points").fill("0.5")
    expect(page.locator("code")).to_have_text(
        "edgectl push 'HAR v2.onnx' --name har-v2 --calibration calib.npz --evaluation eval.npz "
        "--processing steps.toml --labels labels.txt --max-drop 0.5"
    )
    page.get_by_label("Name", exact=True).fill("Har")
    expect(push).to_have_attribute("aria-description", re.compile("small letters"))
    page.get_by_role("button", name="Take off calib.npz").click()
    expect(page.locator("code")).not_to_contain_text("--calibration")
    assert not watched.troubles


def test_a_push_goes_on_where_it_broke_off_and_is_followed_to_its_end(visit):
    page = visit("operator").goto("/push")
    sent = []

    def receive(route):
        if route.request.method != "PATCH":
            return route.continue_()
        sent.append(int(route.request.headers["upload-offset"]))
        return route.abort() if len(sent) == 2 else route.continue_()

    page.route("**/api/v1/uploads/*", receive)
    content = b"no model at all " * (5 * PIECE_BYTES // 2 // 16)
    files = [{"name": "broken.onnx", "mimeType": "application/octet-stream", "buffer": content}]
    page.get_by_label("Files to push").set_input_files(files)
    page.get_by_role("button", name="Push broken").click()
    expect(page).to_have_url(re.compile("/models/broken/1$"), timeout=60_000)
    assert sent == [0, PIECE_BYTES, PIECE_BYTES, 2 * PIECE_BYTES]
    # What becomes of it comes by itself: this one is refused, with the reason.
    expect(page.locator(".head .state")).to_have_text("Refused", timeout=60_000)
    expect(page.get_by_role("alert").locator(".mono")).to_have_text(re.compile(r"^\w+\.\w+$"))


def test_what_is_too_large_is_said_before_it_is_sent(visit):
    watched = visit("operator")
    page = watched.page

    def answer(route):
        route.fulfill(json={"file_bytes_max": 10, "room_bytes": 100})

    page.route("**/api/v1/uploads", answer)
    watched.goto("/push")
    page.evaluate(DROP, ["model.onnx"])
    expect(page.get_by_role("button", name=re.compile("^Push"))).to_have_attribute(
        "aria-description", "model.onnx has 21 B; at most 10 B are taken."
    )
