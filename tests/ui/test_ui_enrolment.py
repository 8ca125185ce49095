"""Letting a device in on the page: it asks over the real API, a person compares and approves."""

import re
import secrets
import urllib.error
import urllib.request
from pathlib import Path

import msgspec
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from playwright.sync_api import expect

from edgectl_protocol.enrolment import fingerprint_of, format_fingerprint, request_text
from ui.test_ui_pages import parse

pytestmark = pytest.mark.chromium


class Asking:
    """A device without a token."""

    def __init__(self, origin: str, name: str) -> None:
        self.origin, self.name = origin, name
        self.key = ec.generate_private_key(ec.SECP256R1())
        der = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.fingerprint = format_fingerprint(fingerprint_of(der))

    def ask(self) -> int:
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        said = {
            "nonce": secrets.token_hex(16),
            "device": self.name,
            "csr_pem": csr.sign(self.key, SHA256()).public_bytes(Encoding.PEM).decode(),
        }
        proof = self.key.sign(request_text(**said), ec.ECDSA(SHA256())).hex()
        request = urllib.request.Request(
            f"{self.origin}/api/v1/enrol",
            msgspec.json.encode({**said, "proof": proof}),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code


def test_a_device_is_approved_by_its_fingerprint(visit, origin):
    device, impostor = Asking(origin, "pi-asks"), Asking(origin, "pi-asks")
    assert (device.ask(), impostor.ask()) == (202, 202)
    watched = visit()
    page = watched.goto("/fleet")
    page.get_by_role("button", name="Enrol devices (3 ask)").click()
    table = page.get_by_role("region", name="Devices that ask")
    expect(table.locator("tbody tr:not(.detail)")).to_have_count(4)
    row = table.locator("tr", has_text=device.fingerprint)
    row.get_by_role("button", name="Approve").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(device.fingerprint)
    expect(dialog).not_to_contain_text(impostor.fingerprint)
    dialog.get_by_label("Group").fill("site-a")
    expect(dialog).to_contain_text(
        f"edgectl devices approve pi-asks --fingerprint {device.fingerprint} --group site-a"
    )
    dialog.get_by_role("button", name="Approve").click()
    expect(dialog).to_have_count(0)
    assert device.ask() == 200

    # The other one asks on; now the name is taken, and the page says so.
    page.reload()
    expect(table).to_contain_text("is enrolled, with another key")
    row = table.locator("tr", has_text=impostor.fingerprint)
    expect(row.get_by_role("button", name="Approve")).to_have_attribute("aria-disabled", "true")
    row.get_by_role("button", name="Reject").click()
    page.get_by_role("dialog").get_by_role("button", name="Reject").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert impostor.ask() == 403

    page.goto(f"{origin}/fleet?group=site-a")
    expect(page.get_by_role("link", name="pi-asks")).to_be_visible()
    page.get_by_role("link", name="pi-asks").click()
    expect(page.get_by_text(device.fingerprint)).to_be_visible()
    page.get_by_role("button", name="Lost").click()
    page.get_by_role("dialog").get_by_role("button", name="Shut out").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name="Lost")).to_have_attribute("aria-disabled", "true")
    assert device.ask() == 202  # it has to be let in again
    assert not watched.troubles


def test_the_list_is_shown_and_can_be_shortened(visit, api):
    fingerprint = format_fingerprint("ab" * 32)
    entry = {"device": "pi-listed", "fingerprint": fingerprint, "group": "site-b"}
    api("POST", "/enrolment/preauthorised", {"entries": [entry]})
    watched = visit()
    page = watched.goto("/enrol")
    expect(page.locator("#without")).to_contain_text(re.compile(r"--authority sha256:[0-9a-f]{64}"))
    table = page.get_by_role("region", name="Keys on the list")
    expect(table).to_contain_text(fingerprint)
    table.get_by_role("button", name="Remove pi-listed").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(table).not_to_contain_text("pi-listed")
    assert not watched.troubles


