"""The certificate authority, checked with OpenSSL's own verification in real TLS handshakes."""

from __future__ import annotations

import contextlib
import json
import ssl
import stat
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgectl_protocol.errors import InvalidName
from edgectl_server.clock import now as clock_now
from edgectl_server.errors import Refused, Unavailable
from edgectl_server.signing.authority import Authority, Identity, public_key_sha256

NOW = clock_now()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open(tmp_path / "pki", NOW)


def request_of(key: object, name: str = "whatever") -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.PEM).decode()  # type: ignore[arg-type]


def device_identity(authority: Authority, folder: Path, name: str = "pi-1") -> tuple[Identity, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    issued = authority.issue_device(request_of(key), name, NOW)
    paths = Identity(folder / "d.pem", folder / "d.key", folder / "a.pem")
    paths.certificate.write_text(issued.certificate_pem)
    paths.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    paths.authority.write_text(authority.certificate_pem)
    return paths, issued.serial


def handshake(
    server: Identity, client: Identity, host: str, *, crl: bytes = b"", folder: Path | None = None
) -> str:
    """Shake hands in memory, checked on both sides; return the client's name."""
    here = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    here.load_cert_chain(server.certificate, server.key)
    here.load_verify_locations(server.authority)
    here.verify_mode = ssl.CERT_REQUIRED
    here.verify_flags |= ssl.VERIFY_X509_STRICT
    if crl:
        assert folder is not None
        (folder / "crl.pem").write_bytes(crl)
        here.load_verify_locations(folder / "crl.pem")
        here.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    there = ssl.create_default_context(cafile=str(client.authority))
    there.verify_flags |= ssl.VERIFY_X509_STRICT
    there.load_cert_chain(client.certificate, client.key)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        there.wrap_bio(down, up, server_hostname=host),
        here.wrap_bio(up, down, server_side=True),
    ]
    for _ in range(6):
        for side in sides:
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    certificate = sides[1].getpeercert()
    assert certificate is not None
    return dict(pair[0] for pair in certificate["subject"])["commonName"]  # type: ignore[misc]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "broker.example.org", "192.0.2.7"])
def test_a_device_and_the_broker_recognise_each_other(
    authority: Authority, tmp_path: Path, host: str
) -> None:
    device, _ = device_identity(authority, tmp_path)
    broker = authority.broker_identity(["broker.example.org", "192.0.2.7"], NOW)
    assert handshake(broker, device, host) == "pi-1"
    assert handshake(broker, authority.server_identity(NOW), host) == "server"


def test_the_host_name_is_checked(authority: Authority, tmp_path: Path) -> None:
    device, _ = device_identity(authority, tmp_path)
    broker = authority.broker_identity([], NOW)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(broker, device, "elsewhere.example.org")


