"""Who asks while the agent is restarted waits: a manager of services keeps what it is given."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from agent.inference.models import make_bundle
from edgectl_agent import service_manager
from edgectl_agent.inference.process import InferenceProcess
from edgectl_agent.kept_listener import NAME, kept_listener
from edgectl_agent.service_manager import ServiceManager

HOST = "127.0.0.1"
QUESTION = b"GET /v2/models/activity/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class Manager:
    """Keeps descriptors as systemd does: sd_pid_notify_with_fds(3)."""

    def __init__(self, folder: Path) -> None:
        self.way = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.way.bind(str(folder / "notify"))
        self.way.setblocking(False)
        self.kept: dict[str, int] = {}

    def hear(self) -> None:
        """Do what was said."""
        while select.select([self.way], [], [], 0)[0]:
            content, descriptors, _, _ = socket.recv_fds(self.way, 4096, 4)
            said = dict(line.split("=", 1) for line in content.decode().splitlines())
            if "FDSTORE" in said:
                (self.kept[said["FDNAME"]],) = descriptors
            elif "FDSTOREREMOVE" in said:
                os.close(self.kept.pop(said["FDNAME"]))

    def start(self, monkeypatch: pytest.MonkeyPatch) -> ServiceManager:
        """Start a process of the service: this one, with copies of what is kept."""
        self.hear()
        environment = {"NOTIFY_SOCKET": self.way.getsockname()}
        if self.kept:
            (descriptor,) = self.kept.values()
            monkeypatch.setattr(service_manager, "_FIRST_DESCRIPTOR", os.dup(descriptor))
            environment |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
            environment["LISTEN_FDNAMES"] = ":".join(self.kept)
        return ServiceManager(environment)

    def close(self) -> None:
        """End, with all that is kept."""
        self.hear()
        self.way.close()
        for descriptor in self.kept.values():
            os.close(descriptor)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with closing(Manager(tmp_path)) as made:
        yield made


@pytest.fixture
def port() -> int:
    with socket.create_server((HOST, 0)) as free:
        return int(free.getsockname()[1])


def asked(port: int) -> socket.socket:
    """Return a connection on which a question was sent."""
    connection = socket.create_connection((HOST, port), timeout=30)
    connection.sendall(QUESTION)
    return connection


def answered(connection: socket.socket) -> bytes:
    """Return the first line of what comes."""
    with connection:
        return connection.recv(65536).partition(b"\r\n")[0]


def test_who_asks_during_a_restart_is_answered_by_the_next_process(
    manager: Manager, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle(tmp_path)
    waiting: list[socket.socket] = []
    for _ in range(2):
        listener = kept_listener(manager.start(monkeypatch), HOST, port, backlog=8)
        assert listener is not None
        process = InferenceProcess(host=HOST, port=port, socket=None, listener=listener)
        with listener, closing_process(process):
            process.start()
            waiting.append(asked(port))
            process.load(bundle)
            assert not select.select(waiting, [], [], 0.1)[0], (
                "nobody is told that no model is there"
            )
            process.accept()
            while waiting:
                assert answered(waiting.pop()) == b"HTTP/1.1 200 OK"
        manager.hear()
        waiting.append(asked(port))  # between the two, and after them
    assert set(manager.kept) == {NAME}
    waiting.pop().close()


@contextmanager
def closing_process(process: InferenceProcess) -> Iterator[None]:
    try:
        yield
    finally:
        process.stop()


def test_a_child_that_has_died_leaves_the_port_to_the_next_one(
    manager: Manager, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = kept_listener(manager.start(monkeypatch), HOST, port, backlog=8)
    assert listener is not None
    process = InferenceProcess(host=HOST, port=port, socket=None, listener=listener)
    with listener, closing_process(process):
        process.start()
        process.load(make_bundle(tmp_path))
        process.accept()
        process.kill()
        question = asked(port)
        process.start()
        process.load(make_bundle(tmp_path))
        process.accept()
        assert answered(question) == b"HTTP/1.1 200 OK"


def test_another_port_in_the_settings_takes_the_place_of_what_was_kept(
    manager: Manager, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = kept_listener(manager.start(monkeypatch), HOST, port, backlog=8)
    assert first is not None
    first.close()
    with socket.create_server((HOST, 0)) as free:
        other = int(free.getsockname()[1])
    second = kept_listener(manager.start(monkeypatch), HOST, other, backlog=8)
    assert second is not None
    with second:
        assert second.getsockname() == (HOST, other)
    manager.hear()
    with pytest.raises(ConnectionRefusedError):
        asked(port)
    asked(other).close()


@pytest.mark.parametrize(("host", "any_port"), [("localhost", False), (HOST, True)])
def test_what_is_not_fixed_is_not_kept(
    manager: Manager, port: int, monkeypatch: pytest.MonkeyPatch, host: str, any_port: bool
) -> None:
    wanted = 0 if any_port else port
    assert kept_listener(manager.start(monkeypatch), host, wanted, backlog=8) is None
    manager.hear()
    assert manager.kept == {}


def test_without_a_manager_and_with_a_port_that_is_taken_nothing_is_kept(
    manager: Manager, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kept_listener(ServiceManager({}), HOST, port, backlog=8) is None
    with socket.create_server((HOST, 0)) as other:
        taken = int(other.getsockname()[1])
        assert kept_listener(manager.start(monkeypatch), HOST, taken, backlog=8) is None


def test_what_was_kept_for_another_process_or_is_no_listener_is_not_taken(
    port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with open(os.devnull, "rb") as no_socket:  # noqa: PTH123
        monkeypatch.setattr(service_manager, "_FIRST_DESCRIPTOR", no_socket.fileno())
        environment = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": NAME, "LISTEN_PID": str(os.getppid())}
        assert ServiceManager(environment).kept(NAME) is None
        environment["LISTEN_PID"] = str(os.getpid())
        assert kept_listener(ServiceManager(environment), HOST, port, backlog=8) is None
    assert "no socket" in caplog.text
    assert ServiceManager({**environment, "LISTEN_FDS": "many"}).kept(NAME) is None
