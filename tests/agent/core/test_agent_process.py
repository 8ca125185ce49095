"""The agent as a process, against a real broker, real signatures and real models."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from agent.core.control_plane import ControlPlane
from agent.core.device import Device
from agent.core.made import MadeBundle, make_bundle, make_order
from agent.inference import models
from edgectl_protocol import topics
from edgectl_protocol.manifest import MODEL_FILES, decode_manifest, layer_by_file
from edgectl_protocol.messages import UpdatePolicy
from edgectl_protocol.names import digest_of
from waiting import wait_for

both_brokers = pytest.mark.parametrize(
    "plane",
    ["embedded", pytest.param("mosquitto", marks=pytest.mark.mosquitto)],
    indirect=True,
)
MakeDevice = Callable[..., Device]
QUICK = UpdatePolicy(observe_s=0.5, retry_delay_s_max=1.0, attempts_max=2)


def activity_bundle(directory: Path, version: str = "1", **config: object) -> MadeBundle:
    """The real activity model, packed."""
    made = models.make_bundle(directory, version=version, scores=True, **config)  # type: ignore[arg-type]
    return make_bundle(made.config, Path(made.model).read_bytes(), Path(made.golden).read_bytes())


def offered(plane: ControlPlane, bundle: MadeBundle) -> MadeBundle:
    """Release the bundle and order the device to run it."""
    plane.release(bundle)
    plane.order(make_order(1, [bundle], at=plane.now, policy=QUICK))
    return bundle


def started(make_device: MakeDevice) -> Device:
    device = make_device()
    device.start()
    return device


def infer(endpoint: str) -> tuple[int, int]:
    """Ask for the class of the first real window; return status and class."""
    client = models.Client(endpoint)
    window = models.activity()[0][:1]
    body = {
        "inputs": [
            {
                "name": "input",
                "shape": list(window.shape),
                "datatype": "FP32",
                "data": window.ravel().tolist(),
            }
        ]
    }
    status, answer = client.call("POST", "/v2/models/activity/infer", body)
    client.close()
    return status, int(np.argmax(answer["outputs"][0]["data"])) if status == 200 else -1


def model_digest(bundle: MadeBundle) -> str:
    return layer_by_file(decode_manifest(bundle.manifest), MODEL_FILES["onnx"]).digest


@both_brokers
def test_from_enrolment_to_a_prediction(
    plane: ControlPlane, make_device: MakeDevice, tmp_path: Path
) -> None:
    bundle = activity_bundle(tmp_path)
    plane.release(bundle)
    plane.order(make_order(1, [bundle], at=plane.now, policy=QUICK, rollout="r1"))
    device = started(make_device)
    report = plane.wait_state("pi-1", "activity", "committed")
    assert report["slots"]["activity"]["running"]["manifest"] == bundle.digest
    assert report["slots"]["activity"]["update"]["trial"]["golden_passed"] == 16
    status, got = infer(report["endpoint"])
    assert (status, got) == (200, int(models.activity()[1][0]))
    # Every transition is told, in order, under growing numbers, and acknowledged.
    plane.wait("event", lambda event: event["after"] == "committed")
    events = plane.of("event")
    assert [event["after"] for event in events] == [
        *("refreshing", "downloading", "verifying", "trial", "activating", "observing"),
        "committed",
    ]
    assert all(event["rollout"] == "r1" for event in events)
    numbers = [event["seq"] for event in events]
    assert numbers == sorted(set(numbers))
    # Telemetry counts what was asked.
    plane.wait("telemetry", lambda batch: any(one["requests"] for one in batch.get("windows", [])))
    # What came over the wire is what was signed, once.
    received = device.wait("transition", after="verifying")["bytes_received"]
    assert received <= 1.05 * sum(map(len, bundle.blobs.values()))
    assert device.rss_bytes() < 45e6
    maps = Path(f"/proc/{device.pid}/maps").read_text()
    assert "cryptography" not in maps, "it is loaded by what an idle device does not do"
    assert stored_privately(device.state)
    assert device.stop() == 0
    plane.wait("state", lambda one: not one["online"] and one["seq"] > report["seq"])


def stored_privately(state: Path) -> bool:
    key = state / "identity" / "key.pem"
    return key.stat().st_mode & 0o077 == 0 and state.stat().st_mode & 0o077 == 0


@both_brokers
def test_killed_in_the_middle_of_a_download_it_resumes(
    plane: ControlPlane, make_device: MakeDevice, tmp_path: Path
) -> None:
    bundle = activity_bundle(tmp_path)
    held_back = [topics.chunk(model_digest(bundle), number) for number in (3, 6)]
    plane.release(bundle)
    for topic in held_back:
        plane.publish(topic, b"")
    plane.order(make_order(1, [bundle], at=plane.now, policy=QUICK))
    device = started(make_device)
    # The chunks that are missing are asked for; all the others are there then.
    plane.wait("seed", lambda seed: set(seed["chunks"]) >= {3, 6}, timeout_s=20)
    device.kill()
    plane.wait("state", lambda one: not one["online"])  # the last will
    for topic in held_back:
        plane.publish(topic, bundle.retained[topic])
    device.start()
    plane.wait_state("pi-1", "activity", "committed")
    assert device.wait("ready")
    received = device.wait("transition", after="verifying")["bytes_received"]
    assert received < len(bundle.blobs[model_digest(bundle)])
    assert plane.of("event")[-1]["boot"] == 2
    assert device.stop() == 0


@both_brokers
def test_an_altered_chunk_is_named_and_the_old_model_serves(
    plane: ControlPlane, make_device: MakeDevice, tmp_path: Path
) -> None:
    old = offered(plane, activity_bundle(tmp_path))
    device = started(make_device)
    endpoint = plane.wait_state("pi-1", "activity", "committed")["endpoint"]
    (tmp_path / "new.onnx").write_bytes(_edited_model())
    new = activity_bundle(tmp_path, "2", model=tmp_path / "new.onnx")
    topic = topics.chunk(model_digest(new), 2)
    plane.release(new)
    plane.publish(topic, b"?" + new.retained[topic][1:])
    plane.order(make_order(2, [new], at=plane.now, policy=QUICK))
    failed = plane.wait_state("pi-1", "activity", "failed", attempt=2)
    reason = failed["slots"]["activity"]["update"]["reason"]
    assert reason["code"] == "transfer.chunk_altered"
    assert f"chunk 2 of {model_digest(new)}" in reason["detail"]
    plane.wait("seed", lambda seed: seed.get("refused") == [2])
    assert failed["slots"]["activity"]["running"]["manifest"] == old.digest
    assert "rejected" not in failed
    assert infer(endpoint)[0] == 200
    plane.publish(topic, new.retained[topic])
    plane.order(make_order(3, [new], at=plane.now, policy=QUICK))
    report = plane.wait_state("pi-1", "activity", "committed", version="2")
    assert report["slots"]["activity"]["previous"]["manifest"] == old.digest
    assert device.stop() == 0


def _edited_model() -> bytes:
    """The activity model with another name of its producer: other bytes, the same function."""
    import onnx

    model = onnx.load(models.HAR)
    model.producer_name = "somebody else"
    return model.SerializeToString()


def test_a_candidate_that_fails_its_trial_gives_way_to_the_next(
    plane: ControlPlane, make_device: MakeDevice, tmp_path: Path
) -> None:
    wrong_outputs = {"logits": np.zeros((16, 6), np.float32)}
    session_output = models.make_bundle(tmp_path).config.outputs[0].name
    wrong = activity_bundle(
        tmp_path,
        variant="int8",
        golden_outputs={session_output: wrong_outputs["logits"]},
    )
    right = activity_bundle(tmp_path, variant="fp32")
    plane.release(wrong, right)
    plane.order(make_order(1, [wrong, right], at=plane.now, policy=QUICK))
    device = started(make_device)
    report = plane.wait_state("pi-1", "activity", "committed")
    assert report["slots"]["activity"]["running"]["variant"] == "fp32"
    assert report["rejected"] == [wrong.digest]
    assert device.stop() == 0


def test_orders_that_are_not_ours_are_refused(
    plane: ControlPlane, make_device: MakeDevice, tmp_path: Path
) -> None:
    bundle = activity_bundle(tmp_path)
    plane.release(bundle)
    device = started(make_device)
    device.wait("connected")
    topic = topics.order("pi-1")
    stranger = ControlPlaneKeys(tmp_path / "stranger")
    good = make_order(5, [bundle], at=plane.now, policy=QUICK)
    refused: Counter[str] = Counter()
    for payload, code in (
        (b"not json", "order.malformed"),
        (stranger.sign(good), "order.signature"),
        (b'{"payload": 1}', "order.malformed"),
        (altered(plane.orders.sign(good)), "order.signature"),
        (plane.orders.sign(make_order(5, [bundle], device="pi-2")), "order.device"),
        (
            plane.orders.sign(make_order(5, [bundle], at=plane.now - timedelta(days=9))),
            "order.expired",
        ),
    ):
        plane.publish(topic, payload)
        refused[code] += 1  # of two orders that come at once, the newer alone is read
        device.wait("refused", times=refused[code], code=code)
    plane.order(good)
    plane.wait_state("pi-1", "activity", "committed")
    plane.publish(topic, plane.orders.sign(make_order(4, [bundle], at=plane.now)))
    device.wait("refused", code="order.replayed")
    # Each kind is told at once; what comes again within minutes is counted, and told at the end.
    once = {"order.device", "order.expired", "order.replayed"}
    for code in (*once, "order.malformed", "order.signature"):
        plane.wait("security", lambda one, code=code: one["reason"]["code"] == code)
    assert told_times(plane) == Counter({*once, "order.malformed", "order.signature"})
    assert device.stop() == 0
    device.start()
    wait_for(lambda: told_times(plane) == refused | Counter(["order.replayed"]))
    assert device.stop() == 0


def told_times(plane: ControlPlane) -> Counter[str]:
    """How often each code has happened during the first start of the agent, as far as is told."""
    times: Counter[str] = Counter()
    for one in {(one["boot"], one["seq"]): one for one in plane.of("security")}.values():
        if one["boot"] == 1:
            code = one["reason"]["code"]
            times[code] += one.get("count", 1)
    return times


class ControlPlaneKeys:
    """Somebody else's keys."""

    def __init__(self, directory: Path) -> None:
        from edgectl_server.signing.keys import Keys
        from edgectl_server.signing.orders import OrderSigner

        self.sign = OrderSigner(Keys.open(directory)).sign


