"""Everything that takes bytes from the network apart: accepted, or one of the declared errors.

`DECODERS` is the list, with the errors that each may raise and something that it accepts, from
which hypothesis makes what is almost right. A decoder that is missing in the list fails
`test_every_decoder_is_listed`. Each example has a bound in time, each test one in memory; what
fails is printed with the blob that reproduces it.

Of MQTT we cut the stream into packets and take pieces of blobs out of it; the rest is taken apart
by paho, none longer than `edgectl_agent.packet_client.PACKET_BYTES_MAX`
(`tests/agent/core/test_lying_broker.py`).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import json
import pkgutil
import re
import resource
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import mqtt5
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edgectl_agent
import edgectl_protocol
from agent.core.made import make_order, simple_bundle
from agent.core.offline_file import index_of
from edgectl_agent import enrol, hold_file, local_messages, renewal, server_request
from edgectl_agent.core import packets, pulling
from edgectl_agent.core.record import EMPTY, SlotPointers, decode_pointers, decode_record
from edgectl_agent.core.requests import decode_request_record
from edgectl_agent.errors import Refused
from edgectl_agent.inference import hub_messages
from edgectl_agent.server_request import Answer
from edgectl_agent.trust import frames
from edgectl_agent.trust.verifier import parse_envelope
from edgectl_delta.decoder import apply_bytes
from edgectl_delta.frames import unpack
from edgectl_protocol import (
    audit,
    chunks,
    delta_programs,
    enrolment,
    envelopes,
    manifest,
    messages,
    metadata,
    names,
    offline,
    pulls,
    ranges,
    requirements,
    samples,
    sealed_samples,
    topics,
    uploads,
    watching,
    windows,
)
from edgectl_protocol.errors import ProtocolError
from edgectl_simulator.errors import Misused, SimulatorError
from edgectl_simulator.link import LinkFailed, PacketBuffer
from edgectl_simulator.plan import read_plan
from edgectl_simulator.profiles import read_profiles
from edgectl_simulator.trust import parse_order_keys

EXAMPLES = 150
EXAMPLE_BOUND = timedelta(seconds=2)
MEMORY_BYTES_MAX = 96 * 1024 * 1024
BUNDLE = simple_bundle("1", length=200_000)
REFERENCE = msgspec.json.encode(
    watching.Reference(
        definition=watching.DEFINITION,
        source="evaluation",
        dataset=names.digest_of(b"data"),
        rows=4,
        inputs=(watching.WatchedTensor(name="x", kind="tabular"),),
        features=(watching.Feature(name="x.0", edges=(0.5,), counts=(1, 3), low=0.0, high=1.0),),
    )
)

SAMPLE = samples.encode_sample(
    samples.SampleNote(
        model="har",
        version="1",
        manifest=names.digest_of(b"manifest"),
        reason="random",
        taken_at=datetime(2026, 11, 29, tzinfo=UTC),
    ),
    [(samples.SampleTensor("input.x", "F32", (1, 2)), bytes(8))],
)


SEALED_SAMPLE = sealed_samples.seal_sample(
    SAMPLE, device="pi-1", key=bytes(32), encrypt=lambda plain, _: bytes(32) + plain + bytes(16)
)


@dataclass(frozen=True)
class Decoder:
    """One decoder: how it is called, what it may raise, and what it accepts."""

    name: str
    """``module.function`` for those that are looked for."""
    call: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    samples: tuple[bytes, ...]


def of_text(check: Callable[[str], object]) -> Callable[[bytes], object]:
    """Text comes to us decoded; a lone surrogate is the worst that it can hold."""
    return lambda content: check(content.decode("utf-8", "surrogateescape"))


def of_message(kind: Any) -> Callable[[bytes], object]:
    return lambda content: messages.decode(kind, content)


def of_frame(kind: Any) -> Callable[[bytes], object]:
    def call(content: bytes) -> object:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.settimeout(5)
            theirs.sendall(content[:60_000])
            theirs.shutdown(socket.SHUT_WR)
            return frames.receive(ours, kind)

    return call


def framed(frame: msgspec.Struct) -> bytes:
    content = msgspec.msgpack.encode(frame)
    return len(content).to_bytes(4, "big") + content


class Key:
    """Says of every certificate that it is another's."""

    key_id = "0" * 64

    def signing_request(self, _device: str, _encryption_key: bytes) -> str:
        return ""

    def certifies(self, _certificate: object) -> bool:
        return False

    def sign(self, _content: bytes) -> bytes:
        return b""


