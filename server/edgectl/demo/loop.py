"""The whole loop: server, devices, push, rollout, inference, telemetry, each stage timed.

Everything goes through the ways that an operator and an application have: the server's and the
agent's command lines, the REST API, and a device's inference endpoint.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from rich.console import Console

from edgectl.client import Client
from edgectl.demo import activity_data
from edgectl.demo.application import Application
from edgectl.demo.processes import Process, Processes, command_of, environment_with
from edgectl.errors import DemoFailed, doing
from edgectl.output import plain, table
from edgectl.progress import PushProgress
from edgectl.pushing import finish_push, start_push
from edgectl.tables import report_table, rollout_devices_table, telemetry_table
from edgectl.types import (
    PushOptions,
    RolloutPolicy,
    RolloutRequest,
    Selector,
    TelemetrySummary,
    VersionDetail,
)
from edgectl.watching import RolloutView, Watched, watch_rollout
from edgectl_protocol import __version__

__all__ = ["DemoOptions", "Loop", "Result"]

USER = "admin"
_START_S = 60.0
_PUSH_S = 300.0
_ROLLOUT_S = 180.0
_TELEMETRY_S = 45.0
_TELEMETRY_PERIOD_S = 2.0
_OBSERVE_S = 3.0
_BAD_OBSERVE_S = 60.0
_WINDOWS = 40
_POLL_S = 0.2

Found = TypeVar("Found")


class DemoOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says."""

    data: Path
    devices: int = 3
    port: int = 0
    broker: str = "embedded"
    keep: bool = False


class Result(msgspec.Struct, kw_only=True):
    """What the demo has shown; printed as one JSON object."""

    url: str = ""
    user: str = USER
    password_file: str = ""
    data: str = ""
    versions: dict[str, str] = {}
    sizes: dict[str, int] = {}
    """Bytes of the source and of each variant's model."""
    accuracies: dict[str, float | None] = {}
    """``reference`` of the model as pushed and of each variant, on the evaluation data; ``device``
    of the answers that a device has given here."""
    devices: dict[str, dict[str, Any]] = {}
    seconds: dict[str, float] = {}
    telemetry: list[TelemetrySummary] = []
    rollback: dict[str, Any] = {}
    """What became of a version that every check passes and that fails in the field."""
    learning: dict[str, float] = {}
    """Of `edgectl demo loop`: seconds, counts, bytes, and accuracies on the shifted devices."""
    stage: str = "start"
    """The stage that is under way, for errors."""


