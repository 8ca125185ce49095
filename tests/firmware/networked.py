"""A microcontroller in QEMU, and by hand what a server is to it, on a real broker.

`Stage` signs orders with a key of its own and publishes bundles as the server does: retained
chunks, their index, a manifest. `Machine` is the device: a process of QEMU, on a file that stands
for its flash. `Node` is one that is a process of this machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.clients import Files, Peer
from broker.conftest import TestAuthority, start_broker
from edgectl_protocol import topics
from edgectl_protocol.chunks import CHUNK_BYTES, INDEX_ANNOTATION, make_index
from edgectl_protocol.envelopes import Envelope, Signature, encode_envelope, signed_bytes
from edgectl_protocol.manifest import ARTIFACT_TYPE, MANIFEST_MEDIA_TYPE, TITLE_ANNOTATION
from edgectl_protocol.messages import (
    ORDER_PAYLOAD_TYPE,
    Candidate,
    Order,
    ReportedState,
    SeedRequest,
    SlotOrder,
    decode,
    encode,
)
from edgectl_protocol.names import digest_of
from firmware.crafted_flat import tiny_model
from firmware.programs import ROOT, debian_sources, monocypher
from signed import payload_of
from vectors.make_firmware import KEY, NAME, bundle
from waiting import wait_for

__all__ = [
    "POWER_CUT",
    "Machine",
    "Node",
    "Stage",
    "build",
    "committed",
    "cut_and_recover",
    "given_up_with_its_order",
    "opened",
    "provision",
    "write_identity",
]

POWER_CUT = 77
GATEWAY = "10.0.2.2"
"""Where QEMU's user network has the host."""
NONCE = "00112233445566778899aabbccddeeff"


def build(folder: Path) -> Path:
    """Build the program for the key and the name of the vectors; any warning fails."""
    folder.mkdir(exist_ok=True)
    (folder / "key.pub").write_text(KEY.public_key().public_bytes_raw().hex())
    done = subprocess.run(
        ["make", "--silent", f"--jobs={min(2, os.cpu_count() or 1)}", f"KEY={folder / 'key.pub'}",
         f"NAME={NAME}", f"BUILD={folder / 'build'}", f"MONOCYPHER={monocypher()}",
         f"SOURCES_OF={debian_sources()}"],
        cwd=ROOT / "firmware-examples/cortex-m-mqtt", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-4000:]
    return folder / "build/node.elf"


class Machine:
    """One device; `start` is power on, `stop` power off."""

    def __init__(self, program: Path, flash: Path) -> None:
        self.program, self.flash = program, flash
        self.log = flash.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, cut: int | None = None) -> None:
        """Power on; `cut`: the operation of the flash in whose middle it goes off."""
        words = ("node", self.flash, *(() if cut is None else (cut,)))
        arguments = ",".join(f"arg={one}" for one in words)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["qemu-system-arm", "-M", "mps2-an386", "-nographic", "-monitor", "none",
                 "-serial", "none", "-nic", "user,model=lan9118", "-kernel", self.program,
                 "-semihosting-config", f"enable=on,target=native,{arguments}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def stop(self) -> None:
        """Power off."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait(60)

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """Let it do nothing; what is sent to it meanwhile comes at once afterwards."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def wait_end(self, bound_s: float = 60) -> int:
        """Wait until it ends by itself; return its exit code."""
        assert self._process is not None
        return self._process.wait(bound_s)

    def poll(self) -> int | None:
        """Return the exit code once it has ended."""
        return None if self._process is None else self._process.poll()

    def said(self, key: str) -> list[int]:
        """Return the numbers that it has printed under a name."""
        lines = self.log.read_text().splitlines() if self.log.exists() else ()
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line).get(key))
        return [one for one in found if one is not None]

    def wait_said(self, key: str, value: int, bound_s: float = 60) -> None:
        """Wait until it has printed a number under a name."""
        wait_for(lambda: value in self.said(key), f"{key} {value}", bound_s=bound_s)