def open_renewal(content: bytes) -> object:
    class Disk:
        def read(self, _path: str, _limit: int) -> bytes:
            return b"no certificate"

    with pytest.MonkeyPatch.context() as network:
        network.setattr(renewal, "post", lambda *_, **__: Answer(200, content))
        key: Any = Key()
        disk: Any = Disk()
        return renewal.renew(disk, server="http://localhost", device="pi-1", key=key)


def open_waiting(content: bytes) -> object:
    return enrol._check_waiting(content)


def open_problem(content: bytes) -> object:
    return server_request._refusal(400, content)


def open_answer(content: bytes) -> object:
    """As of a man in the middle who holds the token, so that the whole answer is looked at."""
    token = enrolment.Token("0" * 16, "x" * 43)
    attempt = enrol._Attempt(
        device="pi-1",
        key=Key(),  # type: ignore[arg-type]
        token=token,
        authority=None,
        encryption_key=b"",
        server_ca="",
    )
    mac = enrolment.reply_mac(
        enrolment.key_of(token.secret), nonce="", enrolment=content.decode("utf-8", "replace")
    )
    with contextlib.suppress(Refused):
        attempt.open(Answer(200, content))  # as it is
    reply = {"enrolment": content.decode("utf-8", "replace"), "mac": mac, "signature": ""}
    return attempt.open(Answer(200, json.dumps(reply).encode()))


CASES = json.loads((Path(__file__).parents[1] / "vectors" / "messages.json").read_text())["cases"]
FIELDS: dict[str, Any] = {
    "at": "2026-01-01T00:00:00Z", "until": "2026-01-01T00:00:00Z", "device": "pi-1", "boot": 1,
    "seq": 2, "root": 3, "slot": "har", "order": 4, "nonce": "0" * 32, "version": "1",
    "variant": "int8", "manifest": BUNDLE.digest, "before": "idle", "event": "ordered",
    "after": "refreshing", "reason": {"code": "order.device", "detail": "x"}, "online": True,
    "blob": BUNDLE.digest, "chunks": [-1, 0], "job": "0" * 16, "counter": 5, "request": 5,
    "issued_at": "2026-01-01T00:00:00Z", "expires_at": "2026-01-01T00:00:00Z", "model": "har",
    "candidates": [{"variant": "int8", "target": "x", "manifest": BUNDLE.digest}], "runs": 7,
    "done": 0, "verdict": "ok", "kind": "logs", "upload": BUNDLE.digest, "length": 1,
    "media_type": "application/x-ndjson+gzip", "request_id": "order-7", "label": "walking",
    "follow": "0" * 16, "for_s": 60, "number": 1, "first": 1, "lines": [],
}  # fmt: skip


def sample_of(kind: Any) -> tuple[bytes, ...]:
    """Return a message with the fields that it must have."""
    fields = [field.name for field in msgspec.structs.fields(kind) if field.required]
    return (json.dumps({name: FIELDS[name] for name in fields}).encode(),)


BLOB = BUNDLE.blobs[max(BUNDLE.blobs, key=lambda digest: len(BUNDLE.blobs[digest]))]
CUT = [BLOB[at : at + chunks.CHUNK_BYTES] for at in range(0, len(BLOB), chunks.CHUNK_BYTES)]
INDEX = chunks.make_index(CUT)
PULL = json.loads((Path(__file__).parents[1] / "vectors/pulls.json").read_text())[
    "authorization"
].encode()
ORDER = messages.encode(make_order(1, [BUNDLE]))
ENVELOPE = envelopes.encode_envelope(
    envelopes.Envelope(
        payload_type=messages.ORDER_PAYLOAD_TYPE,
        payload=ORDER,
        signatures=(envelopes.Signature(keyid="a" * 64, sig=b"x" * 64),),
    )
)
MESSAGES: tuple[Any, ...] = (
    messages.Ack, messages.MetadataHead, uploads.UploadWanted, *messages.REQUEST_PAYLOAD_TYPES,
    *messages.PAYLOAD_TYPES,
)  # fmt: skip

