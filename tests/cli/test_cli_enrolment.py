"""Letting devices in by the command line: what it takes, and what a real server makes of it."""

import json
import secrets
import urllib.request

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cli.test_cli_real_server import admin, real_server  # noqa: F401
from edgectl.device_list import LINES_MAX, parse_device_list
from edgectl.errors import LocalError
from edgectl.types import PreauthorisedEntry
from edgectl_protocol.enrolment import fingerprint_of, format_fingerprint, request_text

ONE, TWO = (format_fingerprint(digits * 32) for digits in ("a1", "b2"))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("30 min", 1800), ("1.5h", 5400), ("7d", 604_800), ("3600", 3600)],
)
def test_durations_as_people_write_them(logged_in, fleet_server, text, seconds):
    got = logged_in("devices", "token", "create", "--expires", text)
    assert got.code == 0, got.err
    asked = fleet_server.requests("POST", "/enrolment/tokens")[0].json()
    assert asked == {"uses": 1, "expires_in_s": seconds, "group": ""}


@pytest.mark.parametrize(
    "words",
    [
        ("token", "create", "--expires", "soon"),
        ("token", "create", "--expires", "59s"),
        ("token", "create", "--expires", "31d"),
        ("token", "create", "--expires", "-1h"),
        ("token", "create", "--group", "Site A"),
        ("token", "revoke", "ee_0123456789abcdef_x"),
        ("approve", "pi-1"),
        ("approve", "pi-1", "--fingerprint", ONE[:-1]),
        ("approve", "pi.1", "--fingerprint", ONE),
        ("reject", "pi-1", "--fingerprint", ""),
        ("preauthorise",),
        ("preauthorise", "--device", "pi-1"),
        ("preauthorise", "list.csv", "--device", "pi-1", "--fingerprint", ONE),
        ("list", "--revoked", "--decommissioned"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(logged_in, words):
    assert logged_in("devices", *words).code == 2


def test_an_image_gets_its_own_token(logged_in, fleet_server):
    got = logged_in(
        "devices", "image-snippet", "--uses", "50", "--group", "site-a", "--prefix", "pi",
        "--server", "https://edge.example.org",
    )  # fmt: skip
    assert got.code == 0, got.err
    (asked,) = fleet_server.requests("GET", "/enrolment/image-snippet")
    assert dict(asked.query) == {
        "server": "https://edge.example.org", "prefix": "pi", "form": "cloud-init",
        "package": "/boot/firmware/edgectl-agent.deb",
    }  # fmt: skip
    made = fleet_server.requests("POST", "/enrolment/tokens")[0].json()
    assert made == {"uses": 50, "expires_in_s": 7 * 86400, "group": "site-a"}
    assert got.out.startswith("#cloud-config\nee_")
    assert "@TOKEN@" not in got.out
    assert "edgectl devices token revoke" in got.err


def test_a_wrong_option_of_an_image_leaves_no_token_behind(logged_in, fleet_server):
    refused = (422, {"code": "request.invalid", "detail": "no", "status": 422})
    fleet_server.routes["GET", "/enrolment/image-snippet"] = refused
    assert logged_in("devices", "image-snippet", "--uses", "2", "--prefix", "a b").code == 1
    assert not fleet_server.requests("POST", "/enrolment/tokens")
    assert logged_in("devices", "image-snippet").code == 2, "how many is for a person to say"


def test_a_list_as_people_keep_it():
    text = f"""
    # the workshop, Monday
    pi-1,{ONE}
    pi-2 , {TWO.upper()}, site-b   # the one with the camera
    pi-3,SHA256:{ONE.replace("-", "")}
    """
    assert parse_device_list(text, "site-a") == [
        PreauthorisedEntry("pi-1", ONE, "site-a"),
        PreauthorisedEntry("pi-2", TWO, "site-b"),
        PreauthorisedEntry("pi-3", ONE, "site-a"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no device"),
        ("# nothing\n", "names no device"),
        ("pi-1", "line 1: expected"),
        (f"pi-1,{ONE},site-a,more", "line 1: expected"),
        (f"pi-1,{ONE}\npi-1,{TWO}", "line 2: pi-1 is named twice"),
        (f"pi/1,{ONE}", "line 1: 'pi/1' is not a device name"),
        (f"server,{ONE}", "reserved"),
        (f"pi-1,{ONE[:-1]}", "line 1: not a fingerprint"),
        (f"pi-1,{ONE},Site A", "is not a group name"),
        ("\n" * (LINES_MAX + 1), "more than"),
    ],
)
def test_a_list_that_is_wrong_says_where(text, said):
    with pytest.raises(LocalError, match=said) as caught:
        parse_device_list(text)
    assert caught.value.code == "devices.list"
    assert caught.value.hint


def ask(url, name, key):
    """Ask to be let in as a device does; return the status."""
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    said = {
        "nonce": secrets.token_hex(16),
        "device": name,
        "csr_pem": csr.sign(key, SHA256()).public_bytes(Encoding.PEM).decode(),
    }
    proof = key.sign(request_text(**said), ec.ECDSA(SHA256())).hex()
    request = urllib.request.Request(
        f"{url.rstrip('/')}/api/v1/enrol",
        msgspec.json.encode({**said, "proof": proof}),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.status


@pytest.mark.e2e
def test_the_door_of_a_real_server(admin, real_server, tmp_path):  # noqa: F811
    def run(*words):
        got = admin("devices", *words, "--json")
        assert got.code == 0, got.err
        return json.loads(got.out)

    ready = real_server.wait_line("the server", "ready", value=True, since=0)
    assert run("authority")["fingerprint"] == ready["authority"]
    assert admin("devices", "authority").out.strip() == ready["authority"]

    made = run("token", "create", "--uses", "3", "--expires", "2h", "--group", "site-a")
    assert made["group"] == "site-a"
    assert [one["id"] for one in run("token", "list")] == [made["id"]]
    assert made["id"] in admin("devices", "token", "list").out
    assert made["token"] not in admin("devices", "token", "list").out
    assert run("token", "revoke", made["id"])["revoked"] is True
    twice = admin("devices", "token", "revoke", made["id"])
    assert (twice.code, twice.err.splitlines()[-1][:5]) == (1, "try: ")

    (tmp_path / "list.csv").write_text(f"pi-1,{ONE}\npi-2,{TWO},site-b\n")
    assert run("preauthorise", tmp_path / "list.csv", "--group", "site-a") == {
        "added": 2,
        "unchanged": 0,
    }
    again = admin("devices", "preauthorise", "-", "--json", stdin=f"pi-2,{TWO},site-b\n")
    assert json.loads(again.out) == {"added": 0, "unchanged": 1}
    listed = {one["device"]: one["group"] for one in run("preauthorised", "list")}
    assert listed == {"pi-1": "site-a", "pi-2": "site-b"}
    assert run("preauthorised", "remove", "pi-1")["removed"] is True
    assert admin("devices", "preauthorised", "remove", "pi-1").code == 1

    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    fingerprint = format_fingerprint(fingerprint_of(public))
    assert admin("devices", "requests").err.strip() == "no device asks"
    assert ask(real_server.url, "pi-9", key) == 202
    assert [one["fingerprint"] for one in run("requests")] == [fingerprint]
    assert fingerprint in admin("devices", "requests").out
    wrong = admin("devices", "approve", "pi-9", "--fingerprint", ONE)
    assert wrong.code == 1
    assert wrong.err.startswith("error[enrol.fingerprint]: ")
    assert "\nwhile: approving pi-9\ntry: " in wrong.err
    run("reject", "pi-9", "--fingerprint", fingerprint)
    run("approve", "pi-9", "--fingerprint", fingerprint, "--group", "site-b")
    assert ask(real_server.url, "pi-9", key) == 200
    assert [one["id"] for one in run("list", "--group", "site-b")] == ["pi-9"]
    shown = admin("devices", "show", "pi-9").out
    assert fingerprint in shown
    assert "site-b" in shown

    assert run("revoke", "pi-9", "--yes")["state"] == "revoked"
    assert run("list") == []
    assert [one["id"] for one in run("list", "--revoked")] == ["pi-9"]
    assert ask(real_server.url, "pi-9", key) == 202
    gone = run("decommission", "pi-9", "--yes")
    assert gone["state"] == "decommissioned"
    late = admin("devices", "revoke", "pi-9", "--yes")
    assert late.err.startswith("error[device.decommissioned]")
