"""Samples from a real agent to a real server: what a client has asked is what an operator reads."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgectl.types import SamplePolicyChange
from edgectl_agent import Model, tell_outcome
from edgectl_protocol.samples import SAMPLE_HEAD_BYTES_MAX, read_sample_head
from waiting import wait_for

pytestmark = pytest.mark.e2e


def arrays_of(content: bytes) -> dict[str, Any]:
    """Read a file by the published description of safetensors."""
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    del header["__metadata__"]
    return {
        name: np.frombuffer(data[slice(*one["data_offsets"])], "<f4").reshape(one["shape"])
        for name, one in header.items()
    }


def test_each_reason_gives_what_it_says(start: Any, activity: Any, pushed_har: Path) -> None:
    """A real model with the reference that its push has made."""
    server = start.server(data=pushed_har)
    agent = start.agent(server, "pi-1")
    wanted = ["out-of-reference", "diverse", "asked"]
    server.client.put_sample_policy("har", SamplePolicyChange(bytes_per_day=10**9, reasons=wanted))
    server.wait_rollout(server.roll_out("har", "1", observe_s=0.5))
    windows = activity["windows"][:40]
    sent: dict[bytes, str] = {}

    def ask(window: Any, name: str, **more: Any) -> None:
        sent[window.tobytes()] = name
        agent.infer("har", window[None], id=name, **more)

    def first_of(reason: str, send: Callable[[], None]) -> Any:
        """Ask the same until a sample of it has come: which requests are looked at is not ours."""

        def look() -> Any:
            send()
            taken = server.client.samples([("model", "har"), ("reason", reason)]).items
            return taken and taken[0]

        return wait_for(look, f"a sample that is {reason}", bound_s=60)

    def plain() -> None:
        for number, window in enumerate(windows):
            ask(window, f"plain-{number}")

    found = {
        "diverse": first_of("diverse", plain),
        "out-of-reference": first_of(
            "out-of-reference", lambda: ask(windows[0] * np.float32(40), "far")
        ),
        "asked": first_of(
            "asked", lambda: ask(windows[1], "kept", parameters={"keep_sample": True})
        ),
    }
    assert found["out-of-reference"].request == "far"
    assert found["asked"].request == "kept"
    for one in found.values():
        content = server.client.sample(one.id)
        assert read_sample_head(content[:SAMPLE_HEAD_BYTES_MAX], len(content)).note.reason == (
            one.reason
        )
        ((_, array),) = [
            pair for pair in arrays_of(content).items() if pair[0].startswith("input.")
        ]
        assert sent[array.tobytes()].split("-")[0] in {"plain", "far", "kept"}


def otherwise(activity: Any, path: Path) -> Path:
    """The activity model with its classes in another order: it always answers another one."""
    model = onnx.load(activity["model"])
    (output,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = ["before" if name == output.name else name for name in node.output]
    axis = onnx.helper.make_tensor("reverse", onnx.TensorProto.INT64, [7], list(range(6, -1, -1)))
    model.graph.initializer.append(axis)
    model.graph.node.append(
        onnx.helper.make_node("Gather", ["before", "reverse"], [output.name], axis=1)
    )
    onnx.save(model, path)
    return path


def test_what_a_shadow_answers_otherwise_is_sampled(
    start: Any, activity: Any, tmp_path: Path
) -> None:
    server = start.server()
    agent = start.agent(server, "pi-1")
    second = otherwise(activity, tmp_path / "second.onnx")
    for version, model in (("1", activity["model"]), ("2", second)):
        pushed = server.push("har", model, version, precisions=["fp32"])
        assert pushed.state == "succeeded", pushed
    server.client.put_sample_policy(
        "har", SamplePolicyChange(bytes_per_day=10**9, reasons=["disagreeing"])
    )
    server.wait_rollout(server.roll_out("har", "1", observe_s=0.5))
    for window in activity["windows"][:20]:
        agent.infer("har", window[None])
    assert server.client.samples().items == []
    server.roll_out("har", "2", observe_s=0.5, shadow_s=60.0)

    def ask() -> list[Any]:
        for number, window in enumerate(activity["windows"][:20]):
            agent.infer("har", window[None], id=f"window-{number}")
        return server.client.samples([("model", "har")]).items

    (one, *_) = wait_for(ask, "a sample of what the shadow answers otherwise", bound_s=90)
    assert (one.reason, one.version) == ("disagreeing", "1")
    assert str(one.request).startswith("window-")


def test_an_application_that_runs_the_model_itself_is_watched_and_sampled(
    start: Any, activity: Any, pushed_har: Path
) -> None:
    server = start.server(data=pushed_har, settings={"watch_window_s": "2"})
    agent = start.agent(server, "pi-1")
    server.wait_rollout(server.roll_out("har", "1", observe_s=0.5))
    windows = activity["windows"][:20]
    with Model("har", socket=agent.state / "models.sock") as model:
        assert model.in_process

        def described() -> int:
            for window in windows:
                model.predict(window, keep_sample=True)
            return int(server.client.device_receipts("pi-1").feature_windows)

        wait_for(described, "a window of features of what only the application has asked")
        assert server.client.samples().items == [], "no policy, no sample"
        server.client.put_sample_policy(
            "har", SamplePolicyChange(bytes_per_day=10**9, reasons=["asked"])
        )

        numbers = itertools.count()

        def sampled() -> list[Any]:
            for window in windows:
                model.predict(window, keep_sample=True, request=f"order-{next(numbers)}")
            return server.client.samples([("model", "har")]).items

        (one, *_) = wait_for(sampled, "a sample of what the application has asked")
        assert one.reason == "asked"
        assert str(one.request).startswith("order-")
        tell_outcome("har", str(one.request), "3", socket=agent.state / "control.sock")
        wait_for(
            lambda: server.client.annotations_of(one.id).sample.label == "3", "what has come of it"
        )
        arrays = arrays_of(server.client.sample(one.id))
        (name,) = [key for key in arrays if key.startswith("input.")]
        (output,) = [key for key in arrays if key.startswith("output.")]
        assert arrays[name].tobytes() in {window.tobytes() for window in windows}
        np.testing.assert_allclose(
            arrays[output].ravel(), model.predict(arrays[name]).output.ravel(), rtol=1e-5
        )
        server.client.put_sample_policy("har", SamplePolicyChange(revision=1))

        def looked_at() -> bool:
            serving: Any = model._follower.serving
            return bool(serving.telling._sampler.on)

        wait_for(lambda: not looked_at(), "the application hears that nothing may leave")


def test_what_was_asked_is_sampled_and_a_device_may_forbid_it(
    start: Any, activity: Any, pushed_har: Path
) -> None:
    server = start.server(data=pushed_har)
    agent = start.agent(server, "pi-1")
    policy = SamplePolicyChange(bytes_per_day=10**9, reasons=["random"])
    server.client.put_sample_policy("har", policy)
    server.wait_rollout(server.roll_out("har", "1", observe_s=0.5))

    windows = activity["windows"][:20]
    asked: dict[bytes, list[float]] = {}
    numbers = itertools.count()

    def ask_and_look() -> list[Any]:
        for window in windows:
            answer = agent.infer("har", window[None], id=f"window-{next(numbers)}")
            asked[window.tobytes()] = answer["outputs"][0]["data"]
        return server.client.samples([("model", "har")]).items

    found = wait_for(ask_and_look, "a sample on the server")
    (one, *_) = found
    assert (one.device, one.version, one.reason) == ("pi-1", "1", "random")
    content = server.client.sample(one.id)
    head = read_sample_head(content[:SAMPLE_HEAD_BYTES_MAX], len(content))
    manifest = server.client.device("pi-1").slots[0].running.manifest  # type: ignore[union-attr]
    assert head.note.manifest == one.manifest == manifest
    arrays = arrays_of(content)
    (name,) = [key for key in arrays if key.startswith("input.")]
    (output,) = [key for key in arrays if key.startswith("output.")]
    np.testing.assert_allclose(arrays[output].ravel(), asked[arrays[name].tobytes()], rtol=1e-5)

    assert one.request
    assert one.request.startswith("window-")
    outcome = [sys.executable, "-m", "edgectl_agent", "outcome", "--state", agent.state, "--json"]
    subprocess.run([*outcome, "har", one.request, "3"], check=True, stdout=subprocess.DEVNULL)
    wait_for(
        lambda: server.client.annotations_of(one.id).sample.label == "3", "what has come of it"
    )
    (said,) = server.client.annotations_of(one.id).annotations
    assert (said.source, said.labeller) == ("field", "device/pi-1")

    agent.stop()
    kept = Path(agent.state) / "samples"
    agent.settings["samples"] = "false"
    agent.start()
    before = {each.id for each in server.client.samples().items}
    began = sum(one.requests for one in server.client.telemetry("har"))

    def counted() -> bool:
        ask_and_look()
        return sum(one.requests for one in server.client.telemetry("har")) > began + 100

    wait_for(counted, "telemetry of what was asked since")
    assert {path.name for path in kept.iterdir()} <= {"spent.json"}
    assert list((agent.state / "uploads").iterdir()) == []
    assert {each.id for each in server.client.samples().items} == before