DELTA_CASES = json.loads((Path(__file__).parents[1] / "vectors/deltas.json").read_text())["cases"]
DELTA_CASE = DELTA_CASES[4]
STEPS_CASE = next(case for case in DELTA_CASES if case["name"] == "steps by row")
STEPS_BASE = bytes.fromhex(STEPS_CASE["base_hex"])
STEPS_DIGEST = hashlib.sha256(bytes.fromhex(STEPS_CASE["target_hex"])).digest()
DELTA_BASE = bytes.fromhex(DELTA_CASE["base_hex"])
DELTA_DIGEST = hashlib.sha256(bytes.fromhex(DELTA_CASE["target_hex"])).digest()
DELTAS = (bytes.fromhex(DELTA_CASE["delta_hex"]),)
DELTA_HEADER, DELTA_START = delta_programs.parse_header(DELTAS[0])
PROGRAMS = (unpack(DELTAS[0][DELTA_START:][:DELTA_HEADER.packed_bytes],
                   DELTA_HEADER.program_bytes),)  # fmt: skip


def of_program(content: bytes) -> object:
    header = DELTA_HEADER._replace(program_bytes=len(content))
    return delta_programs.parse_program(content, header)


def of_packets(content: bytes) -> object:
    """As they come in pieces."""
    buffer = PacketBuffer()
    return [buffer.feed(content[:7]), buffer.feed(content[7:])]


def of_pieces(content: bytes) -> object:
    """As the agent reads them."""
    buffer = packets.PacketBuffer(100_000, long_bytes=100)
    found = []
    while content:
        room = buffer.room()
        size = min(len(room), len(content))
        room[:size], content = content[:size], content[size:]
        buffer.came(size)
        while (taken := buffer.take()) is not None:
            found.append(packets.read_piece(*taken, b"a/"))
    return found


PACKETS = (
    mqtt5.ConnAckPacket(receive_max=20).write(),
    mqtt5.PublishPacket("a/b", b"x" * 300, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=7).write(),
    mqtt5.PubAckPacket(7).write() + mqtt5.PingRespPacket().write(),
    b"\x42\x02\xc3\xbf",
)

