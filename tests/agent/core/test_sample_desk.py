"""Samples on their way to the disk, with real processes: redacted, sealed, or dropped.

The programs here are hostile, or broken, in the ways that programs are.
"""

from __future__ import annotations

import queue
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from edgectl_agent.sample_desk import WAITING_MAX, Redaction, SampleDesk
from edgectl_protocol.names import digest_of
from edgectl_protocol.samples import (
    SAMPLE_BYTES_MAX,
    SampleNote,
    SampleTensor,
    encode_sample,
    read_sample_parts,
)
from edgectl_protocol.sealed_samples import (
    SEALED_HEAD_BYTES_MAX,
    is_sealed,
    open_sample,
    read_sealed_head,
    sample_key_id,
)
from waiting import wait_for

SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
KEY = X25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes_raw()
NOTE = SampleNote(
    model="har",
    version="1",
    manifest=digest_of(b"m"),
    reason="random",
    taken_at=datetime(2026, 11, 30, tzinfo=UTC),
    request="a-request",
)
INPUT = np.arange(1, 9, dtype="<f4").reshape(2, 4)
OUTPUT = np.array([[3, 4]], "<i2")
SAMPLE = encode_sample(
    NOTE,
    [
        (SampleTensor("input.x", "F32", INPUT.shape), INPUT.tobytes()),
        (SampleTensor("output.y", "I16", OUTPUT.shape), OUTPUT.tobytes()),
    ],
)
GIVEN_S = 60.0


class Device:
    """A state directory, and a desk for what is taken."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        (self.state / "identity").mkdir(parents=True)
        (self.state / "identity" / "key.pem").write_text("secret")
        self.made: queue.Queue[bytes] = queue.Queue()
        self.desks: list[SampleDesk] = []

    def desk(self, steps: str = "", command: str = "", **limits: float) -> SampleDesk:
        words = tuple(command.split())
        desk = SampleDesk(
            Redaction(steps, words, **limits),  # type: ignore[arg-type]  # times and bytes
            device="pi-1",
            state=self.state,
            done=self.made.put,
        )
        self.desks.append(desk)
        return desk

    def program(self, text: str, mode: int = 0o755) -> str:
        """A program in Python, which has `head`, `data` and `arrays` of the sample."""
        path = self.folder / "programs" / "redact"
        path.parent.mkdir(mode=0o755, exist_ok=True)
        path.write_text(f"#!{sys.executable}\n{READING}\n{text}\n")
        path.chmod(mode)
        return str(path)

    def shell(self, text: str) -> str:
        path = self.folder / "programs" / "redact"
        path.parent.mkdir(mode=0o755, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    def dropped(self, desk: SampleDesk, sample: bytes = SAMPLE) -> str:
        """Have a sample dropped; return the code."""
        before = dict(desk.counts())
        assert desk.take(sample, PUBLIC) is None
        wait_for(lambda: desk.counts() != before, "the sample's end", bound_s=GIVEN_S)
        assert self.made.empty(), "nothing of it may be written"
        (code,) = {code for code, count in desk.counts().items() if count != before.get(code, 0)}
        return code


READING = """
import json, os, sys
content = sys.stdin.buffer.read()
length = int.from_bytes(content[:8], "little")
head, data = json.loads(content[8:8 + length]), content[8 + length:]
def write(head, data):
    encoded = json.dumps(head).encode()
    sys.stdout.buffer.write(len(encoded).to_bytes(8, "little") + encoded + data)
