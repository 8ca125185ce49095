"""Certificates: none, foreign, expired, revoked; on both brokers."""

from __future__ import annotations

import socket
import ssl

import mqtt5
import pytest

from broker.clients import Files, Peer, client_context
from broker.conftest import DAY, SERVER, TestAuthority, start_broker
from edgectl_server.distribution.brokers import open_broker
from edgectl_server.errors import Unavailable
from waiting import wait_for


def answer(broker, context, name="alpha"):
    """Return the packet that answers a CONNECT, None when the connection ends without one."""
    raw = socket.create_connection((broker.host, broker.port), timeout=60)
    try:
        with context.wrap_socket(raw, server_hostname="127.0.0.1") as secured:
            secured.sendall(mqtt5.ConnectPacket(name, clean_start=True, keep_alive=60).write())
            content = secured.recv(4096)
            return mqtt5.read(memoryview(content))[0] if content else None
    except (ssl.SSLError, ConnectionError):
        return None
    finally:
        raw.close()


def accepted(broker, files):
    got = answer(broker, client_context(files))
    return got is not None and got.reason_code == 0


def test_our_certificate_is_accepted(broker, authority):
    assert accepted(broker, authority.issue("alpha"))


def test_no_certificate_is_refused(broker, authority):
    context = ssl.create_default_context(cafile=str(authority.path))
    assert answer(broker, context) is None


def test_a_foreign_authority_is_refused(broker, authority, foreign_authority):
    files = foreign_authority.issue("alpha")
    context = ssl.create_default_context(cafile=str(authority.path))
    context.load_cert_chain(files.certificate, files.key)
    assert answer(broker, context) is None


def test_an_expired_certificate_is_refused(broker, authority):
    assert not accepted(broker, authority.issue("expired", days=0))


def test_a_certificate_of_tomorrow_is_refused(broker, authority):
    assert not accepted(broker, authority.issue("tomorrow", begins=1))


@pytest.mark.parametrize("name", ["broker", "alpha-as-server"])
def test_a_certificate_for_servers_only_is_refused(broker, authority, name):
    assert not accepted(broker, authority.issue(name, usage=SERVER))


def test_a_certificate_that_signed_itself_is_refused(broker, authority, tmp_path):
    """Even with the authority's own name on it, as `foreign_authority` has it too."""
    impostor = TestAuthority(tmp_path / "impostor")
    context = ssl.create_default_context(cafile=str(authority.path))
    context.load_cert_chain(impostor.path, impostor.write_key())
    assert answer(broker, context) is None


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_tls_is_refused(broker, authority, version):
    context = client_context(authority.issue("alpha"))
    context.set_ciphers("ALL:@SECLEVEL=0")  # else this side would not even offer it
    context.minimum_version = context.maximum_version = version
    assert answer(broker, context) is None
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert answer(broker, context).reason_code == 0


def test_plain_text_is_refused(broker):
    with socket.create_connection((broker.host, broker.port), timeout=60) as raw:
        raw.sendall(mqtt5.ConnectPacket("alpha").write())
        try:
            content = raw.recv(4096)
        except ConnectionError:
            content = b""
        assert not content.startswith(b"\x20")


@pytest.fixture
def own_broker(broker_kind, tmp_path):
    """A broker with an authority of its own, so that revoking disturbs nobody."""
    authority = TestAuthority(tmp_path / "pki")
    running = start_broker(broker_kind, authority, tmp_path / "state")
    running.authority = authority
    yield running
    running.stop()


def test_a_revoked_device_is_ended_and_refused(own_broker):
    files = own_broker.authority.issue("alpha")
    peers = [Peer(name, own_broker.authority.issue(name)) for name in ("alpha", "beta", "server")]
    alpha, beta, server = peers
    try:
        for one in peers:
            assert one.connect(own_broker, expiry_s=60) == 0
        own_broker.authority.revoked.add(files.serial)
        assert own_broker.reload_revocations()
        assert own_broker.kick("alpha")
        assert alpha.disconnects.get(timeout=60) != 0
        wait_for(lambda: not accepted(own_broker, files), "revoked certificate refused")
        assert accepted(own_broker, own_broker.authority.issue("gamma"))
        assert beta.publish("edgectl/v1/d/beta/up/event") < 0x80  # others notice nothing
        assert server.publish("edgectl/v1/meta/head") < 0x80
        assert beta.disconnects.empty()
    finally:
        for one in peers:
            one.close()


def test_a_kick_of_nobody_is_no_error(own_broker):
    assert own_broker.kick("nobody")


@pytest.mark.mosquitto
@pytest.mark.parametrize(
    "damage",
    [
        lambda authority: b"",
        lambda authority: authority.crl_pem()[:120],
        lambda authority: authority.crl_pem(next_update=-DAY / 2),
        lambda authority: TestAuthority(authority.folder / "x").crl_pem(),
    ],
    ids=["empty", "truncated", "expired", "foreign"],
)
def test_mosquitto_is_never_given_a_bad_revocation_list(tmp_path, damage):
    """Empty or truncated, it would let revoked devices in; expired, it would lock all out."""
    authority = TestAuthority(tmp_path / "pki")
    revoked = authority.issue("alpha")
    authority.revoked.add(revoked.serial)
    running = start_broker("mosquitto", authority, tmp_path / "state")
    try:
        running._crl_pem = lambda: damage(authority)
        with pytest.raises(Unavailable) as caught:
            running.reload_revocations()
        assert caught.value.code == "broker.revocations"
        assert not accepted(running, revoked)
        assert accepted(running, authority.issue("beta"))
    finally:
        running.stop()


@pytest.mark.parametrize(
    "spec", ["", "rabbit", "mqtt://host", "mqtts://", "mqtts://h:x", "mqtts://u:p@h", "mqtts://h/a"]
)
def test_a_setting_that_names_no_broker(spec, authority, tmp_path):
    with pytest.raises(Unavailable) as caught:
        open_broker(
            spec,
            host="127.0.0.1",
            port=0,
            identity=authority.issue("broker"),
            state=tmp_path,
            is_revoked=lambda _: False,
            crl_pem=bytes,
            make_canary=authority.make_canary,
        )
    assert caught.value.code == "broker.setting"


def test_an_existing_broker_is_only_named(authority, tmp_path):
    running = open_broker(
        "mqtts://broker.example:8884",
        host="127.0.0.1",
        port=0,
        identity=authority.issue("broker"),
        state=tmp_path,
        is_revoked=lambda _: False,
        crl_pem=bytes,
        make_canary=authority.make_canary,
    )
    assert (running.host, running.port) == ("broker.example", 8884)
    assert not running.kick("alpha")
    assert not running.reload_revocations()
    assert list(tmp_path.iterdir()) == []


def test_a_taken_port_is_said(broker_kind, broker, authority, tmp_path):
    with pytest.raises(Unavailable) as caught:
        start_broker(broker_kind, authority, tmp_path, port=broker.port)
    assert str(broker.port) in caught.value.detail


def test_files_that_do_not_exist_are_said(broker_kind, broker, authority, tmp_path):
    missing = Files(tmp_path / "no", tmp_path / "no", authority.path, 0)
    with pytest.raises(Unavailable):
        open_broker(
            broker_kind,
            host="127.0.0.1",
            port=0,
            identity=missing,
            state=tmp_path / "state",
            is_revoked=lambda _: False,
            crl_pem=authority.crl_pem,
            make_canary=authority.make_canary,
        )