LOOSE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
PROTOCOL = (ProtocolError,)
DECODERS = (
    *(Decoder(f"messages.decode:{kind.__name__}", of_message(kind), PROTOCOL, sample_of(kind))
      for kind in MESSAGES),
    Decoder("messages.decode", of_message(messages.Order), PROTOCOL,
            (ORDER, *(case["json"].encode() for case in CASES if case.get("json")))),
    Decoder("chunks.parse_index",
            lambda content: chunks.parse_index(
                content, digest=names.digest_of(INDEX), length=len(BLOB)), PROTOCOL, (INDEX,)),
    Decoder("delta_programs.parse_header", delta_programs.parse_header, PROTOCOL, DELTAS),
    Decoder("delta_programs.parse_program", of_program, PROTOCOL, PROGRAMS),
    Decoder("edgectl_delta.decoder.apply_bytes",
            lambda content: apply_bytes(content, DELTA_BASE, DELTA_DIGEST), PROTOCOL, DELTAS),
    Decoder("edgectl_delta.decoder.apply_bytes in steps",
            lambda content: apply_bytes(content, STEPS_BASE, STEPS_DIGEST), PROTOCOL,
            (bytes.fromhex(STEPS_CASE["delta_hex"]),)),
    Decoder("envelopes.decode_envelope",
            lambda content: envelopes.decode_envelope(
                content, bytes_max=messages.MESSAGE_BYTES_MAX), PROTOCOL, (ENVELOPE,)),
    Decoder("pulls.parse_pull", of_text(pulls.parse_pull), PROTOCOL, (PULL,)),
    Decoder("ranges.wanted_span", of_text(
            lambda text: ranges.wanted_span({"range": text, "if-range": text}, 100, text)),
            (ranges.Unsatisfiable,), (b"bytes=0-9",)),
    Decoder("edgectl_agent.core.pulling.starts_at", of_text(
            lambda text: pulling.starts_at(
                206, {"Content-Range": text},
                pulling.Span(0, 10), 100)),
            (pulling.BadAnswer,), (b"bytes 0-9/100",)),
    Decoder("manifest.decode_manifest", manifest.decode_manifest, PROTOCOL, (BUNDLE.manifest,)),
    Decoder("manifest.decode_config", manifest.decode_config, PROTOCOL,
            (msgspec.json.encode(BUNDLE.config),)),
    Decoder("samples.read_sample_head",
            lambda content: samples.read_sample_head(
                content[:samples.SAMPLE_HEAD_BYTES_MAX], len(content)), PROTOCOL, (SAMPLE,)),
    Decoder("samples.read_sample_parts", samples.read_sample_parts, PROTOCOL, (SAMPLE,)),
    Decoder("sealed_samples.read_sealed_head",
            lambda content: sealed_samples.read_sealed_head(
                content[:sealed_samples.SEALED_HEAD_BYTES_MAX], len(content)),
            PROTOCOL, (SEALED_SAMPLE,)),
    Decoder("sealed_samples.open_sample",
            lambda content: sealed_samples.open_sample(content, lambda seal, _: seal[32:-16]),
            PROTOCOL, (SEALED_SAMPLE,)),
    Decoder("watching.decode_reference", watching.decode_reference, PROTOCOL, (REFERENCE,)),
    Decoder("watching.decode_watched", watching.decode_watched, PROTOCOL,
            (msgspec.json.encode(watching.watched_of(watching.decode_reference(REFERENCE))),)),
    Decoder("metadata.parse_metadata_file", of_text(metadata.parse_metadata_file), PROTOCOL,
            (b"1.root.json", b"timestamp.json", b"12.bin-3f.json")),
    Decoder("metadata.check_family", of_text(metadata.check_family), PROTOCOL, (b"vision",)),
    Decoder("names.check_device_id", of_text(names.check_device_id), PROTOCOL, (b"pi-1",)),
    Decoder("names.check_model_name", of_text(names.check_model_name), PROTOCOL, (b"vision",)),
    Decoder("names.check_version", of_text(names.check_version), PROTOCOL, (b"1.0",)),
    Decoder("names.check_variant", of_text(names.check_variant), PROTOCOL, (b"int8",)),
    Decoder("names.check_group_name", of_text(names.check_group_name), PROTOCOL, (b"site-a",)),
    Decoder("names.check_digest", of_text(names.check_digest), PROTOCOL,
            (BUNDLE.digest.encode(),)),
    Decoder("names.check_metadata_role", of_text(names.check_metadata_role), PROTOCOL,
            (b"vision",)),
    Decoder("topics.parse_up", of_text(topics.parse_up), PROTOCOL,
            (topics.state("pi-1").encode(),)),
    Decoder("uploads.decode_upload_chunk", uploads.decode_upload_chunk, PROTOCOL,
            (uploads.encode_upload_chunk(BUNDLE.digest, 3, b"x" * 100),)),
    Decoder("enrolment.parse_token", of_text(enrolment.parse_token), PROTOCOL,
            (b"ee_" + b"0" * 16 + b"_" + b"x" * 43,)),
    Decoder("enrolment.parse_fingerprint", of_text(enrolment.parse_fingerprint), PROTOCOL,
            (enrolment.format_fingerprint("0" * 64).encode(),)),
    Decoder("requirements.parse_requirement", of_text(requirements.parse_requirement), PROTOCOL,
            (b"size<=200kB", b"latency_p95<=5ms")),
    Decoder("requirements.parse_requirements",
            of_text(lambda text: requirements.parse_requirements(text.split())), PROTOCOL,
            (b"size<=200kB accuracy>=0.9",)),
    Decoder("audit.decode_line", audit.decode_line, PROTOCOL,
            (b'{"export": {"format": "edgectl-audit-1", "exported_at": ""}}',)),
    Decoder("edgectl_agent.trust.verifier.parse_envelope", parse_envelope, (Refused,),
            (ENVELOPE,)),
    Decoder("edgectl_agent.enrol: the server's answer", open_answer, (Refused,),
            (b'{"enrolment": "{}", "mac": "' + b"0" * 64 + b'", "signature": ""}',)),
    Decoder("edgectl_agent.enrol: waiting for approval", open_waiting, (Refused,),
            (b'{"fingerprint": "00"}',)),
    Decoder("edgectl_agent.renewal: the server's answer", open_renewal, (Refused,),
            (b'{"renewal": "{}", "signature": "00"}',)),
    Decoder("edgectl_agent.server_request: a problem", open_problem, (),
            (b'{"code": "enrol.token", "detail": "x"}',)),
    Decoder("edgectl_agent.core.record.decode_record", decode_record, PROTOCOL,
            (msgspec.json.encode(EMPTY),)),
    Decoder("edgectl_agent.core.record.decode_pointers", decode_pointers, PROTOCOL,
            (msgspec.json.encode(SlotPointers()),)),
    Decoder("edgectl_agent.core.requests.decode_request_record", decode_request_record, PROTOCOL,
            (b'{"counter": 1}',)),
    Decoder("edgectl_agent.inference.hub_messages.decode_from_application",
            hub_messages.decode_from_application, LOOSE,
            (msgspec.json.encode(hub_messages.Follow(hub=1, slot="a")),)),
    Decoder("edgectl_agent.inference.hub_messages.decode_from_hub", hub_messages.decode_from_hub,
            LOOSE, (msgspec.json.encode(hub_messages.Waiting()),)),
    Decoder("edgectl_agent.local_messages.decode_request", local_messages.decode_request, PROTOCOL,
            (msgspec.json.encode(local_messages.Status()),)),
    Decoder("edgectl_agent.local_messages.decode_answer", local_messages.decode_answer, PROTOCOL,
            (b"{}",)),
    Decoder("edgectl_agent.hold_file.decode_holds", hold_file.decode_holds, (), (b"", b"{}")),
    Decoder("offline.decode_index", offline.decode_index, PROTOCOL, (index_of(BUNDLE),)),
    Decoder("windows.parse_windows", of_text(windows.parse_windows), PROTOCOL,
            (b"mon-fri 02:00-04:00",)),
    Decoder("frames, from the process",
            of_frame(frames.Want | frames.Found | frames.Failed), (OSError, ValueError),
            (framed(frames.Want("root", 1)), framed(frames.Found(1, 1, 1)))),
    Decoder("frames, to the process", of_frame(frames.Question), (OSError, ValueError),
            (framed(frames.CheckOrder(ORDER)), framed(frames.CheckRequest(ORDER)))),
    Decoder("edgectl_agent.core.packets.read_piece", of_pieces, (packets.PacketTooLong,), PACKETS),
    Decoder("edgectl_simulator.link: packets", of_packets, (LinkFailed,), PACKETS),
    Decoder("edgectl_simulator.trust: a root", of_text(parse_order_keys), (SimulatorError,),
            (b'{"signed": {"x-edgectl-order-keys": {"k": {"keytype": "ed25519", "keyval": '
             b'{"public": "' + b"00" * 32 + b'"}}}}}',)),
    Decoder("edgectl_simulator.profiles: a file",
            lambda content: read_profiles(content, "mine.toml"), (Misused,),
            (b"[mine]\nslow = { share = 0.5, factor = 2 }\n",)),
    Decoder("edgectl_simulator.plan: a plan", read_plan, (Misused,),
            (b'{"server": "http://x", "folder": "x", "devices": 1}',)),
)  # fmt: skip

