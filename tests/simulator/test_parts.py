"""Spool, identities, gate, and which orders are believed."""

import asyncio
import json
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256

from edgectl_protocol.envelopes import (
    Envelope,
    Signature,
    decode_envelope,
    encode_envelope,
    signed_bytes,
)
from edgectl_protocol.messages import (
    MESSAGE_BYTES_MAX,
    ORDER_PAYLOAD_TYPE,
    Order,
    ReportedState,
    TelemetryBatch,
    encode,
)
from edgectl_protocol.metadata import ORDER_KEYS_FIELD
from edgectl_simulator.counts import Counts, quantile
from edgectl_simulator.errors import SimulatorError
from edgectl_simulator.gate import Gate
from edgectl_simulator.identities import Folder, make_key, signing_request
from edgectl_simulator.trust import CLOCK_SKEW_MAX, Trust, parse_order_keys, refuse
from edgectl_simulator.voice import RESEND_S, SPOOLED_MAX, Voice
from simulator.worlds import AT, make_order, wanted

DEVICE = "sim-00001"


# ---------------------------------------------------------------- what is said


def batch(voice):
    return TelemetryBatch(device=DEVICE, boot=voice.boot, seq=voice.next())


class Channel:
    """Takes what is published, up to `room`."""

    def __init__(self, room=1000):
        self.room, self.sent = room, []

    def __call__(self, topic, payload, retain):
        if len(self.sent) >= self.room:
            return False
        self.sent.append((topic, payload))
        return True


def make_voice():
    key = make_key()
    return Voice(DEVICE, key, 5, lambda _: None), key


def test_what_is_not_acknowledged_is_said_again_and_again_after_a_reconnect():
    voice, _ = make_voice()
    voice.keep(batch(voice))
    channel = Channel()
    voice.drain(0.0, channel)
    voice.drain(RESEND_S - 1, channel)
    assert len(channel.sent) == 1
    voice.drain(RESEND_S, channel)
    voice.reconnected()
    voice.drain(RESEND_S + 1, channel)
    assert len(channel.sent) == 3
    assert voice.acknowledged(5, 1)
    assert not voice.acknowledged(5, 1)
    voice.drain(10 * RESEND_S, channel)
    assert len(channel.sent) == 3


def test_a_spool_that_is_full_loses_its_oldest_telemetry():
    voice, _ = make_voice()
    for _ in range(SPOOLED_MAX + 3):
        voice.keep(batch(voice))
    assert voice.lost == 3
    assert not voice.acknowledged(5, 3)
    assert voice.acknowledged(5, 4)


def test_where_there_is_no_room_it_is_tried_again_later_and_not_at_once():
    voice, _ = make_voice()
    voice.keep(batch(voice))
    voice.drain(100.0, Channel(room=0))
    assert voice.resend_at_s() > 100.0


def test_everything_is_signed_with_the_device_s_key():
    voice, key = make_voice()
    state = ReportedState(device=DEVICE, boot=5, seq=1, online=True)
    _, payload = voice.sealed(state)
    envelope = decode_envelope(payload, bytes_max=MESSAGE_BYTES_MAX)
    content = signed_bytes(envelope.payload_type, envelope.payload)
    key.public_key().verify(envelope.signatures[0].sig, content, ec.ECDSA(SHA256()))


# ---------------------------------------------------------------- what is believed


def signed(order, key, *, keyid="k1", payload_type=ORDER_PAYLOAD_TYPE):
    payload = order if isinstance(order, bytes) else encode(order)
    signature = Signature(keyid=keyid, sig=key.sign(signed_bytes(payload_type, payload)))
    return encode_envelope(
        Envelope(payload_type=payload_type, payload=payload, signatures=(signature,))
    )


