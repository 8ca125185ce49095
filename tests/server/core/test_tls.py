"""The server's own door: TLS with both kinds of certificate, and no plain HTTP for the network."""

import contextlib
import ipaddress
import json
import logging
import os
import signal
import socket
import ssl
import threading
from datetime import timedelta

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from edgectl_server import http_connection
from edgectl_server.clock import now
from edgectl_server.errors import Refused, Unavailable
from edgectl_server.running import _WebServer
from edgectl_server.service_manager import ServiceManager
from edgectl_server.settings import Settings
from edgectl_server.signing.authority import Authority
from edgectl_server.tls import ServerTls, check_listening, names_of, open_tls
from server.core.test_server_process import start  # noqa: F401  # a fixture
from waiting import wait_for

WAIT_S = 20
DAY = timedelta(days=1)


class Files:
    """A certificate with its key, signed by itself, as an operator would bring it."""

    def __init__(self, directory) -> None:
        self.certificate, self.key = directory / "site.pem", directory / "site.key"

    def write(self, *, ends=DAY, passphrase=b"", only="", name="localhost") -> None:
        private = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now() - 3 * DAY)
            .not_valid_after(now() + ends)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(private, SHA256())
        )
        encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
        if only in {"", "certificate"}:
            self.certificate.write_bytes(made.public_bytes(Encoding.PEM))
        if only in {"", "key"}:
            pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
            self.key.write_bytes(pem)
            self.key.chmod(0o600)

    def served(self, port: int) -> str:
        """Return the name in the certificate that a new connection gets."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with (
            socket.create_connection(("127.0.0.1", port), WAIT_S) as plain,
            context.wrap_socket(plain) as client,
        ):
            found = x509.load_der_x509_certificate(client.getpeercert(binary_form=True) or b"")
        return str(found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


@pytest.fixture
def files(tmp_path) -> Files:
    files = Files(tmp_path)
    files.write()
    return files


@contextlib.contextmanager
def served(services, tls: ServerTls):
    """Run the web server in this process."""
    services.tls = tls
    ready = threading.Event()
    server = _WebServer(services, ready.set, ServiceManager({}))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        assert ready.wait(WAIT_S)
        yield listener.getsockname()[1], server
        server.stop()
        thread.join()


@pytest.fixture
def tls(files) -> ServerTls:
    tls = ServerTls(files.certificate, files.key, now)
    tls.load()
    return tls


# ---------------------------------------------------------------- what may listen where


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"listen_host": "127.0.0.1"}, ""),
        ({"listen_host": "127.8.8.8"}, ""),
        ({"listen_host": "::1"}, ""),
        ({"listen_host": "localhost"}, ""),
        ({"listen_host": "0.0.0.0"}, "tls.plain"),
        ({"listen_host": "::"}, "tls.plain"),
        ({"listen_host": ""}, "tls.plain"),
        ({"listen_host": "192.0.2.1"}, "tls.plain"),
        ({"listen_host": "::ffff:127.0.0.1"}, "tls.plain"),
        ({"listen_host": "edge.example.org"}, "tls.plain"),
        ({"listen_host": "localhost.example.org"}, "tls.plain"),
        ({"listen_host": "0.0.0.0", "trusted_proxies": "192.0.2.7"}, ""),
        ({"listen_host": "0.0.0.0", "insecure_http": True}, ""),
        ({"listen_host": "0.0.0.0", "tls": "own"}, ""),
        ({"tls": "files"}, "tls.settings"),
        ({"tls": "files", "tls_certificate": "x"}, "tls.settings"),
        ({"tls": "files", "tls_certificate": "x", "tls_key": "x"}, ""),
        ({"tls_certificate": "x", "tls_key": "x"}, "tls.settings"),
        ({"tls": "own", "tls_key": "x"}, "tls.settings"),
    ],
)
def test_plain_http_is_for_loopback(settings, code):
    if not code:
        check_listening(Settings(**settings))
        return
    with pytest.raises(Refused) as caught:
        check_listening(Settings(**settings))
    assert caught.value.code == code
    assert caught.value.hint


def test_it_refuses_to_start_and_says_what_to_do(start):  # noqa: F811
    server = start("--host", "0.0.0.0")
    assert server.stop(signal.SIGCONT)[0] == 1
    assert json.loads(server.lines[0])["error"]["code"] == "tls.plain"
    log = server.log.read_text()
    assert "insecure_http" in log
    assert not (server.data / "edgectl.sqlite").exists()


# ---------------------------------------------------------------- a certificate of our own


def test_a_certificate_of_our_own_authority(start):  # noqa: F811
    server = start("--tls", "own", "--tls-names", "edge.test, 192.0.2.9")
    line = server.wait_ready()
    port = int(line["url"].rpartition(":")[2])
    assert line["url"] == f"https://127.0.0.1:{port}"
    authority = server.data / "pki" / "authority.pem"
    found = x509.load_pem_x509_certificate((server.data / "pki" / "web.pem").read_bytes())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"edge.test", "localhost", socket.gethostname()} <= set(
        names.get_values_for_type(x509.DNSName)
    )
    assert ipaddress.ip_address("192.0.2.9") in names.get_values_for_type(x509.IPAddress)
    knows = ssl.create_default_context(cafile=str(authority))
    with httpx2.Client(base_url=line["url"], verify=knows) as client:
        assert client.get("/api/v1/authority.pem").content == authority.read_bytes()
        password = (server.data / "admin-password").read_text().strip()
        body = {"username": "admin", "password": password}
        answer = client.post("/api/v1/session", json=body)
        assert answer.headers["set-cookie"].startswith("__Host-edgectl_session=")
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
        assert client.get("/api/v1/me").json()["user"] == "admin"
    with pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx2.get(f"{line['url']}/api/v1/version")
    with pytest.raises(httpx2.HTTPError):
        httpx2.get(f"http://127.0.0.1:{port}/api/v1/version")
    with socket.create_connection(("127.0.0.1", port), WAIT_S) as plain:
        plain.sendall(b"GET /api/v1/version HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP" not in plain.recv(4096)
    assert server.stop()[0] == 0
    assert "Traceback" not in server.log.read_text()


def test_no_device_can_pose_as_the_server(tmp_path):
    """Its certificate is of the same authority, and for clients only."""
    authority = Authority.open(tmp_path, now())
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name)
    pem = request.sign(private, SHA256()).public_bytes(Encoding.PEM).decode()
    (tmp_path / "device.pem").write_text(
        authority.issue_device(pem, "localhost", now()).certificate_pem
    )
    key = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "device.key").write_bytes(key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "device.pem", tmp_path / "device.key")
    client = ssl.create_default_context(cafile=str(tmp_path / "authority.pem"))
    client.check_hostname = False
    bios = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(bios[0], bios[1])
    there = server.wrap_bio(bios[1], bios[0], server_side=True)

    def shake_hands() -> None:
        for side in (here, there) * 3:
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()

    with pytest.raises(ssl.SSLCertVerificationError, match=r"unsuitable|purpose"):
        shake_hands()


def test_the_own_certificate_is_renewed_while_it_is_served(tmp_path, clock):
    settings = Settings(data=str(tmp_path), tls="own", listen_host="0.0.0.0", public_url="")
    authority = Authority.open(tmp_path / "pki", clock())
    tls = open_tls(settings, authority, clock)
    assert tls is not None
    first = tls.ends_at()
    clock.pass_s(3601)
    assert tls.reload() is False
    clock.pass_s(340 * 86400)
    assert tls.reload() is True
    assert tls.ends_at() > first + timedelta(days=300)


def test_names_of_the_own_certificate():
    settings = Settings(
        tls="own", listen_host="192.0.2.1", tls_names="a, b,,a", public_url="https://edge.test:1"
    )
    assert names_of(settings) == ("a", "b", "edge.test", "192.0.2.1", socket.gethostname())
    assert "0.0.0.0" not in names_of(Settings(tls="own", listen_host="0.0.0.0"))


# ---------------------------------------------------------------- files of an operator


def test_new_files_serve_the_next_connection(start, files):  # noqa: F811
    options = ("--tls-certificate", str(files.certificate), "--tls-key", str(files.key))
    server = start("--tls", "files", *options)
    port = int(server.wait_ready()["url"].rpartition(":")[2])
    assert files.served(port) == "localhost"
    kept = ssl.create_default_context(cafile=str(files.certificate))
    with httpx2.Client(base_url=f"https://127.0.0.1:{port}", verify=kept) as client:
        assert client.get("/api/v1/version").status_code == 200
        files.write(name="by signal")
        os.kill(server.process.pid, signal.SIGHUP)
        wait_for(lambda: files.served(port) == "by signal", "the new certificate")
        assert client.get("/api/v1/version").status_code == 200  # open connections go on
    files.write(name="by time")  # nobody tells the server
    wait_for(lambda: files.served(port) == "by time", "the new certificate")
    files.write(only="key")  # half of a renewal: it does not fit the certificate
    os.kill(server.process.pid, signal.SIGHUP)
    wait_for(lambda: "the former one is still served" in server.log.read_text(), "a word on it")
    assert files.served(port) == "by time"
    assert server.stop()[0] == 0


def test_files_that_cannot_be_used_are_refused(files, tmp_path, clock):
    def refusal(**given) -> str:
        with pytest.raises(Unavailable) as caught:
            ServerTls(files.certificate, files.key, clock, **given).load()
        assert caught.value.code == "tls.files"
        return caught.value.detail

    files.key.chmod(0o644)
    assert "everybody may read" in refusal()
    files.write(only="key")
    assert "mismatch" in refusal().lower()
    files.write(ends=-DAY)
    assert "has ended" in refusal()
    files.write(passphrase=b"right")
    refusal()  # and OpenSSL does not ask at the terminal
    refusal(passphrase=b"wrong")
    ServerTls(files.certificate, files.key, clock, passphrase=b"right").load()
    files.certificate.write_bytes(b"garbage")
    refusal()
    files.certificate.unlink()
    refusal()


def test_what_works_is_served_until_something_better_comes(files, tls, caplog):
    assert tls.reload() is False
    files.certificate.unlink()
    with caplog.at_level(logging.WARNING):
        assert [tls.reload(), tls.reload()] == [False, False]
    assert len(caplog.records) == 1  # not every five seconds again
    files.write()
    assert tls.reload() is True


# ---------------------------------------------------------------- hostile clients


def handshake(port: int, **changed) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    for name, value in changed.items():
        if name == "ciphers":
            context.set_ciphers(value)
        else:
            setattr(context, name, value)
    with (
        socket.create_connection(("127.0.0.1", port), WAIT_S) as plain,
        context.wrap_socket(plain) as client,
    ):
        return str(client.version())


@pytest.mark.filterwarnings("ignore:.*TLSv1:DeprecationWarning")
def test_old_protocols_and_ciphers_are_refused(services, tls):
    newest = {"maximum_version": ssl.TLSVersion.TLSv1_2}
    with served(services, tls) as (port, _):
        assert handshake(port) == "TLSv1.3"
        assert handshake(port, **newest) == "TLSv1.2"
        for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            with pytest.raises(ssl.SSLError, match=r"(?i)version|protocol"):
                handshake(port, minimum_version=version, maximum_version=version)
        for weak in ("AES128-SHA@SECLEVEL=0", "ECDHE-ECDSA-AES128-SHA@SECLEVEL=0", "eNULL"):
            with pytest.raises(ssl.SSLError):
                handshake(port, ciphers=weak, **newest)


def read_all(client: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionError):
        while content := client.recv(65536):
            received += content
    return received


def test_a_handshake_that_does_not_come_ends(monkeypatch, services, tls):
    monkeypatch.setattr(http_connection, "HEAD_S_MAX", 0.3)
    with served(services, tls) as (port, _):
        for sent in (b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", port), WAIT_S) as client:
                client.sendall(sent)
                assert b"HTTP" not in read_all(client)


def test_connections_are_counted_before_the_handshake(monkeypatch, services, tls):
    monkeypatch.setattr(http_connection, "CONNECTIONS_PER_ADDRESS_MAX", 3)
    monkeypatch.setattr(http_connection, "_speaks_for_others", lambda *_: False)
    with served(services, tls) as (port, _), contextlib.ExitStack() as opened:
        for _ in range(3):  # they say nothing at all
            opened.enter_context(socket.create_connection(("127.0.0.1", port), WAIT_S))
        with socket.create_connection(("127.0.0.1", port), WAIT_S) as fourth:
            assert read_all(fourth) == b""
        opened.close()

        def goes_again() -> bool:
            try:
                return handshake(port) == "TLSv1.3"
            except OSError:
                return False

        wait_for(goes_again, "that those who left are counted no more")


def test_a_slow_head_inside_tls_ends_too(monkeypatch, services, tls, files):
    monkeypatch.setattr(http_connection, "HEAD_S_MAX", 0.3)
    context = ssl.create_default_context(cafile=str(files.certificate))
    with (
        served(services, tls) as (port, _),
        socket.create_connection(("127.0.0.1", port), WAIT_S) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as client,
    ):
        client.sendall(b"GET / HT")
        assert client.recv(100) == b""
