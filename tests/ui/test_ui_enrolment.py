"""Letting a device in on the page: it asks over the real API, a person compares and approves."""

import re
import secrets
import urllib.error
import urllib.request

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from playwright.sync_api import expect

from edgectl_protocol.enrolment import fingerprint_of, format_fingerprint, request_text

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
            with urllib.request.urlopen(request, timeout=10) as answer:
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


def test_a_viewer_sees_who_asks_and_lets_nobody_in(visit, origin):
    device = Asking(origin, "pi-viewed")
    assert device.ask() == 202
    page = visit("viewer").goto("/enrol")
    row = page.locator("tr", has_text=device.fingerprint)
    expect(row.get_by_role("button", name="Approve")).to_have_attribute("aria-disabled", "true")
    expect(page.get_by_role("button", name="Make an enrol token")).to_have_attribute(
        "aria-disabled", "true"
    )
