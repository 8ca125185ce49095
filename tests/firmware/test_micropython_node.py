"""The node in MicroPython: its modules in two Pythons, and itself on real brokers."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256

from broker.conftest import TestAuthority
from edgectl_protocol.chunks import CHUNK_BYTES
from edgectl_server.pipeline.flat_format import FlatInvalid
from edgectl_server.pipeline.flat_reading import decode_flat
from edgectl_server.pipeline.flat_reference import run_flat
from edgectl_server.pipeline.flat_writing import encode_flat
from firmware.crafted_flat import large_model, random_model, tiny_model
from firmware.networked import (
    Node,
    Stage,
    committed,
    given_up_with_its_order,
    opened,
    write_identity,
)
from firmware.programs import CORE, ROOT, micropython
from vectors.make_firmware import KEY, NAME, bundle
from waiting import wait_for

DEVICE = "node-1"
ARENA_BYTES = 65536
MODULES = ROOT / "firmware-examples/micropython-node"
ANSWERS = Path(__file__).parent / "node_answers.py"
ORDER_OF_25519 = 2**252 + 27742317777372353535851937790883648493
RFC_6979 = "C9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721"
"""The key of RFC 6979, A.2.5; two signatures of it follow, of SHA-256."""
RFC_6979_SAMPLE = (
    "EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716",
    "F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8",
)


def text(content: bytes) -> str:
    """Return bytes as JSON has them."""
    return base64.b64encode(content).decode()


@pytest.fixture(params=["cpython", "micropython"], scope="module")
def python(request: pytest.FixtureRequest) -> str:
    """Both interpreters; modules that only one of them takes would be of no use for testing."""
    return sys.executable if request.param == "cpython" else str(micropython())


Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def ask(python: str, tmp_path: Path, vectors: dict[str, Any]) -> Ask:
    """Put questions to the modules."""

    def answers(**given: list[Any]) -> dict[str, Any]:
        names = ("messages", "signatures", "to_sign", "models", "bundles", "unlucky", "rotten")
        questions = {name: given.get(name, []) for name in names}
        questions |= {"key": vectors["key"], "name": vectors["name"], "folder": str(tmp_path)}
        (tmp_path / "questions").write_text(json.dumps(questions))
        done = subprocess.run(
            [python, ANSWERS, MODULES, tmp_path / "questions"],
            capture_output=True, text=True, check=False, timeout=300,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return answers


def test_hashes_and_signatures_are_those_of_the_libraries(ask: Ask) -> None:
    chosen = random.Random(1)
    messages = [chosen.randbytes(length) for length in (0, 1, 111, 112, 127, 128, 129, 300)]
    signatures = []
    for message in messages[:4]:
        key = Ed25519PrivateKey.generate()
        signed, public = key.sign(message), key.public_key().public_bytes_raw()
        signatures.append((signed, public, message, True))
        signatures.append((signed, public, message + b"x", False))
        altered = bytearray(signed)
        altered[chosen.randrange(64)] ^= 1 << chosen.randrange(8)
        signatures.append((bytes(altered), public, message, False))
        # The same number plus the order of the group: RFC 8032 forbids it, and it would verify.
        high = int.from_bytes(signed[32:], "little") + ORDER_OF_25519
        signatures.append((signed[:32] + high.to_bytes(32, "little"), public, message, False))
        signatures.append((signed, b"\xff" * 32, message, False))
    key = ec.generate_private_key(ec.SECP256R1())
    numbers = [f"{key.private_numbers().private_value:x}", RFC_6979]
    found = ask(
        messages=[text(one) for one in messages],
        signatures=[
            {"signature": text(one[0]), "key": text(one[1]), "message": text(one[2])}
            for one in signatures
        ],
        to_sign=[
            *({"key": numbers[0], "message": text(one)} for one in messages),
            {"key": numbers[1], "message": text(b"sample")},
        ],
    )
    assert found["sha512"] == [hashlib.sha512(one).hexdigest() for one in messages]
    assert found["verified"] == [one[3] for one in signatures]
    signed_ones = [base64.b64decode(one) for one in found["signed"]]
    for message, one in zip(messages, signed_ones, strict=False):
        key.public_key().verify(one, message, ec.ECDSA(SHA256()))
    with pytest.raises(InvalidSignature):
        key.public_key().verify(signed_ones[0], b"another", ec.ECDSA(SHA256()))
    for part in RFC_6979_SAMPLE:
        assert bytes.fromhex(part) in signed_ones[-1]


def test_models_of_the_vectors_to_the_bit(ask: Ask, vectors: dict[str, Any]) -> None:
    found = ask(models=vectors["models"])["outputs"]
    assert found == [one["outputs"] for one in vectors["models"]]


def test_models_at_random_and_damaged_ones(ask: Ask) -> None:
    """Whoever takes a damaged model computes it alike; both refuse the same."""
    chosen, models, wanted = random.Random(7), [], []
    for number in range(120):
        content = bytearray(encode_flat(random_model(number % 30 + 200)))
        for _ in range(chosen.randint(0, 2)):
            at = chosen.randrange(min(250, len(content)))
            content[at] = chosen.choice((0, 1, 0x7F, 0x80, 0xFF, chosen.randrange(256)))
        values = np.zeros((0,), np.int8)
        try:
            model = decode_flat(bytes(content))
            first = model.tensors[model.input]
            shape = (2, first.channels, first.height, first.width)
            values = np.random.default_rng(number).integers(-128, 128, shape).astype(np.int8)
            large = model.arena_bytes > ARENA_BYTES
            wanted.append("large" if large else text(run_flat(model, values).tobytes()))
        except FlatInvalid:
            wanted.append(None)
        models.append({"model": text(bytes(content)), "inputs": text(values.tobytes())})
    assert ask(models=models)["outputs"] == wanted
    assert 20 < wanted.count(None) < 100


def test_bundles_of_the_vectors(ask: Ask, vectors: dict[str, Any]) -> None:
    """Refused for the same reasons as by the core in C."""
    known = set(re.findall(r"EDGECTL_(\w+)", (CORE / "status.h").read_text()))
    found = ask(bundles=[one["bundle"] for one in vectors["bundles"]])["installed"]
    for one, code in zip(vectors["bundles"], found, strict=True):
        status = one["status"].removeprefix("EDGECTL_")
        # A device in C says after its rollback that it runs nothing; here it says why.
        wanted = {"OK": "ok", "NO_MODEL": "firmware.bad_self_test"}.get(
            status, f"firmware.{status.lower()}"
        )
        assert code == wanted, one["name"]
        assert code == "ok" or code.removeprefix("firmware.").upper() in known


def test_what_fails_for_the_boards_own_reasons_may_come_again(ask: Ask) -> None:
    said = ask(unlucky=[text(bundle(tiny_model(1), 1))])["unlucky"]
    assert said == [["firmware.flash_failed", "firmware.flash_failed", "ok"]]


def test_what_flash_has_lost_may_come_again_and_nothing_older(ask: Ask) -> None:
    one, two = (text(bundle(tiny_model(number), number)) for number in (1, 2))
    old = "firmware.not_newer"
    assert ask(rotten=[[one, two]])["rotten"] == [["ok", "ok", old, "lost", old, "ok"]]


class MicroNode(Node):
    """One device; `kill` is power off."""

    def __init__(self, program: Path, folder: Path) -> None:
        super().__init__(folder)
        self.program, self.folder = program, folder

    def start(self) -> None:
        """Power on."""
        key = KEY.public_key().public_bytes_raw().hex()
        self.run(self.program, MODULES / "node.py", self.folder, NAME, key)


@pytest.fixture(params=["embedded", pytest.param("mosquitto", marks=pytest.mark.mosquitto)])
def stage(
    request: pytest.FixtureRequest,
    authorities: tuple[TestAuthority, TestAuthority],
    tmp_path: Path,
) -> Iterator[Stage]:
    """A broker with nothing on it, and the server's side of it."""
    with opened(
        Stage, request.param, authorities[0], tmp_path / "broker", device=DEVICE, slot=NAME
    ) as one:
        yield one