class Node:
    """One device that is a process, and its folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.log = folder.with_suffix(".log")
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, *command: str | Path, **environment: str) -> None:
        """Start it; it is running, and nothing more, when this returns."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, **environment},
            )  # fmt: skip

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            self.process.wait(60)
            self.process = None

    def said(self) -> str:
        """Return all that it has printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Stage:
    """The server's side, by hand."""

    def __init__(self, broker: Any, authority: TestAuthority, device: str, slot: str) -> None:
        self.port: int = broker.port
        self.device, self.slot = device, slot
        self.key = Ed25519PrivateKey.generate()
        self.files: Files = authority.issue(device)
        self._counter = 0
        self.variant = "cortex-m-int8"
        self.states: list[ReportedState] = []
        self.wills: list[ReportedState] = []
        self.seeds: list[SeedRequest] = []
        self.peer = Peer("server", authority.issue("server"))
        self.peer.client.on_message = lambda _client, _data, message: self._take(message)
        assert self.peer.connect(broker) == 0
        self.peer.subscribe(f"edgectl/v1/d/{device}/up/#")

    def _take(self, message: Any) -> None:
        if not message.payload:
            return
        certificate = x509.load_pem_x509_certificate(self.files.certificate.read_bytes())
        payload = payload_of(message.payload, certificate)
        if message.topic == topics.state(self.device):
            state = decode(ReportedState, payload)
            (self.states if state.seq else self.wills).append(state)
        else:
            self.seeds.append(decode(SeedRequest, payload))

    def close(self) -> None:
        self.peer.close()

    def publish(self, bundle: bytes, *, altered: dict[int, bytes] | None = None) -> str:
        """Publish a bundle as the server does; return its manifest's digest.

        `altered` chunks are published with other content than the index says.
        """
        chunks = [bundle[at : at + CHUNK_BYTES] for at in range(0, len(bundle), CHUNK_BYTES)]
        index, digest = make_index(chunks), digest_of(bundle)
        for number, chunk in enumerate(chunks):
            content = (altered or {}).get(number, chunk)
            self.peer.publish(topics.chunk(digest, number), content, retain=True)
        annotations = {TITLE_ANNOTATION: "model.emb"}
        if len(chunks) > 1:
            self.peer.publish(topics.chunk_index(digest), index, retain=True)
            annotations[INDEX_ANNOTATION] = digest_of(index)
        layer = {
            "mediaType": "application/vnd.cncf.model.weight.v1.raw",
            "digest": digest,
            "size": len(bundle),
            "annotations": annotations,
        }
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_MEDIA_TYPE,
            "artifactType": ARTIFACT_TYPE,
            "config": layer,
            "layers": [layer],
        }
        manifest = json.dumps(document).encode()
        self.peer.publish(topics.chunk(digest_of(manifest), 0), manifest, retain=True)
        return digest_of(manifest)

    def order(
        self, *manifests: str, version: str, key: Ed25519PrivateKey | None = None, **fields: Any
    ) -> int:
        """Order a release, the first manifest before the others; return the number of the order."""
        self._counter += 1
        now = datetime.now(UTC)  # noqa: TID251 - the device looks at the real clock
        candidates = tuple(
            Candidate(
                variant=self.variant, target=f"models/{self.slot}/{version}/x", manifest=manifest
            )
            for manifest in manifests
        )
        known = {
            "device": self.device,
            "counter": self._counter,
            "nonce": NONCE,
            "issued_at": now,
            "expires_at": now + timedelta(days=1),
            "slots": {
                self.slot: SlotOrder(
                    model=self.slot, version=version, candidates=candidates, rollout="r1"
                )
            },
        }
        payload = encode(Order(**(known | fields)))
        signed = (key or self.key).sign(signed_bytes(ORDER_PAYLOAD_TYPE, payload))
        envelope = Envelope(
            payload_type=ORDER_PAYLOAD_TYPE, payload=payload, signatures=(Signature(sig=signed),)
        )
        topic = topics.order(self.device)
        self.peer.publish(topic, encode_envelope(envelope), retain=True)
        return self._counter

    def wait_state(self, what: str, **wanted: Any) -> ReportedState:
        """Wait until the newest state has an update with these fields."""

        def look() -> ReportedState | None:
            newest = self.states[-1] if self.states else None
            slot = None if newest is None else newest.slots.get(self.slot)
            update = None if slot is None else slot.update
            if update is None:
                return None
            found = msgspec.to_builtins(update)
            return newest if wanted.items() <= found.items() else None

        try:
            return wait_for(look, what)
        except AssertionError:
            raise AssertionError(f"{what}: {self.states[-3:]}") from None


