"""The verifying process: when it lives, what it may touch, and what the supervisor believes of it.

`conformance.hostile_process` stands for one that was taken over by what it parsed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from agent.core.made import make_order
from conformance.attacked import V1, Topics
from conformance.repository import SignedRepository
from edgectl_agent.core.record import Floor
from edgectl_agent.errors import StepCancelled, StepFailed, StepRejected
from edgectl_agent.offline import MetadataFiles
from edgectl_agent.trust import process
from edgectl_agent.trust.process import Trust
from waiting import wait_for

TESTS = Path(__file__).parents[2]


@pytest.fixture
def repository() -> SignedRepository:
    repository = SignedRepository()
    repository.add(V1)
    repository.publish("targets")
    return repository


@pytest.fixture
def trust(tmp_path: Path, repository: SignedRepository) -> Iterator[Trust]:
    trust = Trust(tmp_path / "cache", repository.first_root, Topics(repository), timeout_s=0.5)
    yield trust
    trust.close()


def find(trust: Trust, floor: Floor | None = None) -> Floor:
    return trust.find(V1.candidate.target, V1.digest, floor or Floor(), lambda: False)


def gone(process_id: int) -> bool:
    return not psutil.pid_exists(process_id)


# ---------------------------------------------------------------- life and death


def test_it_is_started_by_a_question_and_ends_when_none_comes(
    trust: Trust, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trust.process_id is None
    find(trust)
    first = trust.process_id
    assert first is not None
    trust.watch()
    assert trust.process_id == first, "there may be more to ask"
    monkeypatch.setattr(process, "IDLE_S", 0.0)
    wait_for(lambda: trust.watch() is None and trust.process_id is None, "the end of the process")
    assert gone(first)
    monkeypatch.undo()
    find(trust)
    assert trust.process_id not in {first, None}


def test_one_that_is_too_old_is_replaced(trust: Trust, monkeypatch: pytest.MonkeyPatch) -> None:
    find(trust)
    first = trust.process_id
    monkeypatch.setattr(process, "LIFE_S", 0.0)
    find(trust)
    assert first is not None
    assert trust.process_id != first
    assert gone(first)


def test_one_that_was_killed_between_questions_is_replaced(trust: Trust) -> None:
    find(trust)
    first = trust.process_id
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: psutil.Process(first).status() == psutil.STATUS_ZOMBIE, "its death")
    find(trust)
    assert trust.process_id != first


def test_watching_does_not_wait_for_a_question(trust: Trust, repository: SignedRepository) -> None:
    repository.files.clear()
    repository.files["1.root.json"] = repository.first_root
    cancelled = threading.Event()
    ended: list[type[Exception]] = []

    def ask() -> None:
        try:
            trust.find(V1.candidate.target, V1.digest, Floor(), cancelled.is_set)
        except StepCancelled as error:
            ended.append(type(error))

    asking = threading.Thread(target=ask)
    trust._timeout_s = 3600
    asking.start()
    try:
        wait_for(lambda: trust.process_id, "the process")
        trust.watch()
        assert asking.is_alive()
    finally:
        cancelled.set()
        asking.join(60)
    assert ended == [StepCancelled]
    assert trust.process_id is None


class Away(Topics):
    """Topics of a broker that is not there."""

    def connected(self) -> bool:
        return False

    def subscribe(self, names: object) -> None:
        pass

    def receive(self, timeout_s: float) -> None:
        threading.Event().wait(timeout_s)


def test_a_question_that_waits_for_a_connection_gives_way_to_a_file(
    trust: Trust, repository: SignedRepository
) -> None:
    """The link broke in the middle of an update, and somebody comes with the version in a file."""
    cancelled = threading.Event()
    trust._transport = Away(repository)
    ended: list[str] = []

    def ask() -> None:
        try:
            trust.find(V1.candidate.target, V1.digest, Floor(), cancelled.is_set)
        except (StepFailed, StepCancelled) as error:
            ended.append(error.code if isinstance(error, StepFailed) else "cancelled")

    asking = threading.Thread(target=ask)
    asking.start()
    timer = threading.Timer(20, cancelled.set)
    try:
        wait_for(lambda: trust.process_id, "the process")
        timer.start()
        seen = trust.find(
            V1.candidate.target,
            V1.digest,
            Floor(),
            lambda: False,
            files=MetadataFiles(repository.files),
        )
    finally:
        timer.cancel()
        cancelled.set()
        asking.join(60)
    assert seen.timestamp > 0
    assert ended == ["trust.unreachable"]


def test_it_ends_with_the_supervisor(tmp_path: Path, repository: SignedRepository) -> None:
    (tmp_path / "root.json").write_bytes(repository.first_root)
    program = textwrap.dedent("""
        import sys
        from pathlib import Path
        from edgectl_agent.core.record import Floor
        from edgectl_agent.trust.process import Trust

        class Silent:
            def connected(self): return True
            def subscribe(self, names): print(trust.process_id, flush=True)
            def unsubscribe(self, names): pass
            def receive(self, timeout_s): sys.stdin.read(1)

        folder = Path(sys.argv[1])
        trust = Trust(folder / "cache", (folder / "root.json").read_bytes(), Silent())
        trust.find("a", "sha256:" + "0" * 64, Floor(), lambda: False)
    """)
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as supervisor:
        assert supervisor.stdout is not None
        child = int(supervisor.stdout.readline())
        assert not gone(child)
        supervisor.kill()
    wait_for(lambda: gone(child), "the end of the verifying process")


def test_the_same_order_again_needs_no_process(tmp_path: Path) -> None:
    from securesystemslib.signer import CryptoSigner

    from edgectl_protocol.envelopes import Envelope, Signature, encode_envelope, signed_bytes
    from edgectl_protocol.messages import ORDER_PAYLOAD_TYPE, encode
    from edgectl_protocol.metadata import ORDER_KEYS_FIELD

    repository = SignedRepository()
    signer = CryptoSigner.generate_ecdsa()
    keyid = signer.public_key.keyid
    repository.root.unrecognized_fields[ORDER_KEYS_FIELD] = {keyid: signer.public_key.to_dict()}
    repository.put("root", repository.root)
    trust = Trust(tmp_path / "b", repository.files["1.root.json"], Topics(repository))
    order = make_order(1, [V1])
    content = encode(order)
    made = signer.sign(signed_bytes(ORDER_PAYLOAD_TYPE, content))
    envelope = Envelope(
        payload_type=ORDER_PAYLOAD_TYPE,
        payload=content,
        signatures=(Signature(keyid=keyid, sig=bytes.fromhex(made.signature)),),
    )
    payload = encode_envelope(envelope)
    try:
        assert trust.check_order(payload, lambda: False).order == order
        trust.close()
        assert trust.check_order(payload, lambda: False).order == order
        assert trust.process_id is None
    finally:
        trust.close()


# ---------------------------------------------------------------- slow, silent, hostile


class Slow(Topics):
    """Each file comes in time by itself; together they would take for ever."""

    def receive(self, timeout_s: float) -> tuple[str, bytes] | None:
        threading.Event().wait(0.05)
        return super().receive(timeout_s)


def test_slow_retrieval_has_a_bound(
    tmp_path: Path, repository: SignedRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(100):
        repository.publish_root()
    monkeypatch.setattr(process, "FETCH_S_MAX", 0.5)
    transport = Slow(repository)
    trust = Trust(tmp_path / "cache", repository.first_root, transport)
    try:
        with pytest.raises(StepFailed, match=r"trust\.unreachable.*longer than 0\.5 s"):
            find(trust)
        assert trust.process_id is None
    finally:
        trust.close()


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        ("never ready", "no word"),
        ("long frame", "a frame of"),
        ("garbage", "not a frame"),
        ("half a frame", "timed out"),
        ("other answer", "not a frame"),
        ("negative floor", "not a frame"),
        ("wants for ever", "more than"),
        ("wants other topics", "not a"),
        ("wants a wildcard", "not a"),
        ("unknown kind", "not a frame"),
        ("killed", "killed by signal 11"),
        ("silent", "no word"),
        ("ends", "ended with status 3"),
    ],
)
def test_a_process_that_was_taken_over_gets_nowhere(
    trust: Trust, monkeypatch: pytest.MonkeyPatch, lie: str, says: str
) -> None:
    monkeypatch.setenv("PYTHON_LIE", lie)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), *sys.path]))
    with monkeypatch.context() as hostile:
        hostile.setattr(process, "PROGRAM", "conformance.hostile_process")
        hostile.setattr(process, "COMPUTE_S_MAX", 1.0)
        hostile.setattr(process, "START_S_MAX", 1.0 if lie == "never ready" else 60.0)
        with pytest.raises(StepFailed, match=rf"trust\.process.*{says}"):
            find(trust)
    assert trust.process_id is None
    assert find(trust).timestamp == 2, "the next one is honest"


# ---------------------------------------------------------------- what it may touch

ATTEMPTS = """
import contextlib, os, socket, subprocess, sys
from pathlib import Path
import edgectl_agent.trust.__main__, encodings.ascii, encodings.idna
from edgectl_agent.trust import confinement
from edgectl_agent.trust.confinement import confine, limit

