"""Keys by URI: files, a real PKCS #11 token (SoftHSM), services whose library is not here."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.signer import SSlibKey

from edgectl_protocol.metadata import METADATA_BYTES_MAX
from edgectl_server.errors import Refused, Unavailable
from edgectl_server.signing.key_files import load_or_make_private_key
from edgectl_server.signing.keys import ONLINE_ROLES, HeldKey, Keys
from edgectl_server.signing.repository import Repository
from edgectl_server.signing.signers import (
    key_document,
    key_name,
    load_public_key,
    named_key,
    open_signer,
    public_key_of,
)
from server.signing.conftest import PIN
from server.signing.devices import NOW, ClientDevice, Person, Published, sign_and_submit, target


def no_secret(name: str) -> None:
    raise AssertionError(f"asked for a {name}")


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
@pytest.mark.parametrize(
    "private", [Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())]
)
def test_a_key_in_a_file_signs(
    tmp_path: Path, private: Ed25519PrivateKey, passphrase: bytes | None
) -> None:
    load_or_make_private_key(tmp_path / "ana.pem", lambda: private, passphrase=passphrase)
    secret = no_secret if passphrase is None else lambda _: passphrase
    key = public_key_of("file:ana.pem", tmp_path, secret)
    for uri in ("file:ana.pem", f"file:{tmp_path}/ana.pem"):
        signature = open_signer(uri, key, tmp_path, secret).sign(b"payload")
        key.verify_signature(signature, b"payload")


def test_files_that_cannot_be_used_are_refused_with_the_reason(tmp_path: Path) -> None:
    load_or_make_private_key(tmp_path / "a", Ed25519PrivateKey.generate, passphrase=b"right")
    load_or_make_private_key(tmp_path / "b", x25519.X25519PrivateKey.generate)
    load_or_make_private_key(tmp_path / "c", Ed25519PrivateKey.generate)
    (tmp_path / "c").chmod(0o640)
    (tmp_path / "d").write_text("nonsense")
    (tmp_path / "d").chmod(0o600)
    other = Person("other").key
    for name, key, secret, code in (
        ("a", None, b"wrong", "keys.passphrase"),
        ("a", None, None, "keys.passphrase"),
        ("a", other, b"right", "keys.unreadable"),
        ("b", None, None, "keys.unreadable"),
        ("c", None, None, "keys.permissions"),
        ("d", None, None, "keys.unreadable"),
        ("e", None, None, "keys.missing"),
    ):
        with pytest.raises(Unavailable) as caught:
            open_signer(f"file:{name}", key, tmp_path, lambda _, secret=secret: secret)
        assert caught.value.code == code, name


@pytest.mark.parametrize("uri", ["", "root.pem", "http://x", "gnupg:00", "tkey:", "hsm:x?label=a"])
def test_other_uris_are_refused(tmp_path: Path, uri: str) -> None:
    with pytest.raises(Refused) as caught:
        open_signer(uri, None, tmp_path, no_secret)
    assert caught.value.code == "keys.uri"


@pytest.mark.parametrize(
    ("uri", "package"),
    [
        ("awskms:alias/edgectl", "securesystemslib[awskms]"),
        ("gcpkms:projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1", "[gcpkms]"),
        ("azurekms://vault.vault.azure.net/keys/k/1", "[azurekms]"),
        ("hv:edgectl/1", "[vault]"),
    ],
)
def test_a_service_names_the_package_that_it_needs(tmp_path: Path, uri: str, package: str) -> None:
    key = SSlibKey.from_crypto(ec.generate_private_key(ec.SECP256R1()).public_key())
    with pytest.raises(Unavailable) as caught:
        open_signer(uri, key, tmp_path, no_secret)
    assert caught.value.code == "keys.package"
    assert package in caught.value.hint
    with pytest.raises(Refused, match="has to be given"):
        open_signer(uri, None, tmp_path, no_secret)


# ---------------------------------------------------------------- public keys


def test_public_keys_come_as_json_or_pem(tmp_path: Path) -> None:
    for private in (
        Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
    ):
        key = named_key(SSlibKey.from_crypto(private.public_key()), "ana")
        (tmp_path / "a.pub").write_text(json.dumps(key_document(key)))
        pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / "ana.pem").write_bytes(pem)
        assert load_public_key(tmp_path / "a.pub") == key == load_public_key(tmp_path / "ana.pem")


def test_public_keys_that_lie_are_refused(tmp_path: Path) -> None:
    document = key_document(Person("ana").key)
    spoiled = [
        {**document, "keyid": "00" * 32},
        {**document, "keyid": 7},
        {**document, "keytype": "rsa"},
        {**document, "scheme": "none"},
        {**document, "keyval": {"public": "zz"}},
        {**document, "keyval": None},
        [],
        None,
    ]
    path = tmp_path / "a.pub"
    for one in spoiled:
        path.write_text(json.dumps(one))
        with pytest.raises(Refused) as caught:
            load_public_key(path)
        assert caught.value.code == "keys.public"
    for content in (b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n", b"[" * 70_000):
        path.write_bytes(content)
        with pytest.raises(Refused):
            load_public_key(path)
    path.write_text(json.dumps({**document, "x-edgectl-name": "\x1b[2Jana"}))
    assert key_name(load_public_key(path)) == ""


def test_a_list_of_signers_that_is_no_list_is_named(tmp_path: Path) -> None:
    Keys.open(tmp_path)
    path = tmp_path / "signers.json"
    good = path.read_bytes()
    for content in (
        b"",
        b"[]",
        b'{"roles": {"root": [{}]}}',
        good.replace(b'"keyid": "', b'"keyid": "0'),
    ):
        path.write_bytes(content)
        with pytest.raises(Unavailable) as caught:
            Keys.open(tmp_path)
        assert caught.value.code == "keys.unreadable"
    path.write_bytes(good)
    path.chmod(0o644)
    with pytest.raises(Unavailable) as caught:
        Keys.open(tmp_path)
    assert caught.value.code == "keys.permissions"


# ---------------------------------------------------------------- a token


def test_an_online_role_and_an_offline_root_on_a_token(tmp_path: Path, token: str) -> None:
    keys = Keys.open(tmp_path / "keys", make=("targets", *ONLINE_ROLES))
    (tmp_path / "keys" / "pin").write_bytes(PIN)
    (tmp_path / "keys" / "pin").chmod(0o600)
    offline, online = token % 2, token % 3

    repository = Repository(tmp_path / "tuf", keys)
    root_key = named_key(public_key_of(offline, tmp_path, lambda _: PIN), "safe")
    repository.begin(NOW, root=[root_key])

    class Token(Person):
        def __init__(self) -> None:
            self.signer = open_signer(offline, root_key, tmp_path, lambda _: PIN)  # type: ignore[assignment]

    sign_and_submit(repository, "root", Token())
    repository = Repository.open(tmp_path / "tuf", keys, NOW)
    device = ClientDevice(tmp_path / "device", repository.first_root)
    repository.add_targets([target("models/har/1/a")], NOW)
    assert device.look_up(Published(repository.metadata()), "models/har/1/a", NOW)

    held = HeldKey(online, public_key_of(online, tmp_path, lambda _: PIN), "pin")
    old = [one.key.keyid for one in keys.held("snapshot")]
    assert repository.rotate("snapshot", NOW, add=[held], remove=old).staged == ("root",)
    sign_and_submit(repository, "root", Token())
    again = Repository.open(tmp_path / "tuf", Keys.open(tmp_path / "keys"), NOW)
    again.add_targets([target("models/har/2/a")], NOW)
    assert device.look_up(Published(again.metadata()), "models/har/2/a", NOW)
    assert {one.uri for one in keys.held("snapshot")} == {online}
    files = Published(again.metadata()).files.values()
    assert max(map(len, files)) < METADATA_BYTES_MAX
    secret = PIN.decode()
    assert secret not in (tmp_path / "keys" / "signers.json").read_text()


def test_a_token_that_fails_says_what_to_look_at(
    tmp_path: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = public_key_of(token % 2, tmp_path, lambda _: PIN)
    failing = [
        (token % 2, b"9999"),
        (token % 2, None),
        (token % 7, PIN),
        ("hsm:2?label=another", PIN),
    ]
    for uri, pin in failing:
        with pytest.raises(Unavailable) as caught:
            open_signer(uri, key, tmp_path, lambda _, pin=pin: pin).sign(b"payload")
        assert caught.value.code == "keys.signer", uri
        assert "PIN" in caught.value.hint
    monkeypatch.delenv("PYKCS11LIB")
    with pytest.raises(Unavailable) as caught:
        public_key_of(token % 2, tmp_path, lambda _: PIN)
    assert "PYKCS11LIB" in caught.value.hint


def test_a_token_that_was_taken_home_does_not_stop_the_others(tmp_path: Path, token: str) -> None:
    """The server holds a root key that it cannot reach: it waits, the timestamp does not."""
    keys = Keys.open(tmp_path / "keys", make=("targets", *ONLINE_ROLES))
    (tmp_path / "keys" / "pin").write_bytes(PIN)
    (tmp_path / "keys" / "pin").chmod(0o600)
    root_key = public_key_of(token % 2, tmp_path, lambda _: PIN)
    keys.hold("root", HeldKey(token % 2, root_key, "pin"))
    repository = Repository.open(tmp_path / "tuf", keys, NOW)
    device = ClientDevice(tmp_path / "device", repository.first_root)

    (tmp_path / "keys" / "pin").write_bytes(b"0000")
    late = NOW + timedelta(days=200)
    assert repository.refresh(late)
    assert [(one.role, one.missing) for one in repository.status(late).staged] == [("root", 1)]
    assert device.look_up(Published(repository.metadata()), "models/x/1/a", late) is None

    (tmp_path / "keys" / "pin").write_bytes(PIN)
    repository.refresh(late + timedelta(hours=13))
    assert repository.root_version == 2
    assert not repository.status(late).staged
