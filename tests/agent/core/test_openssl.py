"""Keys and certificates by the OpenSSL that is loaded already, beside `cryptography`."""

from __future__ import annotations

import base64
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)
from cryptography.x509.oid import NameOID

from edgectl_agent import openssl
from edgectl_agent.device_key import FileKey
from edgectl_agent.errors import Refused
from edgectl_agent.openssl import open_key, read_times

KEY = ec.generate_private_key(ec.SECP256R1())
START, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
ECDSA = ec.ECDSA(SHA256())


def pem_of(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey,
    encryption: KeySerializationEncryption | None = None,
) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def certificate(start: datetime, end: datetime) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pi-1")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name)
    builder = builder.public_key(KEY.public_key()).serial_number(1)
    made = builder.not_valid_before(start).not_valid_after(end).sign(KEY, SHA256())
    return made.public_bytes(Encoding.PEM)


def test_a_key_signs_as_cryptography_does() -> None:
    key = open_key(pem_of(KEY))
    assert key is not None
    assert key.public_der == KEY.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    for content in (b"", b"content", bytes(100_000)):
        KEY.public_key().verify(key.sign(content), content, ECDSA)


def test_it_signs_from_many_threads() -> None:
    key = open_key(pem_of(KEY))
    assert key is not None
    signatures: list[tuple[bytes, bytes]] = []

    def sign(number: int) -> None:
        for turn in range(50):
            content = f"{number} {turn}".encode()
            signatures.append((key.sign(content), content))

    threads = [threading.Thread(target=sign, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(signatures) == 200
    for signature, content in signatures:
        KEY.public_key().verify(signature, content, ECDSA)


def halves_of_two_keys() -> bytes:
    """A key whose public half is of another one, as `cryptography` would not write it."""
    der = KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    mine = KEY.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    theirs = other.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    body = base64.encodebytes(der.replace(mine, theirs))
    return b"-----BEGIN PRIVATE KEY-----\n" + body + b"-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no key",
        pem_of(KEY)[:-40],
        pem_of(KEY, BestAvailableEncryption(b"secret")),
        pem_of(ec.generate_private_key(ec.SECP384R1())),
        pem_of(ec.generate_private_key(ec.SECP256K1())),
        pem_of(rsa.generate_private_key(65537, 2048)),
        pem_of(ed25519.Ed25519PrivateKey.generate()),
        certificate(START, END),
        halves_of_two_keys(),
    ],
    ids=[
        "empty",
        "text",
        "cut",
        "encrypted",
        "P-384",
        "secp256k1",
        "RSA",
        "Ed25519",
        "X.509",
        "two",
    ],
)
def test_anything_else_is_refused(content: bytes) -> None:
    assert open_key(content) is None
    with pytest.raises(Refused, match="no P-256 private key"):
        FileKey(Path("key.pem"), content)


def test_a_flipped_bit_is_never_another_key() -> None:
    pem = pem_of(KEY)
    for place in range(len(pem)):
        changed = bytearray(pem)
        changed[place] ^= 1
        key = open_key(bytes(changed))
        if key is not None:  # in what is no part of the key
            KEY.public_key().verify(key.sign(b"content"), b"content", ECDSA)


def test_times_of_certificates() -> None:
    start, end = datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC), datetime(2051, 3, 1, tzinfo=UTC)
    assert read_times(certificate(start, end)) == (start, end)
    never = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert read_times(certificate(start, never)) == (start, never)
    soon = start + timedelta(seconds=1)
    assert read_times(certificate(start, soon) + certificate(start, end)) == (start, soon)


def test_damaged_certificates_are_judged_elsewhere() -> None:
    pem = certificate(START, END)
    for content in (b"", b"text", pem[: len(pem) // 2], pem_of(KEY)):
        assert read_times(content) is None


def test_failures_leave_nothing_for_the_next_handshake() -> None:
    """OpenSSL keeps errors by thread; one that is left is told of a connection that was good."""
    open_key(b"no key")
    read_times(b"no certificate")
    open_key(halves_of_two_keys())
    library = openssl._library()
    assert library is not None
    assert library.ERR_peek_error() == 0


def test_without_a_shared_library_cryptography_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openssl, "_library", lambda: None)
    assert read_times(certificate(START, END)) is None
    key = FileKey(Path("key.pem"), pem_of(KEY))
    monkeypatch.undo()
    assert key.key_id == FileKey(Path("key.pem"), pem_of(KEY)).key_id
    KEY.public_key().verify(key.sign(b"content"), b"content", ECDSA)


def test_signing_loads_no_other_openssl(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(pem_of(KEY))
    program = (
        "import sys, pathlib; from edgectl_agent.device_key import FileKey\n"
        "path = pathlib.Path(sys.argv[1]); key = FileKey(path, path.read_bytes())\n"
        "print(key.sign(b'content').hex())\n"
        "assert 'cryptography' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "key.pem")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    public = load_der_public_key(
        KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(bytes.fromhex(done.stdout), b"content", ECDSA)