NOT_FROM_THE_NETWORK = {
    "edgectl_agent.http_pull.parse_address": "the person who starts the agent",
    "edgectl_agent.redaction_steps.parse_steps": "the person who starts the agent",
    "edgectl_agent.settings.parse_labels": "the person who starts the agent",
    "edgectl_agent.commands.asking.parse_duration": "the person at the device",
    "edgectl_agent.flows.addresses.parse_address": "the person at the device",
    "edgectl_agent.flows.images.decode_picture": "tests/agent/sdk/test_flows.py",
    "edgectl_agent.key_uri.parse_key_uri": "the person who starts the agent",
    "edgectl_agent.inference.control.decode_command": "the supervisor",
    "edgectl_agent.inference.protocol.parse_call": "tests/agent/inference/test_inference_fuzz.py",
}


def found_decoders() -> set[str]:
    """Return every public function of the protocol and the agent that looks like a decoder."""
    found = set()
    for package in (edgectl_protocol, edgectl_agent):
        for module_info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module_info.name.endswith("__main__"):
                continue
            module = importlib.import_module(module_info.name)
            for name, member in vars(module).items():
                own = inspect.isfunction(member) and member.__module__ == module.__name__
                if own and re.match(r"(decode|parse)(_|$)", name):
                    found.add(f"{module_info.name}.{name}".removeprefix("edgectl_protocol."))
    return found