class Loop:
    """Runs the stages one after another."""

    def __init__(self, options: DemoOptions, processes: Processes, console: Console) -> None:
        self._options = options
        self._processes = processes
        self._console = console
        self._names = [f"pi-{number}" for number in range(1, options.devices + 1)]
        self._agents: dict[str, Process] = {}
        self.result = Result(data=str(options.data))

    def run(self) -> Result:
        """Run all stages.

        Raises:
            EdgectlError: whatever went wrong; `result.stage` says where.
        """
        with self._stage("server"):
            self._start_server()
        password = Path(self.result.password_file).read_text(encoding="utf-8").strip()
        with Client(self.result.url) as client:
            token = client.login(USER, password, name="edgectl demo", expires_in_s=86400).token
            self.result.versions = {"edgectl": __version__, "server": client.version().version}
        with Client(self.result.url, token) as client:
            self._go(client)
        self.result.seconds["total"] = round(sum(self.result.seconds.values()), 2)
        return self.result

    def _go(self, client: Client) -> None:
        """Run the stages that come after the server has started."""
        with self._stage("devices"):
            self._start_devices(client)
        with self._stage("push"):
            version = self._push(client)
        with self._stage("rollout"):
            self._roll_out(client, version)
        with self._stage("inference"):
            self._infer()
        with self._stage("telemetry"):
            self._read_telemetry(client, version)
        with self._stage("rollback"):
            self._roll_back(client)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self.result.stage = name
        began = time.monotonic()
        with doing(f"stage {name} of the demo"):
            yield
        self.result.seconds[name] = round(time.monotonic() - began, 2)

    def _say(self, text: str) -> None:
        self._console.print(text)

    def _heading(self, text: str) -> None:
        self._console.print()
        self._console.print(text, style="bold")

    def _until(self, look: Callable[[], Found | None], timeout_s: float, what: str) -> Found:
        deadline = time.monotonic() + timeout_s
        while True:
            found = look()
            if found is not None:
                return found
            self._processes.check()
            if time.monotonic() > deadline:
                raise DemoFailed(
                    "demo.timeout",
                    f"{what} did not happen within {timeout_s:.0f} s",
                    f"the logs are in {self._options.data / 'logs'}",
                )
            time.sleep(_POLL_S)

    # ------------------------------------------------------------ stages

    def _start_server(self) -> None:
        self._heading(f"1. Server with everything embedded, broker {self._options.broker}")
        folder = self._options.data / "server"
        environment = environment_with(
            EDGECTL_SERVER_DATA=str(folder),
            EDGECTL_SERVER_LISTEN_PORT=str(self._options.port),
            EDGECTL_SERVER_BROKER=self._options.broker,
            EDGECTL_SERVER_BROKER_PORT=str(self._last_broker_port()),
        )
        server = self._processes.start("server", command_of("edgectl_server", "start"), environment)
        ready = server.wait_line(lambda line: line.get("ready") is True, _START_S, "ready")
        self.result.url = str(ready["url"])
        self.result.password_file = str(folder / "admin-password")
        broker = str(ready["broker"])
        self._broker_port_file.write_text(broker.rpartition(":")[2], encoding="ascii")
        self._say(f"{self.result.url}, broker {plain(broker)}")

    @property
    def _broker_port_file(self) -> Path:
        return self._options.data / "broker-port"

    def _last_broker_port(self) -> int:
        """Return the port that the devices of a kept folder have been told, otherwise 0."""
        try:
            return int(self._broker_port_file.read_text(encoding="ascii"))
        except FileNotFoundError:
            return 0

    def _start_devices(self, client: Client) -> None:
        count = len(self._names)
        who = "1 device enrols" if count == 1 else f"{count} devices enrol"
        self._heading(f"2. {who} with a one-time token")
        token = client.create_enrol_token(uses=count, expires_in_s=3600).token
        for name in self._names:
            # The token travels in the environment: arguments can be read by everybody.
            environment = environment_with(
                EDGECTL_AGENT_SERVER=self.result.url,
                EDGECTL_AGENT_DEVICE=name,
                EDGECTL_AGENT_TOKEN=token,
                EDGECTL_AGENT_STATE=str(self._options.data / name),
                EDGECTL_AGENT_PORT="0",
                EDGECTL_AGENT_TELEMETRY_S=str(_TELEMETRY_PERIOD_S),
            )
            # No settings of an agent that may be installed on this machine.
            command = [*command_of("edgectl_agent", "run"), "--config", os.devnull]
            self._agents[name] = self._processes.start(name, command, environment)

        def all_online() -> bool | None:
            online = {device.id for device in client.devices([("online", "true")]).items}
            return True if online.issuperset(self._names) else None

        self._until(all_online, _START_S, "the coming online of all devices")
        self._say(f"online: {', '.join(self._names)}")

    def _push(self, client: Client) -> VersionDetail:
        model = activity_data.MODEL
        self._heading(f"3. edgectl push {model.name}: check, quantize, measure, sign, publish")
        version = self._pushed(client, model)
        if version.report is not None:
            self._console.print(report_table(version, version.report))
        result = self.result
        result.versions["model"] = f"{version.model}@{version.version}"
        result.sizes["source"] = version.source_bytes
        result.accuracies["reference"] = version.reference
        for variant in version.variants:
            result.sizes[variant.variant] = variant.model_bytes
            result.accuracies[variant.variant] = variant.trial.value
        return version

    def _pushed(self, client: Client, model: Path, **options: Any) -> VersionDetail:
        data = activity_data
        with PushProgress(self._console) as progress:
            accepted = start_push(
                client,
                progress,
                data.NAME,
                model,
                calibration=data.CALIBRATION,
                evaluation=data.EVALUATION,
                options=PushOptions(labels=list(data.LABELS), **options),
            )
            version = finish_push(client, progress, accepted)
        if version.state != "ready":
            reason = version.error.detail if version.error else version.state
            raise DemoFailed("demo.push", f"{data.NAME}@{version.version}: {reason}")
        return version

    def _roll_out(self, client: Client, version: VersionDetail) -> None:
        name = f"{version.model}@{version.version}"
        self._heading(f"4. edgectl rollout start {name} --all")
        # A kept folder may know devices that do not run this time.
        selector = Selector(devices=self._names) if self._options.keep else Selector(all=True)
        request = RolloutRequest(
            version.model, version.version, selector, RolloutPolicy(observe_s=_OBSERVE_S)
        )
        started = client.start_rollout(request)
        with RolloutView(self._console) as view:

            def show(seen: Watched) -> None:
                view.show(seen)
                self._processes.check()

            seen = watch_rollout(client, started.id, show, timeout_s=_ROLLOUT_S)
        devices = client.rollout_devices(started.id).items
        self._console.print(rollout_devices_table(devices))
        bundle_bytes = {one.variant: one.bundle_bytes for one in version.variants}
        for device in devices:
            self.result.devices[device.device] = {
                "state": device.state,
                "step": device.step,
                "variant": device.variant,
                "bundle_bytes": bundle_bytes.get(device.variant),
                "reason": device.reason,
            }
        if seen.rollout.state != "completed" or seen.rollout.counts.committed != len(devices):
            raise DemoFailed(
                "demo.rollout",
                f"the rollout of {name} is {seen.rollout.state}:"
                f" {seen.rollout.counts.committed} of {len(devices)} devices have committed",
                f"the devices' logs are in {self._options.data / 'logs'}",
            )

    def _endpoint(self, name: str) -> str:
        """Return where a device serves its models."""
        agent = self._agents[name]
        ready = agent.wait_line(lambda line: bool(line.get("endpoint")), _START_S, "ready")
        return str(ready["endpoint"])

    def _infer(self) -> None:
        name = self._names[0]
        endpoint = self._endpoint(name)
        self._heading(f"5. {_WINDOWS} real windows to {name}: POST {endpoint}/v2/models/har/infer")
        predictions = activity_data.predict(endpoint, _WINDOWS)
        share = activity_data.accuracy(predictions)
        columns = ["TRUE LABEL", ">RIGHT", "OTHERS TAKEN"]
        self._console.print(table(columns, activity_data.summary_lines(predictions)))
        self._say(f"accuracy on the device: {share:.3f}")
        self.result.accuracies["device"] = round(share, 4)

    def _read_telemetry(self, client: Client, version: VersionDetail) -> None:
        name = self._names[0]
        self._heading("6. Telemetry that has arrived at the server")

        def arrived() -> list[TelemetrySummary] | None:
            summaries = client.telemetry(version.model)
            requests = sum(one.requests for one in summaries if one.device == name)
            return summaries if requests >= _WINDOWS else None

        self.result.telemetry = self._until(arrived, _TELEMETRY_S, "the arrival of the telemetry")
        self._console.print(telemetry_table(self.result.telemetry, version.labels))

    def _roll_back(self, client: Client) -> None:
        name = self._names[0]
        self._heading(
            f"7. A careless version, {activity_data.CARELESS.name}: right on all data that there is"
        )
        version = self._pushed(client, activity_data.CARELESS, precisions=["fp32"])
        bad = f"{version.model}@{version.version}"
        self._say(f"{bad}: accuracy {version.reference:.3f}; published, to {name} first")
        request = RolloutRequest(
            version.model,
            version.version,
            Selector(devices=[name]),
            RolloutPolicy(observe_s=_BAD_OBSERVE_S),
        )
        with Application(self._endpoint(name)) as application:
            started = client.start_rollout(request)
            with RolloutView(self._console) as view:
                seen = watch_rollout(client, started.id, view.show, timeout_s=_ROLLOUT_S)
            (device,) = client.rollout_devices(started.id).items
            self._console.print(rollout_devices_table([device]))
            heard = self._until(
                lambda: heard if (heard := application.heard()).last != version.version else None,
                _START_S,
                f"an answer of the version before {bad}",
            )
        self.result.rollback = {
            "version": bad,
            "rollout": seen.rollout.state,
            "state": device.state,
            "reason": device.reason,
            "application": heard,
        }
        if device.state != "rolled_back" or heard.failed:
            raise DemoFailed(
                "demo.rollback", f"{name} is {device.state}, {heard.failed} requests have failed"
            )
        told, odd = heard.answers, heard.without_number
        self._say(
            f"Meanwhile an application on {name} asked {heard.requests} times, its sensor shaken"
            f" harder than in the data: {heard.failed} failed."
        )
        self._say(
            f"{told.get(version.version, 0)} answers were of {bad},"
            f" {odd.get(version.version, 0)} of them no number;"
            f" now {version.model}@{heard.last} answers again."
        )
