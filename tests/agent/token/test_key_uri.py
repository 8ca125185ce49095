"""URIs of keys in tokens: what is understood, and what is refused rather than guessed."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl_agent.errors import UsageError
from edgectl_agent.key_uri import parse_key_uri

QUERY = "?module-path=/usr/lib/libtoken.so"


def test_all_that_is_said_is_read() -> None:
    uri = parse_key_uri(
        "pkcs11:token=my%20token;serial=0a1b;object=dev%3Bice;id=%00%FF;type=private"
        "?module-path=/usr/lib/a%26b.so&pin-source=file:/etc/edgectl/pin"
    )
    assert (uri.token, uri.serial, uri.object, uri.id) == ("my token", "0a1b", "dev;ice", b"\0\xff")
    assert (uri.module, uri.pin_file) == (Path("/usr/lib/a&b.so"), Path("/etc/edgectl/pin"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "begin"),
        ("file:/key.pem", "begin"),
        ("pkcs11:", "module-path"),
        ("pkcs11:token=a;object=b", "module-path"),
        ("pkcs11:token=a;object=b?module-path=lib.so", "absolute"),
        (f"pkcs11:object=b{QUERY}", "which token"),
        (f"pkcs11:token=a{QUERY}", "which key"),
        (f"pkcs11:token=a;object=b{QUERY}&pin-value=1234", "file"),
        (f"pkcs11:token=a;object=b;pin-value=1234{QUERY}", "file"),
        (f"pkcs11:token=a;object=b{QUERY}&pin-source=pin", "absolute"),
        (f"pkcs11:token=a;object=b{QUERY}&module-name=token", "module-name"),
        (f"pkcs11:token=a;object=b;slot-id=1{QUERY}", "slot-id"),
        (f"pkcs11:token=a;token=c;object=b{QUERY}", "twice"),
        (f"pkcs11:token=a;object=b;type=public{QUERY}", "private"),
        (f"pkcs11:token=a;object=%zz{QUERY}", "object"),
        (f"pkcs11:token=a;object=%00{QUERY}", "object"),
        (f"pkcs11:token=a;object=%ff{QUERY}", "object"),
        (f"pkcs11:token=a;id=\u20ac{QUERY}", "id"),
        (f"pkcs11:token=a;object={'b' * 1024}{QUERY}", "long"),
    ],
)
def test_what_is_not_known_is_refused(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        parse_key_uri(text)
    assert caught.value.code == "key.uri"
    assert "1234" not in str(caught.value)


@given(st.text(max_size=80), st.text(max_size=80))
def test_any_text_is_a_uri_or_a_usage_error(path: str, query: str) -> None:
    for text in (path, f"pkcs11:{path}?{query}", f"pkcs11:token=a;id={path}{QUERY}&{query}"):
        with contextlib.suppress(UsageError):
            assert parse_key_uri(text).module.is_absolute()


def test_a_pin_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    pin = tmp_path / "pin"
    uri = parse_key_uri(f"pkcs11:token=a;object=b{QUERY}&pin-source=file:{pin}")
    for content, mode in (("1234", 0o604), ("", 0o600), ("1" * 257, 0o600)):
        pin.write_text(content)
        pin.chmod(mode)
        with pytest.raises(UsageError, match=r"key\.pin"):
            uri.read_pin()
    pin.write_text("1234\n")
    pin.chmod(0o600)
    assert uri.read_pin() == "1234"
    pin.unlink()
    with pytest.raises(UsageError, match=r"key\.pin"):
        uri.read_pin()
