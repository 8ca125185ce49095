"""``edgectl push --encrypt``: what it asks for, what it refuses, what it shows."""

import json

import pytest

from e2e.fleet import Server
from edgectl.demo import activity_data

DATA = (
    *("--calibration", activity_data.CALIBRATION),
    *("--evaluation", activity_data.EVALUATION),
)


@pytest.mark.e2e
def test_a_real_server_encrypts_and_both_say_so(tmp_path, edgectl):
    server = Server(tmp_path / "server")
    server.start()
    try:
        password = (server.data / "admin-password").read_text()
        login = ("login", server.url, "--username", "admin", "--password-stdin")
        assert edgectl(*login, stdin=password).code == 0

        some = edgectl("push", activity_data.MODEL, "--name", "some", *DATA, "--encrypt=int8")
        assert some.code == 0, some.err
        assert "encrypted: int8; only devices ordered to run it can read it" in some.out
        shown = json.loads(edgectl("models", "show", "some@1", "--json").out)
        assert {one["variant"]: one["encrypted"] for one in shown["variants"]} == {
            "int8": True,
            "fp32": False,
        }

        every = edgectl("push", activity_data.MODEL, "--name", "every", *DATA, "--encrypt", "all")
        assert every.code == 0, every.err
        assert "encrypted: " in every.out
        text = edgectl("models", "show", "every@1").out
        assert text.count(", encrypted") == 2
        again = edgectl("push", activity_data.MODEL, "--name", "every", *DATA, "--encrypt", "all")
        assert again.code == 0, again.err
        assert "has this very content already" in again.out
        plain = edgectl("push", activity_data.MODEL, "--name", "every", *DATA, "--version", "1")
        assert "error[version.exists]" in plain.err, "encrypted is another content"
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--encrypt=fp16",), "fp16 is not made"),
        (("--encrypt=",), "expected one of fp32, fp16, int8"),
        (("--precision", "fp32", "--encrypt=int8"), "int8 is not made"),
    ],
)
def test_what_cannot_be_encrypted_is_refused_before_anything_is_sent(edgectl, arguments, reason):
    got = edgectl("push", activity_data.MODEL, "--name", "har", *arguments)
    assert got.code == 2
    assert reason in got.err
