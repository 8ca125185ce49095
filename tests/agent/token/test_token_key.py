"""A device's key in a real PKCS #11 token (SoftHSM): made there, kept there, and used."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pkcs11
import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.token.soft_token import PIN, SoftToken
from edgectl_agent.device_key import KEY_PATH, FileKey, load_key, load_or_make_key
from edgectl_agent.durable import RealDisk
from edgectl_agent.errors import Refused, TokenAway, UsageError
from edgectl_agent.token_key import TokenKey
from edgectl_protocol.encryption import ENCRYPTION_KEY_OID
from edgectl_protocol.enrolment import fingerprint_of


@pytest.fixture
def disk(tmp_path: Path) -> RealDisk:
    return RealDisk(tmp_path / "state")


def made(disk: RealDisk, token: SoftToken) -> TokenKey:
    key = load_or_make_key(disk, token.uri())
    assert isinstance(key, TokenKey)
    return key


def request_of(key: Any, encryption_key: bytes = b"") -> x509.CertificateSigningRequest:
    return x509.load_pem_x509_csr(key.signing_request("pi-1", encryption_key).encode())


def test_the_key_is_made_in_the_token_and_stays_there(disk: RealDisk, token: SoftToken) -> None:
    key = made(disk, token)
    assert token.private_keys() == [[True, False, True]]  # sensitive, never extractable
    with pytest.raises(pkcs11.AttributeSensitive):
        token.read_secret()
    point = request_of(key).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    assert disk.read(KEY_PATH) == key.reference
    for secret in (b"PRIVATE KEY", PIN.encode()):
        assert all(secret not in file.read_bytes() for file in _files(disk))
    assert len(point) == 65


def _files(disk: RealDisk) -> list[Path]:
    return [file for file in Path(disk.locate("")).rglob("*") if file.is_file()]


def test_it_signs_and_requests_a_certificate(disk: RealDisk, token: SoftToken) -> None:
    key = made(disk, token)
    request = request_of(key, b"e" * 32)
    assert request.is_signature_valid
    public = request.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert key.key_id == fingerprint_of(der)
    extension = request.extensions.get_extension_for_oid(x509.ObjectIdentifier(ENCRYPTION_KEY_OID))
    assert isinstance(extension.value, x509.UnrecognizedExtension)
    assert extension.value.value == b"e" * 32
    content = b"x" * 1_000_000
    public.verify(key.sign(content), content, ec.ECDSA(SHA256()))
    with pytest.raises(InvalidSignature):
        public.verify(key.sign(content), content + b"x", ec.ECDSA(SHA256()))


def test_a_restart_finds_the_same_key(disk: RealDisk, token: SoftToken) -> None:
    first = made(disk, token)
    first.close()
    assert load_key(disk, token.uri()).key_id == first.key_id
    assert made(disk, token).key_id == first.key_id
    assert len(token.private_keys()) == 1


def test_power_lost_between_token_and_disk_makes_no_second_key(
    disk: RealDisk, token: SoftToken
) -> None:
    before = made(disk, token)
    Path(disk.locate(KEY_PATH)).unlink()
    assert made(disk, token).key_id == before.key_id
    assert len(token.private_keys()) == 1


def test_many_threads_sign_at_once(disk: RealDisk, token: SoftToken) -> None:
    key = made(disk, token)
    public = request_of(key).public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    good = []

    def sign(number: int) -> None:
        for turn in range(20):
            content = f"{number} {turn}".encode()
            public.verify(key.sign(content), content, ec.ECDSA(SHA256()))
            good.append(content)

    threads = [threading.Thread(target=sign, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(good) == 120


@pytest.mark.parametrize(
    ("curve", "private", "code"),
    [
        ("secp256r1", {"EXTRACTABLE": True, "SENSITIVE": True}, "key.unsafe"),
        ("secp256r1", {"EXTRACTABLE": False, "SENSITIVE": False}, "key.unsafe"),
        ("secp384r1", {"EXTRACTABLE": False, "SENSITIVE": True}, "key.unsafe"),
    ],
)
def test_a_key_that_is_no_secret_or_of_another_kind_is_refused(
    disk: RealDisk, token: SoftToken, curve: str, private: dict[str, bool], code: str
) -> None:
    token.make("device", curve, **private)
    with pytest.raises(Refused) as caught:
        load_or_make_key(disk, token.uri())
    assert caught.value.code == code
    assert disk.size(KEY_PATH) is None


def test_two_keys_of_one_name_are_refused(disk: RealDisk, token: SoftToken) -> None:
    for _ in range(2):
        token.make("device", EXTRACTABLE=False, SENSITIVE=True)
    with pytest.raises(Refused, match=r"key\.missing.* 2 private"):
        load_or_make_key(disk, token.uri())


def test_a_wrong_pin_is_tried_once(disk: RealDisk, token: SoftToken, tmp_path: Path) -> None:
    """Also by an agent that is started again and again; then the right one by hand helps."""
    made(disk, token).close()
    wrong = tmp_path / "wrong"
    wrong.write_text("000000")
    wrong.chmod(0o600)
    with pytest.raises(Refused, match="PinIncorrect"):
        load_key(disk, token.uri(pin=wrong))
    for _ in range(20):
        with pytest.raises(Refused, match="wrong PIN was given"):
            load_key(disk, token.uri(pin=wrong))
    token.session().close()
    assert load_key(disk, token.uri()).sign(b"a")


def test_the_kind_of_key_is_not_changed(disk: RealDisk, token: SoftToken, tmp_path: Path) -> None:
    made(disk, token).close()
    with pytest.raises(Refused, match=r"key\.other"):
        load_key(disk)
    token.make("other", EXTRACTABLE=False, SENSITIVE=True)
    with pytest.raises(Refused, match=r"key\.other"):
        load_or_make_key(disk, token.uri("other"))
    in_file = RealDisk(tmp_path / "file")
    assert isinstance(load_or_make_key(in_file), FileKey)
    with pytest.raises(Refused, match=r"key\.other"):
        load_or_make_key(in_file, token.uri())


def test_another_token_in_its_place_is_noticed(disk: RealDisk, token: SoftToken) -> None:
    """Same labels, same PIN, another key: at the start, and while it runs."""
    key = made(disk, token)
    with token.session() as session:
        for one in list(session.get_objects()):
            one.destroy()
    token.make("device", EXTRACTABLE=False, SENSITIVE=True)
    with pytest.raises(TokenAway, match="another key"):
        key.sign(b"a")
    key.close()
    with pytest.raises(Refused, match=r"key\.other"):
        load_key(disk, token.uri())


def test_a_session_that_was_lost_is_opened_anew(disk: RealDisk, token: SoftToken) -> None:
    key = made(disk, token)
    public = request_of(key).public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    key._opened.session.close()  # as when the daemon of a token starts again
    public.verify(key.sign(b"a"), b"a", ec.ECDSA(SHA256()))


def test_a_token_that_is_gone_is_said_so_and_may_come_back(
    disk: RealDisk, token: SoftToken
) -> None:
    key = made(disk, token)
    key._opened.session.close()
    pin = token.pin_file.read_text()
    token.pin_file.unlink()
    with pytest.raises(TokenAway):
        key.sign(b"a")
    token.pin_file.write_text(pin)
    token.pin_file.chmod(0o600)
    assert key.sign(b"a")


@pytest.mark.parametrize("library", ["missing.so", "text.so"])
def test_no_library_no_token_no_key(
    disk: RealDisk, token: SoftToken, tmp_path: Path, library: str
) -> None:
    (tmp_path / "text.so").write_text("no library")
    uri = token.uri().replace(str(token.module), str(tmp_path / library))
    with pytest.raises(Refused, match=r"key\.token"):
        load_or_make_key(disk, uri)
    with pytest.raises(Refused, match=r"key\.token"):
        load_or_make_key(disk, token.uri().replace("edgectl%20device", "nobody"))
    with pytest.raises(UsageError, match=r"key\.pin"):
        load_or_make_key(disk, token.uri(pin=tmp_path / "nothing"))
    assert disk.size(KEY_PATH) is None


def test_a_stolen_card_is_no_device(disk: RealDisk, token: SoftToken, tmp_path: Path) -> None:
    """All files of the state directory, without the token: nothing can be signed with them."""
    made(disk, token).close()
    shutil.copytree(disk.locate(""), tmp_path / "stolen")
    stolen = RealDisk(tmp_path / "stolen")
    with pytest.raises(Refused):
        load_key(stolen)
    with pytest.raises(Refused, match=r"enrol\.damaged"):
        FileKey(tmp_path / "stolen", stolen.read(KEY_PATH))