def root_with(key, keyid="k1"):
    public = key.public_key().public_bytes_raw().hex()
    listed = {keyid: {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": public}}}
    return json.dumps({"signed": {ORDER_KEYS_FIELD: listed}})


def opened(payload, root, *newer):
    asked = list(newer)

    async def ask_again():
        return asked.pop(0) if asked else root

    async def run():
        return await Trust(root, ask_again).open(payload)

    return asyncio.run(run())


def test_an_order_is_believed_by_its_signature():
    key = ed25519.Ed25519PrivateKey.generate()
    order = make_order(1, {"har": wanted(1)})
    assert opened(signed(order, key), root_with(key)) == order


def test_what_nobody_listed_has_signed_is_refused():
    key, thief = (ed25519.Ed25519PrivateKey.generate() for _ in range(2))
    order = make_order(1, {"har": wanted(1)})
    assert opened(signed(order, thief), root_with(key)).code == "order.signature"
    other = signed(order, key, payload_type="application/vnd.edgectl.other.v1+json")
    assert opened(other, root_with(key)).code == "order.malformed"
    altered = signed(order, key).replace(b"application/vnd", b"application/vne")
    assert opened(altered, root_with(key)).code == "order.malformed"
    assert opened(signed(b"{}", key), root_with(key)).code == "order.malformed"
    assert opened(b"x", root_with(key)).code == "order.malformed"


def test_keys_that_have_changed_are_asked_for_once():
    old, new = (ed25519.Ed25519PrivateKey.generate() for _ in range(2))
    order = make_order(1, {"har": wanted(1)})
    assert opened(signed(order, new, keyid="k2"), root_with(old), root_with(new, "k2")) == order


@pytest.mark.parametrize(
    "root",
    ["", "[]", "{}", '{"signed": 3}', '{"signed": {"x-edgectl-order-keys": [1]}}', "[" * 9999],
)
def test_a_root_that_is_none_is_an_error(root):
    with pytest.raises(SimulatorError):
        parse_order_keys(root)


def test_orders_that_a_device_does_not_obey():
    order = make_order(5, {"har": wanted(1)})
    assert refuse(order, DEVICE, 4, AT) is None
    assert refuse(order, "sim-00002", 4, AT).code == "order.device"
    assert refuse(order, DEVICE, 5, AT).code == "order.replayed"
    assert (
        refuse(order, DEVICE, 4, AT - CLOCK_SKEW_MAX - timedelta(seconds=1)).code == "order.clock"
    )
    assert refuse(order, DEVICE, 4, AT + timedelta(days=31)).code == "order.expired"


def test_the_judgement_is_that_of_real_devices():
    from edgectl_agent.core import orders
    from edgectl_agent.core.timing import Moment

    order: Order = make_order(5, {"har": wanted(1)})
    for days in range(-40, 80):
        for floor in (4, 5):
            at = AT + timedelta(days=days, seconds=1)
            theirs = orders.refuse(order, DEVICE, floor, Moment(wall=at, elapsed_s=0.0))
            ours = refuse(order, DEVICE, floor, at)
            assert (theirs and theirs.code) == (ours and ours.code)


# ---------------------------------------------------------------- the folder


def test_a_key_is_the_same_until_the_device_has_enrolled(tmp_path):
    with Folder.opened(tmp_path / "fleet") as folder:
        key = folder.key(DEVICE)
        assert folder.enrolled() == set()
        folder.fleet.runs = 3
        folder.save()
    with Folder.opened(tmp_path / "fleet") as folder:
        assert folder.key(DEVICE).private_numbers() == key.private_numbers()
        folder.keep(DEVICE, key, "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
        assert folder.enrolled() == {DEVICE}
        assert folder.identity(DEVICE)[1].private_numbers() == key.private_numbers()
        assert folder.fleet.runs == 3
    assert not list((tmp_path / "fleet").rglob("*.key"))
    assert not list((tmp_path / "fleet").rglob("*.new"))
    for file in (tmp_path / "fleet").rglob("*.*"):
        assert file.stat().st_mode & 0o077 == 0, file


def test_one_run_has_the_folder(tmp_path):
    with Folder.opened(tmp_path / "fleet"), pytest.raises(SimulatorError, match="another"):
        Folder.opened(tmp_path / "fleet").__enter__()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"runs": "x"}', b"\xff"])
def test_a_damaged_folder_is_said(tmp_path, content):
    (tmp_path / "fleet.json").write_bytes(content)
    with pytest.raises(SimulatorError) as caught:
        Folder.opened(tmp_path).__enter__()
    assert caught.value.code == "simulate.folder"


def test_a_file_in_the_folder_s_place_is_said(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(SimulatorError, match="cannot be used"):
        Folder.opened(tmp_path / "file").__enter__()


def test_a_signing_request_is_of_the_name(tmp_path):
    assert "BEGIN CERTIFICATE REQUEST" in signing_request(make_key(), DEVICE)


# ---------------------------------------------------------------- the gate, the sum


def test_the_gate_lets_through_in_order_and_no_faster_than_was_said():
    async def run():
        gate, loop, passed = Gate(200.0), asyncio.get_running_loop(), []
        begun = loop.time()

        async def one(number):
            await gate.wait()
            passed.append((number, loop.time() - begun))

        await asyncio.gather(*(one(number) for number in range(20)))
        return passed

    passed = asyncio.run(run())
    assert [number for number, _ in passed] == list(range(20))
    assert all(at >= number / 200 - 0.001 for number, at in passed)


def test_the_sum_of_a_run():
    counts = Counts()
    for number in range(100):
        counts.time(counts.order_s, float(number))
    counts.ended["committed"] += 2
    summary = counts.summary()
    assert summary["order_received_s"] == {"count": 100, "p50": 50.0, "p99": 99.0, "max": 99.0}
    assert summary["order_acknowledged_s"]["p50"] is None
    assert "2 committed" in counts.line()
    assert quantile([], 0.5) is None
