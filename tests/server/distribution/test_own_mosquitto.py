"""A Mosquitto of one's own: the files that we write for it, run as they are."""

from __future__ import annotations

import http.server
import json
import stat
import subprocess
import sys
import threading
from pathlib import Path

import mqtt5
import pytest

from edgectl_server.clock import now
from edgectl_server.distribution import existing
from edgectl_server.distribution.broker_config import write_broker_config
from edgectl_server.distribution.canary import make_canary
from edgectl_server.distribution.door import door_identity
from edgectl_server.distribution.existing import ExistingBroker, OperatorDoor
from edgectl_server.distribution.list_refresh import refresh_list
from edgectl_server.distribution.mosquitto import find_mosquitto
from edgectl_server.errors import Conflict, Refused, Unavailable
from edgectl_server.signing.authority import Authority
from server.distribution.own_mosquitto import HOST, OwnSite, plan_for
from waiting import wait_for

pytestmark = [
    pytest.mark.mosquitto,
    pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed"),
]


@pytest.fixture
def site(tmp_path):
    site = OwnSite(tmp_path)
    yield site
    site.close()


@pytest.fixture
def lists(site):
    """A web server that gives what it is told to, as the API does by default."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            lists.asked.append(self.path)
            content = lists.content()
            self.send_response(lists.status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    class Lists(http.server.ThreadingHTTPServer):
        asked: list[str]

    lists = Lists((HOST, 0), Handler)
    lists.asked, lists.status = [], 200
    lists.content = lambda: site.authority.crl_pem(now())
    lists.url = f"http://{HOST}:{lists.server_port}"
    thread = threading.Thread(target=lists.serve_forever, args=(0.02,))
    thread.start()
    yield lists
    lists.shutdown()
    thread.join()
    lists.server_close()


def refresh(site, lists, *, reload=None):
    return refresh_list(
        lists.url,
        authority=site.files / "authority.pem",
        output=site.files / "revoked.pem",
        reload=site.broker.reload_command if reload is None else reload,
        ca=None,
        now=now(),
    )


def existing_broker(site):
    return ExistingBroker(
        HOST,
        site.plan.port,
        make_canary=lambda: make_canary(site.authority, site.pki / "authority.pem", now()),
        door=OperatorDoor(site.plan.kick_port, door_identity(site.pki, now())),
    )


def test_the_files_are_taken_as_they_are(site):
    certificate, key, _ = site.device("pi-1")
    assert site.accepted(certificate, key)
    server = site.authority.server_identity(now())
    assert site.accepted(server.certificate, server.key)
    assert stat.S_IMODE((site.files / "broker.key").stat().st_mode) == 0o600
    assert ": Error" not in site.broker.log.read_text()
    kept = {(site.pki / name).read_bytes() for name in ("authority.key", "operator.key")}
    assert not kept & {path.read_bytes() for path in site.files.iterdir()}


def test_nobody_else_ends_connections(site):
    """The second listener is opened by one certificate, and lets nothing be read or written."""
    own = door_identity(site.pki, now())
    certificate, key, _ = site.device("pi-1")
    server = site.authority.server_identity(now())
    kick = {"port": site.plan.kick_port}
    assert not site.accepted(certificate, key, **kick)
    assert not site.accepted(server.certificate, server.key, **kick)
    assert not site.accepted(site.files / "broker.pem", site.files / "broker.key", **kick)
    assert not site.accepted(own.certificate, own.key)  # nor does it open the devices' listener

    opened, answer = site.connect(own.certificate, own.key, **kick, name="pi-1")
    assert answer.reason_code == 0
    message = mqtt5.PublishPacket(
        "edgectl/v1/d/pi-1/down/order", b"forged", qos=mqtt5.QoS(1), packet_id=1
    )
    opened.sendall(message.write())
    refused, _ = mqtt5.read(memoryview(opened.recv(4096)))
    assert refused.reason_code == mqtt5.PubAckReasonCode.NOT_AUTHORIZED
    opened.close()


def test_a_revoked_device_is_out_as_soon_as_the_list_is_fetched(site, lists):
    broker = existing_broker(site)
    certificate, key, serial = site.device("pi-1")
    other_certificate, other_key, _ = site.device("pi-2")
    opened, _ = site.connect(certificate, key)
    other, _ = site.connect(other_certificate, other_key)

    site.authority.revoke(serial, now())
    assert not broker.reload_revocations()  # not yet: it is fetched
    assert broker.kick("pi-1")
    opened.settimeout(10)
    ended = opened.recv(4096)
    assert ended == b"" or isinstance(mqtt5.read(memoryview(ended))[0], mqtt5.DisconnectPacket)
    opened.close()

    back, answer = site.connect(certificate, key)  # the broker does not know yet
    assert answer.reason_code == 0
    broker.check_revocations()  # so it is ended again
    back.settimeout(10)
    ended = back.recv(4096)
    assert ended == b"" or isinstance(mqtt5.read(memoryview(ended))[0], mqtt5.DisconnectPacket)
    back.close()

    done = refresh(site, lists)
    assert (done.changed, done.reloaded, done.revoked) == (True, True, 2)  # and the canary
    assert lists.asked == ["/api/v1/revocations.pem"]
    wait_for(lambda: not site.accepted(certificate, key), "the device is refused")
    broker.check_revocations()
    assert broker.revocation_problem == ""
    assert not broker._shut_out
    other.sendall(mqtt5.PingReqPacket().write())
    assert isinstance(mqtt5.read(memoryview(other.recv(4096)))[0], mqtt5.PingRespPacket)
    other.close()


def test_a_list_that_is_not_followed_is_a_fault(site, lists, monkeypatch):
    """An empty file lets revoked devices in, without a word of the broker's."""
    broker = existing_broker(site)
    monkeypatch.setattr(existing, "_LIST_DUE_S", 0.0)
    monkeypatch.setattr(existing, "_CHECK_S", 0.0)
    certificate, key, serial = site.device("pi-1")
    site.authority.revoke(serial, now())
    with pytest.raises(Unavailable) as caught:
        broker.check_revocations()
    assert caught.value.code == "broker.revocations"
    assert HOST in broker.revocation_problem

    refresh(site, lists)
    wait_for(lambda: not site.accepted(certificate, key), "the device is refused")
    broker.check_revocations()
    assert broker.revocation_problem == ""

    (site.files / "revoked.pem").write_bytes(b"")
    site.broker.reload()
    wait_for(lambda: site.accepted(certificate, key), "Mosquitto fails open")
    with pytest.raises(Unavailable):
        broker.check_revocations()


