"""The control socket: who is heard, what is bounded, and that nobody holds up anybody."""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgectl_agent import local_control
from edgectl_agent.errors import Refused, Unreachable, UsageError
from edgectl_agent.local_client import ask, is_running
from edgectl_agent.local_control import PEERS_MAX, LocalControl
from edgectl_agent.local_messages import (
    REQUEST_BYTES_MAX,
    Answer,
    Hold,
    Install,
    Release,
    Request,
    RollBack,
    Status,
    decode_request,
)
from edgectl_agent.unix_path import short_path
from edgectl_protocol.errors import MalformedMessage
from waiting import wait_for


class Handler:
    """Remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.contents: list[bytes] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, request: Request, file: int | None) -> Answer:
        self.asked.append(request)
        self.gate.wait(30)
        if file is not None:
            self.contents.append(os.pread(file, 100, 0))
        if isinstance(request, RollBack):
            raise Refused("update.nothing", "nothing to return to", hint="look at it")
        if isinstance(request, Release):
            raise OSError(errno.EROFS, "read-only") if request.name is None else KeyError("a bug")
        return Answer(data={"count": len(self.asked)})


@pytest.fixture
def handler() -> Handler:
    return Handler()


@pytest.fixture
def path(tmp_path: Path, handler: Handler) -> Iterator[Path]:
    """A socket that is served, at a path that is too long for a socket address."""
    folder = tmp_path / ("long-" * 30)
    folder.mkdir()
    control = LocalControl(folder / "control.sock", handler)
    control.start()
    yield folder / "control.sock"
    handler.gate.set()
    control.stop()
    assert not (folder / "control.sock").exists()


def raw(path: Path) -> socket.socket:
    channel = socket.socket(socket.AF_UNIX)
    channel.settimeout(20)
    with short_path(path) as address:
        channel.connect(address)
    return channel


def heard(channel: socket.socket) -> bytes:
    content = b""
    while part := channel.recv(65536):
        content += part
    return content


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_request_is_answered(path: Path, handler: Handler) -> None:
    assert is_running(path)
    assert ask(path, Status()) == {"count": 1}
    assert ask(path, Hold(reason="night", for_s=5)) == {"count": 2}
    assert handler.asked[1] == Hold(reason="night", for_s=5)
    with pytest.raises(Refused) as caught:
        ask(path, RollBack(slot="vision"))
    assert (caught.value.code, caught.value.hint) == ("update.nothing", "look at it")
    with pytest.raises(Refused, match=r"disk\.error"):
        ask(path, Release())
    with pytest.raises(Refused, match=r"local\.broken"):
        ask(path, Release(name="x"))


def test_the_socket_is_its_owners_alone(path: Path) -> None:
    found = path.lstat()
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600


def test_a_file_comes_along(path: Path, handler: Handler, tmp_path: Path) -> None:
    (tmp_path / "bundle").write_bytes(b"content")
    before = descriptors()
    for _ in range(5):
        handle = os.open(tmp_path / "bundle", os.O_RDONLY)
        ask(path, Install(name="bundle"), file=handle)
        os.close(handle)
    assert handler.contents == [b"content"] * 5
    wait_for(lambda: descriptors() <= before, "descriptors closed")


def test_files_that_nobody_wants_are_closed(path: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle").write_bytes(b"content")
    handle = os.open(tmp_path / "bundle", os.O_RDONLY)
    before = descriptors()
    for content in (b'{"request": "status"}\n', b"nonsense\n"):
        with raw(path) as channel:
            socket.send_fds(channel, [content], [handle] * 60)
            assert b"local.malformed" in heard(channel)
    with pytest.raises(Refused, match=r"local\.malformed"):
        ask(path, Install(name="without a file"))
    wait_for(lambda: descriptors() <= before, "descriptors closed")
    os.close(handle)


@pytest.mark.parametrize(
    "content",
    [
        b"\n",
        b"{}\n",
        b"null\n",
        b"\xff\n",
        b'{"request": "shutdown"}\n',
        b'{"request": "hold", "for_s": -1}\n',
        b'{"request": "hold", "for_s": 1e12}\n',
        b'{"request": "hold", "name": ""}\n',
        b'{"request": "rollback"}\n',
        b'{"request": "rollback", "slot": "../../x"}\n',
        b'{"request": "install", "name": "x", "variant": "A/B"}\n',
        b"[" * (REQUEST_BYTES_MAX - 1) + b"\n",
        b"x" * (2 * REQUEST_BYTES_MAX),
    ],
)
def test_what_is_no_request_is_refused(path: Path, handler: Handler, content: bytes) -> None:
    with raw(path) as channel:
        try:
            channel.sendall(content)
            answer = heard(channel)
        except (BrokenPipeError, ConnectionResetError):
            answer = b"local.malformed"  # it hung up before all was sent
    assert b"local.malformed" in answer
    assert handler.asked == []
    assert ask(path, Status()) == {"count": 1}


def test_unknown_fields_are_tolerated() -> None:
    assert decode_request(b'{"request": "status", "later": 1}') == Status()
    with pytest.raises(MalformedMessage):
        decode_request(b'{"later": 1}')


def test_silent_peers_hold_up_nobody(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_control, "REQUEST_S_MAX", 120.0)
    silent = [raw(path) for _ in range(PEERS_MAX - 1)]
    wait_for(lambda: _answers(path), "an answer beside them")
    for channel in silent:
        channel.sendall(b'{"request":')
    wait_for(lambda: _answers(path), "an answer beside them")
    more = [raw(path) for _ in range(4)]
    # Whoever comes too late is hung up on at once.
    wait_for(lambda: len(select.select(more, [], [], 0)[0]) >= len(more) - 1, "hung up on")
    for channel in (*silent, *more):
        channel.close()
    wait_for(lambda: _answers(path), "room again")


def test_whoever_is_silent_is_hung_up_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_control, "REQUEST_S_MAX", 0.1)
    with raw(path) as channel:
        assert b"disk.error" in heard(channel)  # timed out, and said so
    with raw(path) as channel:
        channel.sendall(b'{"request":')
        assert b"disk.error" in heard(channel)


def _answers(path: Path) -> bool:
    try:
        return bool(ask(path, Status()))
    except (Refused, Unreachable):  # no room yet
        return False


def test_a_request_that_takes_its_time_holds_up_no_other(path: Path, handler: Handler) -> None:
    handler.gate.clear()
    slow = threading.Thread(target=ask, args=(path, Status()))
    slow.start()
    wait_for(lambda: handler.asked, "the slow request")
    with raw(path) as channel:  # accepted and read, though the first one is not answered
        channel.sendall(b"nonsense\n")
        assert b"local.malformed" in heard(channel)
    handler.gate.set()
    slow.join(20)
    assert not slow.is_alive()


def test_a_dead_agents_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    assert not is_running(path)
    control = LocalControl(path, Handler())
    control.start()
    assert ask(path, Status()) == {"count": 1}
    control.stop()
    with pytest.raises(Unreachable, match=r"agent\.down") as caught:
        ask(path, Status())
    assert "edgectl-agent run" in caught.value.hint


def test_a_folder_that_is_not_there_stops_nothing(tmp_path: Path) -> None:
    control = LocalControl(tmp_path / "missing" / "control.sock", Handler())
    control.start()
    control.stop()


def test_an_unknown_group_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"settings\.value"):
        LocalControl(tmp_path / "control.sock", Handler(), group="no-such-group-here")


ASK = """
import os, sys
from pathlib import Path
from edgectl_agent.errors import AgentError
from edgectl_agent.local_client import ask
from edgectl_agent.local_messages import Status
os.setgroups([int(one) for one in sys.argv[4].split(",") if one])
os.setgid(int(sys.argv[3])); os.setuid(int(sys.argv[2]))
try:
    print(ask(Path(sys.argv[1]), Status()))
