"""A real agent against a broker that lies about metadata: each lie is refused, told and signed.

What comes as an order is in test_agent_process.py, altered chunks in tests/e2e.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta

from msgspec import structs

from agent.core.control_plane import ControlPlane
from agent.core.device import Device
from agent.core.made import make_order, simple_bundle
from edgectl_protocol import topics
from edgectl_protocol.messages import Order, UpdatePolicy
from edgectl_protocol.names import digest_of
from edgectl_server.signing.repository import Target

ONCE = UpdatePolicy(observe_s=0.5, retry_delay_s_max=1.0, attempts_max=1)
TIMESTAMP = topics.metadata("timestamp", None)


def timestamp(plane: ControlPlane) -> bytes:
    (content,) = [
        content for role, _, content in plane.repository.metadata() if role == "timestamp"
    ]
    return content


def test_every_lie_about_metadata_is_told(
    plane: ControlPlane, make_device: Callable[..., Device]
) -> None:
    plane.publish_metadata()
    first = timestamp(plane)
    device = make_device()
    device.start()
    device.wait("connected")
    counter = 0

    def order(**changes: object) -> Order:
        nonlocal counter
        counter += 1
        bundle = simple_bundle(str(counter))
        made = make_order(counter, [bundle], at=plane.now, policy=ONCE)
        plane.order(structs.replace(made, **changes))
        return made

    def told(code: str) -> None:
        event = plane.wait("security", lambda one: one["reason"]["code"] == code)
        assert (event["device"], event["order"]) == ("pi-1", counter)
        update = plane.wait_state("pi-1", "activity", "failed", order=counter)
        assert update["slots"]["activity"].get("running") is None

    order()  # of a version that is not signed for
    told("trust.target")

    bundle = simple_bundle("right")
    plane.release(bundle)
    wrong = structs.replace(bundle.candidate, manifest=digest_of(b"another"))
    slots = make_order(1, [bundle], at=plane.now).slots
    order(slots={"activity": structs.replace(slots["activity"], candidates=(wrong,))})
    plane.wait("security", lambda one: one["reason"]["code"] == "trust.mismatch")
    plane.wait_state("pi-1", "activity", "rejected", order=counter)

    plane.publish(TIMESTAMP, first)  # the oldest one that there is
    order()
    told("trust.rollback")

    content = timestamp(plane)
    forged = json.loads(content)
    forged["signed"]["version"] += 1
    plane.publish(TIMESTAMP, json.dumps(forged).encode())
    order()
    told("trust.refused")

    path = simple_bundle("late").candidate.target
    plane.repository.add_targets([Target(path, digest_of(b"x"), 1)], plane.now - timedelta(days=90))
    plane.publish_metadata()
    order()
    told("trust.expired")
    assert device.stop() == 0