def test_a_server_that_starts_again_goes_on(site, lists):
    certificate, key, serial = site.device("pi-1")
    opened, _ = site.connect(certificate, key)
    site.authority.revoke(serial, now())  # and here the server was killed
    refresh(site, lists)
    broker = existing_broker(site)
    broker.shut_out(["pi-1"])
    broker.check_revocations()
    opened.settimeout(10)
    ended = opened.recv(4096)
    assert ended == b"" or isinstance(mqtt5.read(memoryview(ended))[0], mqtt5.DisconnectPacket)
    opened.close()
    assert broker._shut_out == {"pi-1"}  # the broker does not have the newest canary yet
    refresh(site, lists)

    def settled():
        broker.check_revocations()  # again and again, as the server does: a signal takes its time
        return not broker._shut_out

    wait_for(settled, "the device is refused")


def test_connections_that_cannot_be_ended_are_a_fault(site, lists, monkeypatch):
    monkeypatch.setattr(existing, "_LIST_DUE_S", 0.0)
    broker = existing_broker(site)
    broker._door = OperatorDoor(site.plan.port, door_identity(site.pki, now()))  # the wrong port
    broker.reload_revocations()
    assert not broker.kick("pi-1")
    refresh(site, lists)
    wait_for(lambda: broker._canary.ask(HOST, site.plan.port) == "refused", "the list is read")
    with pytest.raises(Unavailable, match="cannot be ended"):
        broker.check_revocations()
    assert "cannot be ended" in broker.revocation_problem