def test_every_decoder_is_listed() -> None:
    found = found_decoders()
    assert {"messages.decode", "edgectl_agent.trust.verifier.parse_envelope"} <= found
    listed = {decoder.name for decoder in DECODERS}
    missing = found - listed - set(NOT_FROM_THE_NETWORK)
    assert not missing, "add them to DECODERS, or say why no stranger's bytes reach them"
    gone = set(NOT_FROM_THE_NETWORK) - found
    assert not gone, gone


NASTY = st.sampled_from([
    b"", b"\0", b"\xff", b"\xed\xa0\x80", b"null", b"true", b"-1", b"1e999", b"NaN", b"9" * 5000,
    b"[" * 50_000, b'{"a":' * 20_000, b'"' + b"a" * 100_000 + b'"', b'"\\ud800"', b"9" * 20,
    b"1.5", b"\n", b" ", b"{}", b"[]", b'"' + b"\\u0000" * 100 + b'"', b"../", b"\xc4\xb1", b"%00",
])  # fmt: skip


@st.composite
def almost(draw: st.DrawFn, samples: tuple[bytes, ...]) -> bytes:
    """Something that was right, with a few places replaced, cut out or repeated."""
    content = draw(st.sampled_from(samples))
    for _ in range(draw(st.integers(0, 3))):
        begin = draw(st.integers(0, len(content)))
        end = min(len(content), begin + draw(st.integers(0, 40)))
        piece = draw(NASTY | st.binary(max_size=8) | st.just(content[begin:end] * 2))
        content = content[:begin] + piece + content[end:]
    return content[:400_000]


@st.composite
def rewritten(draw: st.DrawFn, samples: tuple[bytes, ...]) -> bytes:
    """Well-formed JSON, with a value somewhere replaced by another one."""
    content = draw(st.sampled_from(samples))
    try:
        document = json.loads(content)
    except ValueError:
        return draw(st.binary(max_size=300))
    holder, key = {"": document}, ""
    while isinstance(holder[key], dict | list) and holder[key] and draw(st.booleans()):
        inner = holder[key]
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        holder, key = inner, draw(st.sampled_from(keys))
    holder[key] = draw(VALUES)
    return json.dumps(document).encode()


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=30)
    | st.sampled_from(["a" * 5000, "sha256:" + "0" * 64, "2026-01-01T00:00:00Z", "../../x", 2**63]),
    lambda inner: (
        st.lists(inner, max_size=40) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=40,
)


@pytest.fixture(scope="module", autouse=True)
def tables_of_characters() -> None:
    """Have hypothesis make its tables: 200 MB in a fresh checkout, and not a decoder's."""

    @settings(max_examples=1, database=None)
    @given(st.text(min_size=1))
    def run(text: str) -> None:
        assert text

    run()


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.name)
def test_a_decoder_accepts_or_refuses(decoder: Decoder) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @settings(
        max_examples=EXAMPLES,
        deadline=EXAMPLE_BOUND,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(almost(decoder.samples) | rewritten(decoder.samples) | st.binary(max_size=300) | NASTY)
    def run(content: bytes) -> None:
        try:
            decoder.call(content)
        except decoder.errors:
            return

    run()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < MEMORY_BYTES_MAX, f"{grown} bytes of memory"


ACCEPTED_NOWHERE = frozenset({
    "edgectl_agent.enrol: the server's answer",  # these need certificates: test_enrol.py has them
    "edgectl_agent.renewal: the server's answer",
})  # fmt: skip


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.name)
def test_a_decoder_accepts_its_sample(decoder: Decoder) -> None:
    """Otherwise what is almost right would be nowhere near."""
    if decoder.name in ACCEPTED_NOWHERE:
        with pytest.raises(decoder.errors):
            decoder.call(decoder.samples[0])
    else:
        decoder.call(decoder.samples[0])
