"""Enrolling over a real HTTP connection, with servers that lie, fail or are somebody else's."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgectl_agent.cli import main
from edgectl_agent.clock import now
from edgectl_agent.device_key import KEY_PATH
from edgectl_agent.durable import RealDisk
from edgectl_agent.enrol import enrol, load_identity
from edgectl_agent.errors import AgentError
from edgectl_agent.start import count_boot
from edgectl_protocol.enrolment import (
    BrokerAddress,
    Enrolment,
    EnrolReply,
    EnrolRequest,
    key_of,
    reply_mac,
    request_proof,
)
from edgectl_server.signing.authority import Authority

SECRET = "s" * 43
TOKEN = "ee_0123456789abcdef_" + SECRET
GIVEN = ["--token-file", "token"]
Answer = tuple[int, bytes]


def token_file(folder: Path, content: str = TOKEN) -> str:
    path = folder / content[:8]
    path.write_text(content + "\n")
    return str(path)


class Server:
    """Answers as `answer` says; counts the requests."""

    def __init__(self, directory: Path) -> None:
        self.now = now()
        self.authority = Authority.open(directory, self.now)
        self.answer: Callable[[EnrolRequest], Answer] = self.good
        self.requests: list[EnrolRequest] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                assert SECRET.encode() not in content, "the secret travels"
                request = msgspec.json.decode(content, type=EnrolRequest)
                server.requests.append(request)
                status, answer = server.answer(request)
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.thread.join(5)
        self.http.server_close()

    def good(self, request: EnrolRequest, *, secret: str = SECRET, **changes: Any) -> Answer:
        key = key_of(secret)
        assert request.proof == request_proof(
            key_of(SECRET), nonce=request.nonce, device=request.device, csr_pem=request.csr_pem
        )
        issued = self.authority.issue_device(request.csr_pem, request.device, self.now)
        enrolment = Enrolment(
            device=request.device,
            certificate_pem=issued.certificate_pem,
            authority_pem=self.authority.certificate_pem,
            broker=BrokerAddress(host="127.0.0.1", port=8883),
            root="{}",
        )
        text = msgspec.json.encode(msgspec.structs.replace(enrolment, **changes)).decode()
        mac = reply_mac(key, nonce=request.nonce, enrolment=text)
        return 200, msgspec.json.encode(EnrolReply(enrolment=text, mac=mac))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path / "pki")
    yield running
    running.close()


def problem(status: int, code: str) -> Callable[[EnrolRequest], Answer]:
    return lambda _: (status, json.dumps({"code": code, "detail": "because"}).encode())


def test_a_device_enrols_once(tmp_path: Path, server: Server) -> None:
    state = tmp_path / "state"
    arguments = [
        "--server",
        server.url,
        "--token-file",
        token_file(tmp_path),
        "--state",
        str(state),
    ]
    assert main(["enrol", *arguments, "--device", "pi-1"]) == 0
    identity = load_identity(RealDisk(state))
    assert identity is not None
    assert (identity.device, identity.broker.port) == ("pi-1", 8883)
    assert (state / "identity" / "key.pem").stat().st_mode & 0o777 == 0o600
    assert main(["enrol", *arguments, "--device", "pi-1"]) == 0
    assert len(server.requests) == 1
    assert main(["enrol", *arguments, "--device", "pi-2"]) == 2


def test_a_device_that_has_lost_its_state_counts_on(tmp_path: Path, server: Server) -> None:
    """Its key is in a token, and the server takes a start that it knows for a repeat."""
    disk = RealDisk(tmp_path / "state")
    server.answer = lambda request: server.good(request, boot=41)
    identity = enrol(disk, server=server.url, token=TOKEN, device="pi-1")
    assert load_identity(disk) == identity
    assert [count_boot(disk, identity.boot) for _ in range(2)] == [42, 43]
    disk.write_atomic("boot", b"60")
    assert count_boot(disk, identity.boot) == 61
    server.answer = server.good  # an older server says nothing
    assert enrol(RealDisk(tmp_path / "other"), server=server.url, token=TOKEN, device="a").boot == 0


def test_a_lost_answer_is_no_lost_name(tmp_path: Path, server: Server) -> None:
    """The second attempt asks with the same key."""
    disk = RealDisk(tmp_path / "state")
    server.answer = lambda request: (200, server.good(request)[1][:100])
    with pytest.raises(AgentError, match=r"enrol\.reply"):
        enrol(disk, server=server.url, token=TOKEN, device="pi-1")
    assert load_identity(disk) is None
    key = disk.read(KEY_PATH)
    server.answer = server.good
    enrol(disk, server=server.url, token=TOKEN, device="pi-1")
    assert disk.read(KEY_PATH) == key


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (problem(401, "enrol.token"), ("enrol.token", 1)),
        (problem(409, "enrol.exists"), ("enrol.exists", 1)),
        (problem(503, "server.busy"), ("server.busy", 3)),
        (lambda _: (404, b"<html>"), ("enrol.reply", 1)),
        (lambda _: (200, b"<html>"), ("enrol.reply", 1)),
        (lambda _: (200, b"x" * 600_000), ("enrol.reply", 1)),
        (lambda _: (401, b"[1]"), ("enrol.reply", 1)),
    ],
)
def test_a_refusal_says_what_to_do(
    tmp_path: Path,
    server: Server,
    capsys: pytest.CaptureFixture[str],
    answer: Callable[[EnrolRequest], Answer],
    expected: tuple[str, int],
) -> None:
    server.answer = answer
    code, exit_code = expected
    arguments = ["--server", server.url, "--token-file", token_file(tmp_path), "--device", "pi-1"]
    state = tmp_path / "state"
    assert main(["enrol", *arguments, "--state", str(state)]) == exit_code
    printed = capsys.readouterr().err
    assert f"error[{code}]: " in printed
    assert "\nwhile: enrolling" in printed
    assert code == "enrol.reply" or "\ntry: " in printed
    assert load_identity(RealDisk(state)) is None


def test_an_answer_that_was_not_made_by_who_made_the_token(tmp_path: Path, server: Server) -> None:
    disk = RealDisk(tmp_path / "state")
    server.answer = lambda request: server.good(request, secret="x" * 43)
    with pytest.raises(AgentError, match="not made by who made the token"):
        enrol(disk, server=server.url, token=TOKEN, device="pi-1")
    assert disk.list("identity") == ("key.pem",)


@pytest.mark.parametrize("change", ["device", "certificate", "key"])
def test_a_wrong_identity_is_not_taken(tmp_path: Path, server: Server, change: str) -> None:
    other = RealDisk(tmp_path / "other")
    enrol(other, server=server.url, token=TOKEN, device="other")
    certificate = other.read("identity/certificate.pem").decode()
    changes = {
        "device": {"device": "pi-2"},
        "certificate": {"certificate_pem": "nonsense"},
        "key": {"certificate_pem": certificate},
    }[change]
    server.answer = lambda request: server.good(request, **changes)
    disk = RealDisk(tmp_path / "state")
    with pytest.raises(AgentError, match=r"enrol\.reply"):
        enrol(disk, server=server.url, token=TOKEN, device="pi-1")
    assert load_identity(disk) is None


@pytest.mark.parametrize(
    ("arguments", "exit_code", "code"),
    [
        (["--server", "http://127.0.0.1:1", *GIVEN], 3, "server.unreachable"),
        (["--server", "ftp://there", *GIVEN], 2, "settings.value"),
        (["--server", "http://127.0.0.1:1", "--token-file", "nonsense"], 1, "enrol.token"),
        (["--server", "http://127.0.0.1:1", "--token-file", "missing"], 2, "settings.file"),
        (["--server", "http://127.0.0.1:1"], 2, "enrol.missing"),
        (["--server", "http://127.0.0.1:1", "--authority", "sha256:0"], 2, "settings.value"),
        (GIVEN, 2, "enrol.missing"),
    ],
)
def test_exit_codes(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    exit_code: int,
    code: str,
) -> None:
    state = str(tmp_path / "state")
    files = {"token": token_file(tmp_path), "nonsense": token_file(tmp_path, "nonsense")}
    given = [files.get(word, word) for word in arguments]
    assert main(["enrol", *given, "--device", "pi-1", "--state", state]) == exit_code
    printed = capsys.readouterr().err
    assert f"error[{code}]: " in printed
    assert "\ntry: " in printed


def test_status_of_a_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from agent.core.made import make_order, simple_bundle
    from agent.core.simulation import World

    missing = str(tmp_path / "missing")
    assert main(["status", "--state", missing]) == 1
    assert "error[state.missing]" in capsys.readouterr().err
    world = World()
    bundle = simple_bundle("1")
    world.publish(bundle)
    world.disk = RealDisk(tmp_path / "state")  # type: ignore[assignment]
    world.disk.read_located = lambda path: Path(path).read_bytes()  # type: ignore[method-assign]
    world.disk.damaged = False
    world.play([make_order(1, [bundle])])
    assert main(["status", "--state", str(tmp_path / "state")]) == 0
    assert "activity: runs 1 (fp32)" in capsys.readouterr().out
    assert main(["status", "--state", str(tmp_path / "state"), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["slots"]["activity"]["running"]["manifest"] == bundle.digest