def damaged(site, tmp_path):
    good = site.authority.crl_pem(now())
    yield b""
    yield good[: len(good) // 2]
    yield b"<html>Please log in</html>"
    yield Authority.open(tmp_path / "foreign", now()).crl_pem(now())
    yield site.authority.certificate_pem.encode()


def test_a_bad_list_is_refused_and_the_old_one_stays(site, lists, tmp_path):
    before = (site.files / "revoked.pem").read_bytes()
    for content in damaged(site, tmp_path):
        lists.content = lambda content=content: content
        with pytest.raises(Unavailable) as caught:
            refresh(site, lists)
        assert caught.value.code == "broker.revocations"
        assert (site.files / "revoked.pem").read_bytes() == before
    lists.content = lambda: b"x" * (17 * 1024**2)
    with pytest.raises(Unavailable, match="too much"):
        refresh(site, lists)
    lists.status, lists.content = 500, lambda: b""
    with pytest.raises(Unavailable, match="cannot be fetched"):
        refresh(site, lists)
    assert (site.files / "revoked.pem").read_bytes() == before


def test_an_older_list_does_not_come_back(site, lists):
    """Whoever sits between the two machines would bring a revoked device back with it."""
    older = site.authority.crl_pem(now())
    certificate, key, serial = site.device("pi-1")
    site.authority.revoke(serial, now())
    assert refresh(site, lists).reloaded
    lists.content = lambda: older
    with pytest.raises(Refused) as caught:
        refresh(site, lists)
    assert caught.value.code == "broker.older"
    wait_for(lambda: not site.accepted(certificate, key), "the device is refused")


def test_a_reload_that_fails_is_tried_again(site, lists):
    certificate, key, serial = site.device("pi-1")
    site.authority.revoke(serial, now())
    content = site.authority.crl_pem(now())
    lists.content = lambda: content
    for command in ("/bin/false", "/does/not/exist", "'unbalanced"):
        with pytest.raises(Unavailable) as caught:
            refresh(site, lists, reload=command)
        assert caught.value.code == "broker.reload"
    assert site.accepted(certificate, key)
    done = refresh(site, lists)
    assert (done.changed, done.reloaded) == (False, True)
    wait_for(lambda: not site.accepted(certificate, key), "the device is refused")
    assert not refresh(site, lists).reloaded  # the same list again: nothing to do


def test_a_new_certificate_is_shown_without_an_end_of_connections(site):
    certificate, key, _ = site.device("pi-1")
    opened, _ = site.connect(certificate, key)
    before = opened.getpeercert()["serialNumber"]
    write_broker_config(site.files, site.plan, site.authority, site.pki, now(), force=True)
    site.broker.reload()

    other, other_key, _ = site.device("pi-2")

    def shown():
        one, _ = site.connect(other, other_key)
        with one:
            return one.getpeercert()["serialNumber"]

    wait_for(lambda: shown() != before, "the new certificate")
    opened.sendall(mqtt5.PingReqPacket().write())
    assert isinstance(mqtt5.read(memoryview(opened.recv(4096)))[0], mqtt5.PingRespPacket)
    opened.close()


# --- the command


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "edgectl_server", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_writes_and_does_not_overwrite(tmp_path):
    data, output = tmp_path / "data", tmp_path / "out"
    options = ("broker-config", "--data", str(data), "--output", str(output), "--host", HOST)
    missing = command(*options)
    assert (missing.returncode, "server.data" in missing.stderr) == (1, True)

    data.mkdir()
    Authority.open(data / "pki", now())
    written = command(*options, "--json")
    assert written.returncode == 0, written.stderr
    assert sorted(json.loads(written.stdout)["files"]) == sorted(
        path.name for path in output.iterdir()
    )
    assert stat.S_IMODE((output / "broker.key").stat().st_mode) == 0o600
    key = (output / "broker.key").read_bytes()
    again = command(*options)
    assert (again.returncode, "broker.exists" in again.stderr) == (1, True)
    assert (output / "broker.key").read_bytes() == key
    assert command(*options, "--force").returncode == 0
    assert (output / "broker.key").read_bytes() != key


@pytest.mark.parametrize(
    "values",
    [
        {"host": "a b"},
        {"host": "a\nallow_anonymous true"},
        {"listen": "0.0.0.0\nallow_anonymous true"},
        {"directory": "relative"},
        {"directory": "/x\nallow_anonymous true"},
        {"state": "/x y"},
        {"user": "root\nallow_anonymous true"},
        {"user": ""},
        {"server_url": "http://x\nExecStart=/bin/sh"},
    ],
)
def test_values_that_would_break_out_of_their_line(tmp_path, values):
    authority = Authority.open(tmp_path / "pki", now())
    with pytest.raises(Refused) as caught:
        write_broker_config(
            tmp_path / "out", plan_for(tmp_path, **values), authority, tmp_path, now(), force=False
        )
    assert caught.value.code == "broker.setting"
    assert not (tmp_path / "out").exists()


def test_files_that_are_there_stay(tmp_path):
    authority = Authority.open(tmp_path / "pki", now())
    output = tmp_path / "out"
    output.mkdir()
    (output / "mosquitto.conf").write_text("mine")
    with pytest.raises(Conflict):
        write_broker_config(
            output, plan_for(tmp_path), authority, tmp_path / "pki", now(), force=False
        )
    assert [path.name for path in output.iterdir()] == ["mosquitto.conf"]
    assert Path(output / "mosquitto.conf").read_text() == "mine"