def test_a_long_list_is_paged_searched_and_sorted_by_the_server(visit, api):
    names = [f"pi-many-{number:02}" for number in range(30)]
    entries = [
        {"device": name, "fingerprint": format_fingerprint(f"{number:02x}" * 32)}
        for number, name in enumerate(names, 16)
    ]
    api("POST", "/enrolment/preauthorised", {"entries": entries})
    watched = visit()
    page = watched.goto("/enrol")
    panel = page.locator("#without")
    table = panel.get_by_role("region", name="Keys on the list")
    rows = table.locator("tbody tr:not(.detail)")
    expect(rows).to_have_count(25)
    panel.get_by_role("button", name="Next page").click()
    expect(page).to_have_url(re.compile(r"keys\.offset=25"))
    expect(rows.last).to_contain_text(names[-1])
    panel.get_by_label("Search keys on the list").fill("many-1")
    expect(page).to_have_url(re.compile(r"keys\.q=many-1$"))
    expect(rows).to_have_count(10)
    table.get_by_role("button", name="Name").click()
    expect(rows.first).to_contain_text("pi-many-19")
    page.reload()
    expect(rows.first).to_contain_text("pi-many-19")
    # The other lists of the page are as they were.
    expect(page.get_by_role("region", name="Devices that ask")).to_contain_text("pi-waits")
    panel.get_by_label("Search keys on the list").fill("nobody is called so")
    expect(panel.get_by_text("No key on the list matches")).to_be_visible()
    for name in names:
        api("DELETE", f"/enrolment/preauthorised/{name}")
    assert not watched.troubles


def test_an_image_gets_a_token_of_its_own(visit, api):
    watched = visit("operator")
    page = watched.goto("/enrol")
    panel = page.locator("#image")
    text = panel.get_by_role("region", name="What the image does")
    expect(text).to_contain_text("@TOKEN@")
    panel.get_by_label("Devices").fill("12")
    panel.get_by_label("Names begin with").fill("a b")
    expect(panel.get_by_role("alert")).to_contain_text("prefix")
    button = panel.get_by_role("button", name="Put a token into it")
    expect(button).to_have_attribute("aria-disabled", "true")
    panel.get_by_label("Names begin with").fill("pi")
    expect(text).to_contain_text('--device "pi-$(cut -c1-8 /etc/machine-id)"')
    shown = panel.locator("code").first.inner_text()
    assert shown.startswith("edgectl devices image-snippet --uses 12 --expires 7d --prefix pi ")
    parse(shown)
    button.click()
    expect(text).to_contain_text(re.compile("ee_[0-9a-f]{16}_"))
    with page.expect_download() as download:
        panel.get_by_role("link", name="Save user-data").click()
    config = yaml.safe_load(Path(download.value.path()).read_text())
    token = config["write_files"][0]["content"].split("_")[1]
    made = {one["id"]: one for one in api("GET", "/enrolment/tokens")["items"]}[token]
    assert made["uses_left"] == 12
    assert not [one for one in watched.troubles if "status of 422" not in one]


def test_a_viewer_sees_who_asks_and_lets_nobody_in(visit, origin):
    device = Asking(origin, "pi-viewed")
    assert device.ask() == 202
    page = visit("viewer").goto("/enrol")
    row = page.locator("tr", has_text=device.fingerprint)
    expect(row.get_by_role("button", name="Approve")).to_have_attribute("aria-disabled", "true")
    expect(page.get_by_role("button", name="Make an enrol token")).to_have_attribute(
        "aria-disabled", "true"
    )


def test_on_a_phone_approving_needs_no_scrolling_sideways(visit):
    page = visit(viewport={"width": 375, "height": 812}).goto("/enrol")
    buttons = page.get_by_role("button", name="Approve")
    expect(buttons.first).to_be_visible()
    for region in ("Devices that ask", "Keys on the list", "Enrol tokens"):
        table = page.get_by_role("region", name=region)
        assert table.evaluate("(it) => it.scrollWidth <= it.clientWidth"), region
    box = buttons.first.bounding_box()
    assert box is not None
    assert 0 <= box["x"] <= box["x"] + box["width"] <= 375
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