if os.environ.get("NAMESPACES_REFUSED"):
    confinement._leave_network = lambda: False

cache, key, port = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
if len(sys.argv) > 4:
    os.setgroups([]); os.setgid(int(sys.argv[4])); os.setuid(int(sys.argv[4]))
limit(processor_s=5, memory_bytes=32 * 2**20, file_bytes=1000)
print("missing:", ",".join(confine(cache)))

def attempt(name, call):
    try:
        call()
    except (OSError, MemoryError) as error:
        return
    print("got through:", name)

def udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.connect(("127.0.0.1", port)); one.send(b"x")

attempt("read the key", lambda: open(key).read())
attempt("list the identity", lambda: os.listdir(os.path.dirname(key)))
attempt("list the state", lambda: os.listdir(cache.parent))
attempt("write beside the cache", lambda: open(cache.parent / "new", "w"))
attempt("move out of the cache", lambda: os.rename(cache / "own", cache.parent / "own"))
attempt("link the key", lambda: os.link(key, cache / "linked"))
attempt("follow a link to the key",
        lambda: (os.symlink(key, cache / "symbolic"), open(cache / "symbolic").read()))
attempt("tcp", lambda: socket.create_connection(("127.0.0.1", port), 1).close())
attempt("udp", udp)
attempt("run a program", lambda: subprocess.run(["/bin/true"]))
attempt("trace the supervisor", lambda: open(f"/proc/{os.getppid()}/environ").read())
attempt("write a long file", lambda: (cache / "long").write_bytes(b"x" * 2000))
attempt("take all memory", lambda: bytearray(2**30))
(cache / "own2").write_bytes(b"kept")
print("ended")
"""


@pytest.mark.parametrize("network", ["namespace", "seccomp"])
@pytest.mark.parametrize("user", [None, 65534], ids=["same user", "unprivileged"])
def test_the_process_reaches_its_cache_and_nothing_else(
    tmp_path: Path, user: int | None, network: str
) -> None:
    """Kernels without Landlock or namespaces say so; here both must be there."""
    if os.geteuid() != 0:
        user = None  # we are unprivileged already
    for folder in (tmp_path, *tmp_path.parents):
        if Path(tempfile.gettempdir()) in folder.parents and folder.stat().st_uid == os.geteuid():
            folder.chmod(0o755)
    state = tmp_path / "state"
    (state / "identity").mkdir(parents=True)
    (state / "tuf").mkdir()
    (state / "identity" / "key.pem").write_text("secret")
    (state / "tuf" / "own").write_text("own")
    if user is not None:
        for path in (state, *state.rglob("*")):
            os.chown(path, user, user)
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                ATTEMPTS,
                state / "tuf",
                state / "identity" / "key.pem",
                str(server.getsockname()[1]),
                *([] if user is None else [str(user)]),
            ],
            env={**os.environ, "NAMESPACES_REFUSED": "1" if network == "seccomp" else ""},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.stdout.splitlines() == ["missing: ", "ended"], done.stderr
    assert (state / "tuf" / "own2").read_bytes() == b"kept"


def test_the_running_process_has_a_network_of_its_own(trust: Trust) -> None:
    with contextlib.suppress(StepRejected):
        find(trust)
    own, its = (Path(f"/proc/{one}/ns/net").readlink() for one in ("self", trust.process_id))
    assert own != its


def test_the_supervisor_carries_no_verifier() -> None:
    program = (
        "import sys, edgectl_agent.supervisor;"
        "print([name for name in ('tuf', 'securesystemslib', 'urllib3') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