Device = Callable[..., MicroNode]


@pytest.fixture
def device(
    stage: Stage, authorities: tuple[TestAuthority, TestAuthority], tmp_path: Path
) -> Iterator[Device]:
    """Make a device with an identity and nothing else."""
    made: list[MicroNode] = []
    program = micropython()

    def make(authority: TestAuthority = authorities[0], server: str = "127.0.0.1") -> MicroNode:
        node = MicroNode(program, tmp_path / f"node-{len(made)}")
        write_identity(
            stage, authority.path, node.folder / "identity", tmp_path / f"enrolled-{len(made)}",
            server, options=("--file", "--address", "127.0.0.1"),
        )  # fmt: skip
        made.append(node)
        return node

    yield make
    for one in made:
        one.kill()


def test_updates_a_rollback_and_what_is_not_newer(stage: Stage, device: Device) -> None:
    node = device()
    node.start()
    committed(stage, bundle(tiny_model(1), 1), "1")
    state = stage.states[-1]
    assert state.capabilities is not None
    assert state.capabilities.runtimes == {"cortex-m": "1"}
    large = bundle(large_model(2), 2)
    assert CHUNK_BYTES < len(large) < 2 * CHUNK_BYTES
    second = committed(stage, large, "2")

    bad = stage.publish(bundle(tiny_model(3), 3, wrong=True))
    number = stage.order(bad, version="3")
    state = stage.wait_state("its answers are wrong", state="rejected", order=number)
    slot = state.slots[NAME]
    assert slot.update is not None
    assert slot.update.reason is not None
    assert slot.update.reason.code == "firmware.bad_self_test"
    assert slot.running is not None
    assert slot.running.manifest == second, "what ran before goes on"

    number = stage.order(stage.publish(bundle(tiny_model(1), 1)), version="1")
    state = stage.wait_state("a way back", state="rejected", order=number)
    update = state.slots[NAME].update
    assert update is not None
    assert update.reason is not None
    assert update.reason.code == "firmware.not_newer"
    node.kill()
    wait_for(lambda: any(not one.online for one in stage.wills), "its last will is heard")
    node.start()
    wait_for(lambda: '"detail": "2"' in node.said().rpartition('"boot"')[2], "it boots version 2")


