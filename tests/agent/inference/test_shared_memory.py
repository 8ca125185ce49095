"""Regions of shared memory against owners and strangers who mean harm."""

from __future__ import annotations

import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.inference.models import Client, activity, make_bundle
from edgectl_agent.inference.options import Options
from edgectl_agent.inference.process import InferenceProcess
from edgectl_agent.inference.protocol import Extent, parse_call
from edgectl_agent.inference.refusals import Kind, Refused
from edgectl_agent.inference.shared_memory import REGIONS_MAX, Register, SharedMemory

ME, OTHER = 1000, 1001
INFER = "/v2/models/activity/infer"


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[SharedMemory]:
    """Regions in a folder of the test's own."""
    made = SharedMemory(bytes_max=1000, folder=tmp_path)
    yield made
    made.close()


def put(folder: Path, key: str, size: int = 100, mode: int = 0o666) -> Path:
    path = folder / key
    path.write_bytes(bytes(range(256)) * (size // 256 + 1))
    os.truncate(path, size)
    path.chmod(mode)
    return path


def refusal(action: Any, *arguments: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        action(*arguments)
    return refused.value


@pytest.mark.parametrize(
    "key",
    ["", "/", "..", "/..", "../passwd", "a/b", "/a/../b", "//a", ".a", "a\0b", "a\n", "x" * 201,
     "/etc/passwd", "-a", "\u00e9"],
)  # fmt: skip
def test_keys_that_lead_elsewhere(memory: SharedMemory, key: str) -> None:
    assert "no key" in str(refusal(memory.register, "r", Register(key, 1), ME))


def test_what_is_no_file(memory: SharedMemory, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(put(tmp_path, "real"))
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
        for key in ("folder", "link", "pipe", "socket", "missing"):
            refusal(memory.register, "r", Register(key, 1), ME)
    assert memory.status("", ME) == []


@pytest.mark.parametrize(
    ("size", "offset"), [(101, 0), (1, 100), (100, 1), (0, 0), (-1, 0), (10, -5), (2**62, 0)]
)
def test_bounds_when_it_is_registered(
    memory: SharedMemory, tmp_path: Path, size: int, offset: int
) -> None:
    put(tmp_path, "a")
    refusal(memory.register, "r", Register("a", size, offset), ME)


@pytest.mark.parametrize(("offset", "size"), [(0, 41), (40, 1), (39, 2), (2**63, 1), (1, 2**63)])
def test_bounds_when_it_is_used(
    memory: SharedMemory, tmp_path: Path, offset: int, size: int
) -> None:
    """The file goes on after the region: what lies there is not for this request."""
    put(tmp_path, "a")
    memory.register("r", Register("/a", 40, 20), ME)
    mine = memory.of(ME)
    assert bytes(mine.read(Extent("r", 0, 40))) == bytes(range(20, 60))
    refusal(memory.of(ME).read, Extent("r", offset, size))
    refusal(memory.of(ME).write, Extent("r", offset, size), b"x")


def test_a_file_that_is_cut_is_refused_and_does_not_grow(
    memory: SharedMemory, tmp_path: Path
) -> None:
    path = put(tmp_path, "a")
    memory.register("r", Register("a", 100), ME)
    os.truncate(path, 50)
    assert bytes(memory.of(ME).read(Extent("r", 0, 50))) == bytes(range(50))
    assert "was cut" in str(refusal(memory.of(ME).read, Extent("r", 0, 51)))
    assert "was cut" in str(refusal(memory.of(ME).write, Extent("r", 40, 20), bytes(20)))
    path.unlink()
    os.truncate(put(tmp_path, "a"), 0)
    assert path.stat().st_size == 0


@pytest.mark.parametrize(
    ("mode", "user", "allowed"),
    [
        (0o600, OTHER, ""),
        (0o640, OTHER, ""),
        (0o644, OTHER, "r"),
        (0o666, OTHER, "rw"),
        (0o602, OTHER, ""),
        (0o600, None, ""),
        (0o666, None, ""),
        (0o400, os.geteuid(), "rw" if os.geteuid() == 0 else "r"),
        (0o600, os.geteuid(), "rw"),
    ],
)
def test_what_a_user_may(
    memory: SharedMemory, tmp_path: Path, mode: int, user: int | None, allowed: str
) -> None:
    put(tmp_path, "a", mode=mode)
    if not allowed:
        assert refusal(memory.register, "r", Register("a", 10), user).kind is Kind.FORBIDDEN
        return
    assert user is not None
    memory.register("r", Register("a", 10), user)
    assert len(memory.of(user).read(Extent("r", 0, 10))) == 10
    if "w" in allowed:
        memory.of(user).write(Extent("r", 0, 3), b"abc")
        assert bytes(memory.of(user).read(Extent("r", 0, 3))) == b"abc"
    else:
        refused = refusal(memory.of(user).write, Extent("r", 0, 3), b"abc")
        assert refused.kind is Kind.FORBIDDEN


def test_a_region_is_its_users_alone(memory: SharedMemory, tmp_path: Path) -> None:
    put(tmp_path, "a")
    memory.register("r", Register("a", 10), ME)
    for action, arguments in [
        (memory.of(OTHER).read, (Extent("r", 0, 1),)),
        (memory.of(OTHER).write, (Extent("r", 0, 1), b"x")),
        (memory.status, ("r", OTHER)),
        (memory.unregister, ("r", OTHER)),
    ]:
        assert refusal(action, *arguments).kind is Kind.UNKNOWN
    for action, arguments in [
        (memory.of, (None,)), (memory.status, ("", None)), (memory.unregister, ("", None)),
    ]:  # fmt: skip
        assert refusal(action, *arguments).kind is Kind.FORBIDDEN
    assert memory.status("", OTHER) == []
    memory.unregister("", OTHER)
    assert "already" in str(refusal(memory.register, "r", Register("a", 5), OTHER))
    assert [status.name for status in memory.status("", ME)] == ["r"]
    memory.unregister("r", ME)
    assert memory.status("", ME) == []
    refusal(memory.unregister, "r", ME)


def test_regions_and_what_a_request_reads_have_limits(memory: SharedMemory, tmp_path: Path) -> None:
    put(tmp_path, "a", 900)
    for number in range(REGIONS_MAX):
        memory.register(f"r{number}", Register("a", 900), ME)
    assert refusal(memory.register, "more", Register("a", 900), ME).kind is Kind.FULL
    mine = memory.of(ME)
    mine.read(Extent("r0", 0, 900))
    assert "larger than a request" in str(refusal(mine.read, Extent("r1", 0, 101)))
    before = len([*Path("/proc/self/fd").iterdir()])
    memory.unregister("", ME)
    assert len([*Path("/proc/self/fd").iterdir()]) == before - REGIONS_MAX


def test_a_region_that_goes_while_it_is_read(memory: SharedMemory, tmp_path: Path) -> None:
    """Its descriptor's number may be another file's by then: that is never read."""
    put(tmp_path, "a", 900)
    (tmp_path / "secret").write_bytes(b"S" * 900)
    stop = threading.Event()
    seen: set[bytes] = set()

    def read() -> None:
        while not stop.is_set():
            try:
                seen.add(bytes(memory.of(ME).read(Extent("r", 0, 900))))
            except Refused:
                continue

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(300):
        memory.register("r", Register("a", 900), ME)
        memory.unregister("r", ME)
        with (tmp_path / "secret").open("rb"):
            pass
    stop.set()
    reader.join()
    assert seen <= {(tmp_path / "a").read_bytes()}


def test_an_endpoint_outlives_a_file_that_is_cut(tmp_path: Path) -> None:
    """A mapped page that is gone would be SIGBUS."""
    process = InferenceProcess(
        host="127.0.0.1", port=0, socket=None, options=Options(shared_memory=True)
    )
    process.start()
    process.load(make_bundle(tmp_path))
    client = Client(process.endpoint)
    key = f"edgectl-test-{uuid.uuid4().hex}"
    path = Path("/dev/shm") / key
    window = activity()[0][:1]
    size = window.nbytes
    try:
        path.write_bytes(window.tobytes() + bytes(28))
        path.chmod(0o600)
        route = "/v2/systemsharedmemory/region/frames"
        region = {"key": f"/{key}", "offset": 0, "byte_size": size + 28}
        for wrong in (b"", b"{", b"[]", {"key": 1}, {**region, "byte_size": "1"}, {"key": "a"}):
            assert client.call("POST", f"{route}/register", wrong)[0] == 400
        assert client.call("POST", f"{route}/register", region) == (200, {})
        assert client.call("GET", f"{route}/status")[1] == [{"name": "frames", **region}]
        place = {"shared_memory_region": "frames", "shared_memory_byte_size": size}
        answer = {**place, "shared_memory_byte_size": 28, "shared_memory_offset": size}
        given = {"name": "input", "shape": [1, 6, 128], "datatype": "FP32", "parameters": place}
        outputs = [{"name": "logits", "parameters": answer}]
        body = {"inputs": [given], "outputs": outputs}
        status, found = client.call("POST", INFER, body)
        assert status == 200, found
        assert found["outputs"][0]["parameters"] == answer
        assert "data" not in found["outputs"][0]
        logits = np.frombuffer(path.read_bytes()[size:], np.float32)
        plain = {"name": "input", "shape": [1, 6, 128], "datatype": "FP32"}
        plain["data"] = window.ravel().tolist()
        _, expected = client.call("POST", INFER, {"inputs": [plain]})
        np.testing.assert_allclose(logits, expected["outputs"][0]["data"], rtol=1e-5)
        small = {**answer, "shared_memory_byte_size": 27}
        wanted = [{"name": "logits", "parameters": small}]
        assert client.call("POST", INFER, {**body, "outputs": wanted})[0] == 400
        for length in (size + 10, size, 100, 0):
            os.truncate(path, length)
            status, found = client.call("POST", INFER, body)
            assert status == 400, found
            assert "was cut" in found["error"]
        assert path.stat().st_size == 0
        assert client.call("POST", f"{route}/unregister", b"")[0] == 200
        assert client.call("POST", INFER, body)[0] == 404
        assert client.call("POST", INFER, {"inputs": [plain]})[0] == 200
        assert process.alive()
    finally:
        path.unlink()
        client.close()
        process.stop()


def test_texts_of_requests_name_no_region_of_others(tmp_path: Path) -> None:
    place = {"shared_memory_region": "x", "shared_memory_byte_size": 3072}
    for wrong in (
        {"shared_memory_region": 7},
        {"shared_memory_offset": -1},
        {"shared_memory_offset": 1.5},
    ):
        given = {
            "name": "input", "shape": [1, 6, 128], "datatype": "FP32",
            "parameters": {**place, **wrong},
        }  # fmt: skip
        with pytest.raises(Refused, match="no n"):
            parse_call(json.dumps({"inputs": [given]}).encode(), make_bundle(tmp_path).config)