def test_a_device_cannot_pose_as_the_broker(authority: Authority, tmp_path: Path) -> None:
    device, _ = device_identity(authority, tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        handshake(device, device, "pi-1")


def test_the_brokers_certificate_is_no_client(authority: Authority) -> None:
    broker = authority.broker_identity([], NOW)
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        handshake(broker, broker, "localhost")


def test_another_authority_is_not_believed(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    foreign = Authority.open(tmp_path / "foreign", NOW)
    device, _ = device_identity(foreign, tmp_path / "x")
    broker = authority.broker_identity([], NOW)
    mixed = Identity(device.certificate, device.key, broker.authority)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(broker, mixed, "localhost")


def test_a_revoked_device_is_refused_by_the_list(authority: Authority, tmp_path: Path) -> None:
    device, serial = device_identity(authority, tmp_path)
    broker = authority.broker_identity([], NOW)
    assert handshake(broker, device, "localhost", crl=authority.crl_pem(NOW), folder=tmp_path)
    assert not authority.is_revoked(int(serial, 16))

    authority.revoke(serial, NOW)
    authority.revoke(serial, NOW + timedelta(days=1))
    assert authority.is_revoked(int(serial, 16))
    with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
        handshake(broker, device, "localhost", crl=authority.crl_pem(NOW), folder=tmp_path)


def test_revocations_survive_a_restart(authority: Authority, tmp_path: Path) -> None:
    _, serial = device_identity(authority, tmp_path)
    authority.revoke(serial, NOW)
    again = Authority.open(tmp_path / "pki", NOW)
    assert again.is_revoked(int(serial, 16))
    assert again.certificate_pem == authority.certificate_pem
    listed = x509.load_pem_x509_crl(again.crl_pem(NOW))
    assert [one.serial_number for one in listed] == [int(serial, 16)]
    assert listed.next_update_utc is not None
    assert listed.next_update_utc > NOW + timedelta(days=3000)


def test_only_the_key_of_a_request_is_used(authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    text = request_of(key, name="server")
    issued = authority.issue_device(text, "pi-1", NOW)
    certificate = x509.load_pem_x509_certificate(issued.certificate_pem.encode())
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert [name.value for name in names] == ["pi-1"]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert issued.serial == f"{certificate.serial_number:x}"
    assert issued.public_key_sha256 == public_key_sha256(text)
    assert issued.expires_at == certificate.not_valid_after_utc


def altered_request() -> str:
    """A request for one key, signed by another: its subject is changed after signing."""
    text = request_of(ec.generate_private_key(ec.SECP256R1()), name="aaaa")
    der = x509.load_pem_x509_csr(text.encode()).public_bytes(Encoding.DER)
    forged = x509.load_der_x509_csr(der.replace(b"aaaa", b"bbbb"))
    return forged.public_bytes(Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "cannot be read"),
        ("é" * 100_000, "cannot be read"),
        ("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----", "read"),
        (request_of(ec.generate_private_key(ec.SECP384R1())), "P-256"),
        (request_of(rsa.generate_private_key(65537, 2048)), "P-256"),
        (request_of(ed25519.Ed25519PrivateKey.generate()), "P-256"),
        (altered_request(), "not signed by its own key"),
    ],
    ids=["empty", "long", "damaged", "P-384", "RSA", "Ed25519", "altered"],
)
def test_other_requests_are_refused(authority: Authority, text: str, why: str) -> None:
    with pytest.raises(Refused, match=why) as caught:
        authority.issue_device(text, "pi-1", NOW)
    assert caught.value.code == "enrol.csr"


@pytest.mark.parametrize("name", ["server", "operator", "probe", "a/b", "+", "", "x" * 65])
def test_no_certificate_for_reserved_or_impossible_names(authority: Authority, name: str) -> None:
    text = request_of(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(InvalidName):
        authority.issue_device(text, name, NOW)


def test_own_certificates_are_kept_until_they_near_their_end_or_lack_a_host(
    authority: Authority,
) -> None:
    def serial(hosts: list[str], at: datetime) -> int:
        path = authority.broker_identity(hosts, at).certificate
        return x509.load_pem_x509_certificate(path.read_bytes()).serial_number

    first = serial([], NOW)
    assert serial([], NOW + timedelta(days=300)) == first
    second = serial(["broker.example.org"], NOW)
    assert second != first
    assert serial([], NOW) == second
    assert serial([], NOW + timedelta(days=340)) != second


def test_private_keys_are_private(authority: Authority, tmp_path: Path) -> None:
    authority.broker_identity([], NOW)
    authority.server_identity(NOW)
    keys = sorted((tmp_path / "pki").glob("*.key"))
    assert [key.name for key in keys] == ["authority.key", "broker.key", "server.key"]
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}
    keys[0].chmod(0o644)
    with pytest.raises(Unavailable) as caught:
        Authority.open(tmp_path / "pki", NOW)
    assert caught.value.code == "keys.permissions"


def test_damage_is_named(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "pki" / "revoked.json").write_text(json.dumps({"revoked": {"zz": "never"}}))
    with pytest.raises(Unavailable) as caught:
        Authority.open(tmp_path / "pki", NOW)
    assert caught.value.code == "pki.damaged"  # an unreadable list must not mean "none revoked"
    (tmp_path / "pki" / "revoked.json").unlink()
    (tmp_path / "pki" / "authority.key").unlink()
    with pytest.raises(Unavailable) as caught:
        Authority.open(tmp_path / "pki", NOW)
    assert caught.value.code == "pki.damaged"


def test_a_revocation_is_kept_until_the_certificate_has_expired(
    authority: Authority, tmp_path: Path
) -> None:
    end = NOW + timedelta(days=30)
    authority.revoke("a1", NOW, expires_at=end)
    authority.revoke("a2", NOW)  # of which nobody knows the end

    def listed(authority: Authority, at: datetime) -> set[int]:
        return {one.serial_number for one in x509.load_pem_x509_crl(authority.crl_pem(at))}

    assert listed(authority, end + timedelta(days=1)) == {0xA1, 0xA2}  # clocks differ
    late = end + timedelta(days=8)
    assert listed(authority, late) == {0xA2}
    authority.revoke("a3", late, expires_at=late + timedelta(days=1))
    assert not authority.is_revoked(0xA1)
    again = Authority.open(tmp_path / "pki", late)
    assert listed(again, late) == {0xA2, 0xA3}


def test_a_renewed_certificate_is_of_the_same_key(authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    first = authority.issue_device(request_of(key), "pi-1", NOW)
    later = NOW + timedelta(days=500)
    second = authority.renew_device(first.certificate_pem, "pi-1", later)
    certificate = x509.load_pem_x509_certificate(second.certificate_pem.encode())
    assert certificate.public_key() == key.public_key()
    assert second.serial != first.serial
    assert second.expires_at > later


def test_a_short_life_is_short_in_whole(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path / "short", NOW, device_lifetime=timedelta(seconds=20))
    key = ec.generate_private_key(ec.SECP256R1())
    issued = authority.issue_device(request_of(key), "pi-1", NOW)
    certificate = x509.load_pem_x509_certificate(issued.certificate_pem.encode())
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert timedelta(seconds=20) <= life <= timedelta(seconds=23)


def test_the_authority_signs_nothing_that_could_be_a_certificate(authority: Authority) -> None:
    with pytest.raises(AssertionError):
        authority.sign(b"\x30\x82 a certificate to be signed")