StageOf = TypeVar("StageOf", bound=Stage)


@contextlib.contextmanager
def opened(
    of: Callable[[Any, TestAuthority, str, str], StageOf],
    kind: str,
    authority: TestAuthority,
    state: Path,
    *,
    device: str,
    slot: str,
) -> Iterator[StageOf]:
    """Give a stage, of class `of`, on a new broker of a `kind`, whose files are in `state`."""
    broker = start_broker(kind, authority, state)
    try:
        stage = of(broker, authority, device, slot)
        yield stage
        stage.close()
    finally:
        broker.stop()


def write_identity(
    stage: Stage,
    authority: Path,
    flash: Path,
    folder: Path,
    server: str = "127.0.0.1",
    *,
    options: tuple[str, ...] | None = None,
) -> None:
    """Have `provision.py` write who the device is, from an enrolment made by hand.

    `options` of it; None: those for a microcontroller in QEMU.
    """
    (identity := folder / "identity").mkdir(parents=True)
    enrolment = {
        "device": stage.device,
        "server": "http://127.0.0.1",
        "broker": {"host": server, "port": stage.port},
    }
    public = stage.key.public_key().public_bytes_raw().hex()
    keys = {"k": {"keytype": "ed25519", "keyval": {"public": public}}}
    root = {"signed": {"x-edgectl-order-keys": keys}}
    (identity / "enrolment.json").write_text(json.dumps(enrolment))
    (identity / "root.json").write_text(json.dumps(root))
    (identity / "authority.pem").write_bytes(authority.read_bytes())
    (identity / "certificate.pem").write_bytes(stage.files.certificate.read_bytes())
    (identity / "key.pem").write_bytes(stage.files.key.read_bytes())
    provision(folder, flash, options)


def provision(state: Path, flash: Path, options: tuple[str, ...] | None = None) -> None:
    """Write the identity of an enrolled device; in QEMU it reaches the broker by its gateway."""
    given = ("--address", GATEWAY) if options is None else options
    subprocess.run(
        [sys.executable, ROOT / "firmware-examples/provision.py", state, flash, *given], check=True
    )


def committed(stage: Stage, model: bytes, version: str) -> str:
    """Order a release and wait until it is committed; return its manifest's digest."""
    manifest = stage.publish(model)
    number = stage.order(manifest, version=version)
    state = stage.wait_state(f"version {version}", state="committed", order=number)
    running = state.slots[stage.slot].running
    assert running is not None
    assert (running.version, running.manifest) == (version, manifest)
    return manifest


def given_up_with_its_order(stage: Stage) -> None:
    """Let an update fail that would be tried again, and order nothing: it is no more."""
    content = bytearray(bundle(tiny_model(1), 1))
    content[-1] ^= 1
    stage.order(stage.publish(bytes(content)), version="1")
    stage.wait_state("its payload is not what was signed", state="failed")
    number = stage.order(version="1", slots={})

    def look() -> bool:
        newest = stage.states[-1]
        slot = newest.slots.get(stage.slot)
        return newest.order_counter == number and (slot is None or slot.update is None)

    wait_for(look, "nothing is wanted, and nothing tried")


def cut_and_recover(stage: Stage, machine: Machine, operation: int) -> bool:
    """Update from 1 to 2 with a power cut, and boot again; return False: it was not reached."""
    machine.start()
    committed(stage, bundle(tiny_model(1), 1), "1")
    machine.stop()
    before = len(machine.said("counter"))
    number = stage.order(stage.publish(bundle(tiny_model(2), 2)), version="2")
    machine.start(cut=operation)
    reached = wait_for(lambda: machine.poll() or _updated(stage, number), "the cut")
    machine.stop()
    if reached != POWER_CUT:
        return False
    machine.start()
    stage.wait_state("after the cut", state="committed", order=number)
    counters = machine.said("counter")[before:]
    assert counters == sorted(counters), "once the new one has proved itself, it runs"
    assert set(counters) <= {1, 2}, "at every boot something runs"
    return True


def _updated(stage: Stage, number: int) -> bool:
    """Say whether an order has been carried out."""
    update = stage.states[-1].slots[stage.slot].update if stage.states else None
    return update is not None and (update.order, update.state) == (number, "committed")