def altered(envelope: bytes) -> bytes:
    """Change the counter inside a signed envelope."""
    import base64

    content = json.loads(envelope)
    order = json.loads(base64.b64decode(content["payload"]))
    order["counter"] += 1
    content["payload"] = base64.b64encode(json.dumps(order).encode()).decode()
    return json.dumps(content).encode()


def test_an_order_of_something_that_is_not_signed_for_is_not_obeyed(
    plane: ControlPlane, make_device: MakeDevice, tmp_path: Path
) -> None:
    bundle = activity_bundle(tmp_path)
    other = activity_bundle(tmp_path, variant="other")
    plane.release(bundle)
    plane.release(other, chunks=True)
    order = make_order(1, [bundle], at=plane.now, policy=QUICK)
    slot = order.slots["activity"]
    from msgspec import structs

    lying = structs.replace(slot.candidates[0], manifest=other.digest)
    order.slots["activity"] = structs.replace(slot, candidates=(lying,))
    plane.order(order)
    device = started(make_device)
    report = plane.wait_state("pi-1", "activity", "rejected")
    assert report["slots"]["activity"]["update"]["reason"]["code"] == "trust.mismatch"
    assert device.stop() == 0


@both_brokers
def test_without_a_broker_it_serves_what_it_has_and_comes_back(
    plane: ControlPlane, make_device: MakeDevice, tmp_path: Path
) -> None:
    bundle = offered(plane, activity_bundle(tmp_path))
    device = started(make_device)
    plane.wait_state("pi-1", "activity", "committed")
    plane.broker.stop()
    device.wait("disconnected")
    device.kill()
    device.start()
    ready = device.wait("ready")
    assert infer(ready["endpoint"]) == (200, int(models.activity()[1][0]))
    plane.start_broker_again()
    plane.order(make_order(2, [bundle], at=plane.now, policy=QUICK))
    device.wait("connected")
    plane.wait("state", lambda one: one.get("order_counter") == 2)
    assert device.stop() == 0