"""


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    tmp_path.chmod(0o755)
    made = Device(tmp_path)
    yield made
    for desk in made.desks:
        desk.stop()


def opened(content: bytes) -> bytes:
    return open_sample(content, lambda sealed, info: SUITE.decrypt(sealed, KEY, info))


def arrays_of(content: bytes) -> dict[str, list[float]]:
    kinds = {"F32": "<f4", "I16": "<i2"}
    return {
        tensor.name: np.frombuffer(data, kinds[tensor.datatype]).tolist()
        for tensor, data in read_sample_parts(content).tensors
    }


def test_where_nothing_is_wanted_nothing_is_started(device: Device) -> None:
    desk = device.desk()
    assert desk.take(SAMPLE, None) == SAMPLE
    assert desk.counts() == {}
    assert not desk.redacts


def test_a_sample_is_sealed_to_the_key_of_its_policy(device: Device) -> None:
    desk = device.desk()
    assert desk.take(SAMPLE, PUBLIC) is None
    sealed = device.made.get(timeout=GIVEN_S)
    assert is_sealed(sealed)
    head = read_sealed_head(sealed[:SEALED_HEAD_BYTES_MAX], len(sealed))
    assert (head.key, head.device, head.note) == (sample_key_id(PUBLIC), "pi-1", NOTE)
    assert opened(sealed) == SAMPLE, "it was not redacted, and does not say so"
    assert desk.counts() == {}


def test_steps_are_done_before_anything_is_written(device: Device) -> None:
    desk = device.desk("zero input.x[0:2]; keep output.*")
    assert desk.redacts
    assert desk.take(SAMPLE, None) is None
    found = device.made.get(timeout=GIVEN_S)
    note = read_sample_parts(found).note
    assert note is not None
    assert (note.redacted, note.request) == ("yes", "a-request")
    assert arrays_of(found) == {"input.x": [0, 0, 3, 4, 0, 0, 7, 8], "output.y": [3, 4]}
    assert desk.counts() == {"redaction.done": 1}


def test_a_program_redacts_after_the_steps(device: Device) -> None:
    """It writes no metadata, other ones, or tensors in another order: that changes nothing."""
    program = device.program(
        "head = {'output.y': {'dtype': 'I16', 'shape': [1, 2], 'data_offsets': [0, 4]},"
        " 'input.x': {'dtype': 'F32', 'shape': [2, 4], 'data_offsets': [4, 36]},"
        " '__metadata__': {'model': os.environ['EDGECTL_MODEL'] + '-other'}}\n"
        "write(head, data[32:] + data[:16] + bytes(16))"
    )
    desk = device.desk("zero input.x[0]; keep output.y", program)
    for _ in range(3):
        assert desk.take(SAMPLE, PUBLIC) is None
    for _ in range(3):
        found = opened(device.made.get(timeout=GIVEN_S))
        note = read_sample_parts(found).note
        assert note is not None
        assert (note.model, note.redacted) == ("har", "yes")
        assert arrays_of(found) == {"input.x": [0, 2, 3, 4, 0, 0, 0, 0], "output.y": [3, 4]}
    assert desk.counts() == {"redaction.done": 3}


OTHER_SHAPE = "head['input.x']['shape'] = [4, 2]\nwrite(head, data)"
OTHER_TYPE = "head['input.x']['dtype'] = 'I32'\nwrite(head, data)"
MORE = (
    "head['input.z'] = {'dtype': 'U8', 'shape': [1], 'data_offsets': [36, 37]}\n"
    "write(head, data + b'x')"
)
FEWER = "del head['output.y']\nwrite(head, data[:32])"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "redaction.dropped"),
        ("write(head, data); sys.exit(3)", "redaction.failed"),
        ("raise ValueError(data)", "redaction.failed"),
        ("write(head, data); sys.stdout.flush(); os.kill(os.getpid(), 9)", "redaction.failed"),
        ("sys.stdout.buffer.write(content[:-1])", "redaction.changed"),
        ("sys.stdout.buffer.write(b'GIF89a' * 100)", "redaction.changed"),
        (OTHER_SHAPE, "redaction.changed"),
        (OTHER_TYPE, "redaction.changed"),
        (MORE, "redaction.changed"),
        (FEWER, "redaction.changed"),
        (f"sys.stdout.buffer.write(bytes({SAMPLE_BYTES_MAX + 2**20}))", "redaction.changed"),
        ("held = bytearray(2**30); write(head, data)", "redaction.failed"),
        # Whoever reads the pipes of the sample process could answer in its place.
        ("os.kill(os.getppid(), 9)", "redaction.crashed"),
    ],
    ids=[
        "nothing", "status", "exception", "killed", "cut off", "no sample", "another shape",
        "another datatype", "one more", "one fewer", "too long", "all memory", "kills its parent",
    ],
)  # fmt: skip
def test_what_is_not_a_redacted_sample_is_dropped(device: Device, text: str, code: str) -> None:
    desk = device.desk(command=device.program(text))
    assert device.dropped(desk) == code
    desk.stop()
    good = device.desk(command=device.program("write(head, data)"))
    good.take(SAMPLE, PUBLIC)
    assert is_sealed(device.made.get(timeout=GIVEN_S)), "the same device, with a good program"


@pytest.mark.parametrize(
    "text",
    [
        "exec sleep 600",
        "cat; exec 0<&- 1>&-; exec sleep 600",
        "cat; setsid sleep 600 &",
        "exec yes >&0",
    ],
    ids=["hangs", "answers and hangs", "leaves something behind", "writes to its input"],
)
def test_a_program_that_does_not_end_is_ended_with_all_it_has_left(
    device: Device, text: str
) -> None:
    desk = device.desk(command=device.shell(text), timeout_s=1.0)
    code = device.dropped(desk)
    assert code in {"redaction.timeout", "redaction.failed"}

    def left() -> bool:
        found = False
        for path in Path("/proc").iterdir():
            if path.name.isdigit():
                try:
                    found |= b"EDGECTL_REDACTION_RUN=" in (path / "environ").read_bytes()
                except OSError:
                    continue
        return found

    wait_for(lambda: not left(), "nothing of it left")


ATTEMPTS = """
import socket, subprocess
def attempt(call):
    try:
        call()
    except (OSError, MemoryError):
        return
    os._exit(0)  # nothing is written: the sample is dropped, and not "failed" as here