except AgentError as error:
    print(error.code)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize(
    ("user", "group", "more", "wide", "expected"),
    [
        (12345, 12345, "", False, "local.permission"),
        (12345, 12345, "", True, "local.stranger"),
        (12345, 1, "", False, "count"),
        (12345, 12345, "1", False, "count"),
        (12345, 12345, "2", False, "local.permission"),
    ],
)
def test_strangers_are_not_heard(  # noqa: PLR0917 - a table
    user: int, group: int, more: str, wide: bool, expected: str, tmp_path: Path
) -> None:
    """Group 1 is `daemon` everywhere; `wide` is a socket whose mode somebody has loosened."""
    folder = Path("/tmp") / f"edgectl-control-{os.getpid()}"
    folder.mkdir(mode=0o755)
    control = LocalControl(folder / "control.sock", Handler(), group="daemon")
    control.start()
    try:
        if wide:
            (folder / "control.sock").chmod(0o666)
        else:
            assert stat.S_IMODE((folder / "control.sock").stat().st_mode) == 0o660
        done = subprocess.run(
            [sys.executable, "-c", ASK, str(folder / "control.sock"), str(user), str(group), more],
            capture_output=True,
            text=True,
            check=False,
        )
        assert expected in done.stdout, done.stdout + done.stderr
    finally:
        control.stop()
        folder.rmdir()


def test_an_agent_that_is_silent_is_not_said_to_be_down(path: Path, handler: Handler) -> None:
    handler.gate.clear()
    with pytest.raises(Unreachable) as caught:
        ask(path, Status(), timeout_s=0.2)
    handler.gate.set()
    assert caught.value.code == "agent.busy"