def test_a_damaged_model_is_not_served_and_is_fetched_again(
    plane: ControlPlane, make_device: MakeDevice, tmp_path: Path
) -> None:
    bundle = offered(plane, activity_bundle(tmp_path))
    device = started(make_device)
    plane.wait_state("pi-1", "activity", "committed")
    assert device.stop() == 0
    blob = device.state / "blobs" / "sha256" / model_digest(bundle).removeprefix("sha256:")
    content = bytearray(blob.read_bytes())
    content[1000] ^= 4
    blob.write_bytes(content)
    device.start()
    device.wait("transition", after="committed")
    assert digest_of(blob.read_bytes()) == model_digest(bundle)
    assert device.stop() == 0


def test_the_inference_process_is_started_again_when_it_dies(
    plane: ControlPlane, make_device: MakeDevice, tmp_path: Path
) -> None:
    import psutil

    offered(plane, activity_bundle(tmp_path))
    device = started(make_device)
    plane.wait_state("pi-1", "activity", "committed")
    children = psutil.Process(device.pid).children()
    (child,) = (one for one in children if "edgectl_agent.inference" in one.cmdline())
    child.kill()
    device.wait("inference-died")

    def served_again() -> bool:
        with contextlib.suppress(OSError):  # the port is that of the dead process, or none yet
            return infer(plane.of("state")[-1]["endpoint"])[0] == 200
        return False

    wait_for(served_again, "the model served by another process")
    assert device.stop() == 0
    assert not child.is_running()


def test_two_agents_on_one_state_directory(
    plane: ControlPlane, make_device: MakeDevice, tmp_path: Path
) -> None:
    device = started(make_device)
    device.wait("connected")
    second = Device(plane.url, plane.token_text, device.state)
    second.start()
    assert second._process is not None
    assert second._process.wait(20) == 1
    second.kill()
    assert "error[state.locked]" in second.errors()
    assert device.stop() == 0


@pytest.mark.parametrize("stop_after", ["downloading", "trial", "observing"])
def test_killed_at_a_state_it_goes_on(
    plane: ControlPlane, make_device: MakeDevice, tmp_path: Path, stop_after: str
) -> None:
    offered(plane, activity_bundle(tmp_path))
    device = started(make_device)
    device.wait("transition", after=stop_after)
    device.kill()
    device.start()
    report = plane.wait_state("pi-1", "activity", "committed")
    assert report["boot"] == 2
    assert device.stop() == 0