@pytest.mark.parametrize(("authority", "server"), [(1, "127.0.0.1"), (0, "10.0.0.1")])
@pytest.mark.parametrize("stage", ["embedded"], indirect=True)
def test_a_broker_of_another_authority_or_name_is_refused(
    authority: int,
    server: str,
    stage: Stage,
    device: Device,
    authorities: tuple[TestAuthority, TestAuthority],
) -> None:
    node = device(authorities[authority], server)
    stage.order(stage.publish(bundle(tiny_model(1), 1)), version="1")
    node.start()
    wait_for(lambda: '"disconnected"' in node.said(), "refused", bound_s=30)
    assert '"connected"' not in node.said()
    assert stage.states == []


@pytest.mark.parametrize("stage", ["embedded"], indirect=True)
def test_a_host_that_says_nothing_is_left_and_asked_again(stage: Stage, device: Device) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        stage.port = silent.getsockname()[1]
        node = device()
        node.start()
        wait_for(lambda: '"disconnected"' in node.said(), "left")


@pytest.mark.parametrize("stage", ["embedded"], indirect=True)
def test_what_is_not_signed_or_altered_changes_nothing(stage: Stage, device: Device) -> None:
    node = device()
    node.start()
    good = bundle(large_model(1), 1)
    manifest = stage.publish(good, altered={1: bytes(len(good) - CHUNK_BYTES)})
    stage.order(manifest, version="1", key=Ed25519PrivateKey.generate())

    def refusal() -> Any:
        newest = stage.states[-1].refusal if stage.states else None
        return None if newest is None else newest.code

    wait_for(lambda: refusal() == "order.signature", "a forged order is refused")
    stage.order(manifest, version="1", device="node-2")
    wait_for(lambda: refusal() == "order.device", "an order for another device")
    number = stage.order(manifest, version="1")
    wait_for(lambda: any(one.chunks == (1,) for one in stage.seeds), "it is asked for by name")
    assert stage.publish(good) == manifest
    stage.wait_state("the right content", state="committed", order=number)


@pytest.mark.parametrize("stage", ["embedded"], indirect=True)
def test_an_update_that_has_failed_ends_with_its_order(stage: Stage, device: Device) -> None:
    device().start()
    given_up_with_its_order(stage)


@pytest.mark.parametrize("stage", ["embedded"], indirect=True)
def test_killed_at_any_moment_it_runs_what_has_proved_itself(stage: Stage, device: Device) -> None:
    node = device()
    node.start()
    committed(stage, bundle(tiny_model(1), 1), "1")
    chosen = random.Random(4)
    for counter in range(2, 7):
        model = large_model(counter) if counter == 3 else tiny_model(counter)
        number = stage.order(stage.publish(bundle(model, counter)), version=str(counter))
        threading.Event().wait(chosen.uniform(0.05, 0.6))
        node.kill()
        node.start()
        stage.wait_state("after the kill", state="committed", order=number)
    lines = (json.loads(line) for line in node.said().splitlines())
    counters = [int(one["detail"]) for one in lines if one["event"] == "boot"]
    assert counters == sorted(counters)
    assert counters[0] == 0
    assert 0 not in counters[1:], "at every boot something runs"


def test_the_readme_names_every_file() -> None:
    readme = (MODULES / "README.md").read_text()
    assert [one.name for one in MODULES.glob("*.py") if f"`{one.name}`" not in readme] == []