state = {state!r}
attempt(lambda: open(state + "/identity/key.pem").read())
attempt(lambda: os.listdir(state))
attempt(lambda: open("/etc/passwd").read())
attempt(lambda: open({other!r} + "/kept", "wb").write(data))
attempt(lambda: open("/tmp/kept-of-a-sample", "wb").write(data))
attempt(lambda: open("/dev/shm/kept-of-a-sample", "wb").write(data))
attempt(lambda: socket.create_connection(("127.0.0.1", {port}), 1))
attempt(lambda: open(f"/proc/{{os.getppid()}}/environ").read())
attempt(lambda: os.listdir(f"/proc/{{os.getppid()}}/fd"))
subprocess.run(["/bin/true"], check=True)
write(head, data[:-4] + bytes(4))
"""


def test_a_program_sees_the_sample_and_no_more(device: Device) -> None:
    """Kernels without Landlock or namespaces say so; here both must be there."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        text = ATTEMPTS.format(
            state=str(device.state), other=str(device.folder), port=server.getsockname()[1]
        )
        desk = device.desk(command=device.program(text))
        desk.take(SAMPLE, PUBLIC)
        found = opened(device.made.get(timeout=GIVEN_S))
    assert arrays_of(found)["output.y"] == [0, 0]
    assert desk.status()["redaction_without"] == []
    assert not (device.folder / "kept").exists()


def test_a_program_that_others_can_write_is_not_run(device: Device) -> None:
    command = device.program("write(head, data)", mode=0o777)
    desk = device.desk(command=command)
    assert device.dropped(desk) == "redaction.refused"
    Path(command).chmod(0o644)
    assert device.dropped(desk) == "redaction.refused", "nor one that is not executable"
    Path(command).unlink()
    assert device.dropped(desk) == "redaction.refused", "nor one that is gone: nothing leaves"
    folder = Path(device.program("write(head, data)")).parent
    folder.chmod(0o777)
    assert device.dropped(desk) == "redaction.refused"
    folder.chmod(0o755)
    desk.take(SAMPLE, PUBLIC)
    assert is_sealed(device.made.get(timeout=GIVEN_S))


def test_a_model_that_no_step_is_for_gives_nothing(device: Device) -> None:
    desk = device.desk("kws: zero input.x; kws: keep output.*")
    assert device.dropped(desk) == "redaction.step"


def test_a_key_that_nothing_can_be_sealed_to_seals_nothing(device: Device) -> None:
    desk = device.desk()
    assert desk.take(SAMPLE, bytes(32)) is None
    wait_for(lambda: desk.counts() == {"sample.key": 1}, "the sample's end", bound_s=GIVEN_S)
    assert device.made.empty()


def test_more_than_can_wait_is_dropped_at_once(device: Device) -> None:
    desk = device.desk(command=device.shell("sleep 1; cat"))
    for _ in range(WAITING_MAX + 10):
        desk.take(SAMPLE, PUBLIC)
    assert desk.counts()["sample.busy"] >= 8
    desk.stop()
    assert desk.take(SAMPLE, PUBLIC) is None, "what comes after its end is dropped too"


def test_what_the_supervisor_imports_is_light() -> None:
    import subprocess

    program = (
        "import sys, edgectl_agent.supervisor;"
        "print([name for name in ('cryptography.hazmat.primitives.hpke', 'numpy', 'hashlib')"
        " if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "['hashlib']"
