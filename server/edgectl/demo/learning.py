"""``edgectl demo loop``: a fleet notices that part of it sees otherwise, and learns.

Real processes, model and people. Nobody does anything after the shift but label samples, and the
labels are the data set's truth. Stretches of time are shortened by settings, which are printed.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import ExitStack

from edgectl.client import Client
from edgectl.demo import activity_data
from edgectl.demo.loop import Loop
from edgectl.demo.processes import command_of, environment_with
from edgectl.demo.wearers import Wearer, windows_of
from edgectl.errors import DemoFailed
from edgectl.output import bytes_text, plain, table
from edgectl.types import (
    AnnotationImport,
    AnnotationItem,
    LoopInfo,
    LoopPolicySpec,
    LoopSampling,
    LoopTriggers,
    PhaseSpec,
    RolloutPolicy,
    SampleInfo,
    VersionDetail,
)
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.samples import SAMPLE_HEAD_BYTES_MAX, read_sample_head

__all__ = ["DEVICES", "Learning"]

DEVICES = 5
_TURN = 45.0
_PERIOD_S = 20
_WINDOW_S = 5
_LABELS = 240
_LABELLED_AT_ONCE = 40
_LENGTH_BYTES = 8
_MEASURED = 100
"""Answers of each device by which its accuracy is told: to windows that measure."""
_CALM_S, _DETECTED_S, _RUN_S, _MEASURED_S = 300.0, 600.0, 1500.0, 300.0
_STARTED_S = 120.0
_INPUT = "input.input"
_POLICY = LoopPolicySpec(
    triggers=LoopTriggers(drift=["fleet", "device"]),
    sampling=LoopSampling(bytes_per_day=1024**3, reasons=["random", "uncertain"]),
    labels_min=_LABELS,
    collect_max_s=1200.0,
    ratios=(0.7, 0.0, 0.3),
    old_drop_points_max=5.0,
    # What a shifted device is answered is to change: that is no reason to take the model back.
    rollout=RolloutPolicy(
        observe_s=3.0,
        shadow_s=3.0,
        class_shift_max=None,
        disagreement_max=None,
        latency_ratio_max=None,
        phases=[PhaseSpec(name="canary", devices=1, soak_s=2.0)],
    ),
)


class Learning(Loop):
    """Runs the stages one after another."""

    def _go(self, client: Client) -> None:
        with self._stage("devices"):
            self._start_devices(client)
        with self._stage("push"):
            version = self._push(client)
        with self._stage("rollout"):
            self._roll_out(client, version)
        self._truth: dict[str, int] = {}
        self._given: set[str] = set()
        self._passed: set[str] = set()
        with ExitStack() as worn:
            self._wearers = {
                name: worn.enter_context(
                    Wearer(self._endpoint(name), windows_of(number, len(self._names)), self._truth)
                )
                for number, name in enumerate(self._names)
            }
            with self._stage("calm"):
                self._watch_calm(client)
            with self._stage("shift"):
                self._shift(client)
            with self._stage("loop"):
                run = self._follow(client)
            with self._stage("after"):
                self._measure(client, version, run)

    @property
    def _shifted(self) -> list[str]:
        return self._names[len(self._names) * 2 // 5 :]

    def _start_server(self) -> None:
        self._heading(f"1. Server; drift is judged each {_PERIOD_S} s, loops each second")
        folder = self._options.data / "server"
        environment = environment_with(
            EDGECTL_SERVER_DATA=str(folder),
            EDGECTL_SERVER_LISTEN_PORT=str(self._options.port),
            EDGECTL_SERVER_BROKER=self._options.broker,
            EDGECTL_SERVER_BROKER_PORT="0",
            EDGECTL_SERVER_DRIFT_PERIOD_S=str(_PERIOD_S),
            EDGECTL_SERVER_WATCH_WINDOW_S=str(_WINDOW_S),
            EDGECTL_SERVER_LOOP_PERIOD_S="1",
        )
        server = self._processes.start("server", command_of("edgectl_server", "start"), environment)
        ready = server.wait_line(lambda line: line.get("ready") is True, _STARTED_S, "ready")
        self.result.url = str(ready["url"])
        self.result.password_file = str(folder / "admin-password")
        self._say(self.result.url)

    # ------------------------------------------------------------ stages

    def _watch_calm(self, client: Client) -> None:
        """Wait until every device has answered enough, and the fleet was judged to be stable."""
        self._heading(f"5. {len(self._names)} people wear the devices; the loop's policy is set")
        client.put_loop(activity_data.NAME, _POLICY)

        def judged() -> bool | None:
            groups = client.drift([("level", "fleet")]).items
            enough = all(one.right(0.0)[1] >= _MEASURED for one in self._wearers.values())
            return True if enough and any(one.state == "quiet" for one in groups) else None

        self._until(judged, _CALM_S, "a stable fleet")
        self._before = self._share(self._shifted, 0.0)
        self._tell("before the shift", self._before)

    def _shift(self, client: Client) -> None:
        self._heading(
            f"6. {', '.join(self._shifted)}: the phone sits turned by {_TURN:g}° from now on"
        )
        self._begun = time.monotonic()
        for name in self._shifted:
            self._wearers[name].turn = _TURN

        def noticed() -> LoopInfo | None:
            found = client.loop(activity_data.NAME)
            return found if found.run is not None else None

        found = self._until(noticed, _DETECTED_S, "the detection of the shift")
        assert found.run is not None
        took = time.monotonic() - self._begun
        self.result.learning["detection_s"] = round(took, 1)
        self._say(f"noticed after {took:.0f} s: {plain(': '.join(found.run.trigger.values()))}")

    def _follow(self, client: Client) -> LoopInfo:
        """Label what the loop asks for, and watch it go round."""
        self._heading("7. The loop: nobody does anything but label, with the data set's truth")
        seen = ""

        def over() -> LoopInfo | None:
            nonlocal seen
            found = client.loop(activity_data.NAME)
            assert found.run is not None
            if found.run.state != seen:
                seen = found.run.state
                after = time.monotonic() - self._begun
                self._say(f"{after:5.0f} s  {seen}: {plain(found.run.note or found.why)}")
            if seen == "collecting":
                self._label(client)
            return found if found.run.ended_at is not None else None

        found = self._until(over, _RUN_S, "the end of the run")
        self._during = self._share(self._shifted, self._begun, "1")
        assert found.run is not None
        learnt = self.result.learning
        learnt["loop_s"] = round(time.monotonic() - self._begun, 1)
        learnt["samples"] = len(client.samples([("model", activity_data.NAME)], 1000).items)
        learnt["labels"] = len(self._given)
        if found.run.state != "promoted":
            raise DemoFailed("demo.loop", f"the run has {found.run.state}: {found.run.note}")
        return found

    def _label(self, client: Client) -> None:
        """Label samples of the devices that drift, as people would who are asked for them."""
        if len(self._given) >= _LABELS:
            return
        groups = client.drift([("level", "device"), ("state", "drifting")]).items
        drifting = {one.group for one in groups} or set(self._names)
        query = [("model", activity_data.NAME), ("label_state", "unlabelled")]
        wanted = [one for one in client.samples(query, 500).items if one.device in drifting]
        items: list[AnnotationItem] = []
        for one in wanted:
            if len(items) >= min(_LABELLED_AT_ONCE, _LABELS - len(self._given)):
                break
            if one.id in self._passed:
                continue
            label = self._truth.get(_window_digest(client, one))
            if label is None:
                self._passed.add(one.id)
            else:
                items.append(AnnotationItem(sample=one.id, label=activity_data.LABELS[label]))
        if items:
            client.import_annotations(AnnotationImport(items=items, truth=True))
            self._given |= {one.sample for one in items if one.sample is not None}

    def _measure(self, client: Client, version: VersionDetail, found: LoopInfo) -> None:
        run = found.run
        assert run is not None
        assert run.version is not None
        assert run.rollout is not None
        since = time.monotonic()
        new = run.version

        def enough() -> bool | None:
            counts = [one.right(since, new)[1] for one in self._wearers.values()]
            return True if min(counts) >= _MEASURED else None

        self._until(enough, _MEASURED_S, "enough answers of the new version")
        after = self._share(self._shifted, since, new)
        others = [name for name in self._names if name not in self._shifted]
        rollout = client.rollout(run.rollout)
        made = client.get_version(activity_data.NAME, new)
        lost = self._before - self._during
        recovered = (after - self._during) / lost if lost > 0 else 0.0
        fetched = rollout.bytes.fetched / max(1, rollout.counts.committed)
        delta = {one.variant: one.trial.update_bytes for one in made.variants}
        calm, whole = self._share(others, 0.0, "1"), made.variants[0].bundle_bytes
        model = made.variants[0].model_bytes
        rows = [
            ("time to detection", f"{self.result.learning['detection_s']:.0f} s"),
            ("shift to promoted", f"{self.result.learning['loop_s']:.0f} s"),
            ("samples", str(self.result.learning["samples"])),
            ("labels", str(len(self._given))),
            ("accuracy before the shift", f"{self._before:.3f}"),
            ("accuracy during the shift", f"{self._during:.3f}"),
            ("accuracy after", f"{after:.3f}"),
            ("lost accuracy recovered", f"{recovered:.0%}"),
            ("others, before and after", f"{calm:.3f}, {self._share(others, since, new):.3f}"),
            ("on the wire, each device", f"{bytes_text(int(fetched))} of {bytes_text(whole)}"),
            ("of the model's size", f"{fetched / model:.1%} of {bytes_text(model)}"),
            ("failed requests", str(sum(one.failed for one in self._wearers.values()))),
        ]  # fmt: skip
        self._heading(f"8. {version.model}@{new}, shifted devices:")
        self._console.print(table(["WHAT", ">FIGURE"], rows))
        self.result.learning |= {
            "before": round(self._before, 4),
            "during": round(self._during, 4),
            "after": round(after, 4),
            "recovered": round(recovered, 4),
            "bytes_each": int(fetched),
            "model_bytes": model,
            "update_bytes": next((one for one in delta.values() if one is not None), 0),
        }

    # ------------------------------------------------------------ figures

    def _share(self, names: list[str], since: float, version: str = "") -> float:
        found = [self._wearers[name].right(since, version) for name in names]
        right, asked = (sum(column) for column in zip(*found, strict=True))
        return right / asked if asked else 0.0

    def _tell(self, when: str, share: float) -> None:
        self._say(f"accuracy {when}, on the devices that will be shifted: {share:.3f}")


def _window_digest(client: Client, sample: SampleInfo) -> str:
    """Return the SHA-256 of a sample's window; empty where its file is none."""
    content = client.sample(sample.id)
    try:
        head = read_sample_head(content[:SAMPLE_HEAD_BYTES_MAX], len(content))
    except ProtocolError:
        return ""
    at = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    for one in head.tensors:
        size = 4
        for axis in one.shape:
            size *= axis
        if one.name == _INPUT:
            return hashlib.sha256(content[at : at + size]).hexdigest()
        at += size
    return ""
