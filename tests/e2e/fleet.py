"""A real server and real agents as processes, as an operator would start them.

Everything is started by its command line, waited for by its ready line, and ended by its process
id. Waiting is always for a level, with a bound, and says what it has seen when the bound passes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgectl.client import Client
from edgectl.types import JobInfo, PushOptions, PushRequest, RolloutPolicy, RolloutRequest, Selector
from waiting import wait_for

SOCKETS = shutil.ignore_patterns("*.sock")
"""Of a copy of a state directory: sockets are left out."""

START_S = 180.0


class Process:
    """A child whose standard output is kept, line by line, in a file."""

    def __init__(self, command: list[str], log: Path, environment: dict[str, str] | None = None):
        self.log = log
        self.command = command
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
        self.popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin; the log is appended to."""
        with self.log.open("ab") as out:
            self.popen = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )

    def lines(self, since: int = 0) -> list[dict[str, Any]]:
        """Return the JSON lines of the log after byte `since`."""
        found = []
        for line in self.log.read_bytes()[since:].splitlines():
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict):
                    found.append(value)
        return found

    def wait_line(
        self, what: str, key: str, value: Any, since: int, bound_s: float = START_S
    ) -> Any:
        """Wait for a JSON line whose `key` is `value`."""

        def look() -> Any:
            for line in self.lines(since):
                if line.get(key) == value:
                    return line
            assert self.popen is not None
            code = self.popen.poll()
            assert code is None, f"{what} ended with {code}: {self.log.read_text()[-3000:]}"
            return None

        return wait_for(look, what, bound_s=bound_s)

    def signal(self, number: int) -> None:
        """Send a signal to the process alone."""
        assert self.popen is not None
        os.kill(self.popen.pid, number)

    def kill(self) -> None:
        """End it as a power cut would, its children too."""
        assert self.popen is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait(60)

    def stop(self, bound_s: float = 20) -> int:
        """End it as a service manager would; kill it after the bound."""
        if self.popen is None:
            return 0
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(bound_s)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.popen.returncode


class Server(Process):
    """``edgectl server start`` on free ports; as what it becomes, `python -m edgectl_server`."""

    def __init__(
        self, data: Path, *, broker: str = "embedded", settings: dict[str, str] | None = None
    ):
        self.python = sys.executable
        self.data = data
        self.broker = broker
        self.settings = settings or {}
        super().__init__([], data.with_name(data.name + ".log"))
        self.url = ""
        self.port = "0"
        self.broker_port = "0"
        self._client: Client | None = None

    def start(self) -> None:
        """Start and wait until it is ready; later starts take the same ports."""
        since = self.log.stat().st_size if self.log.exists() else 0
        self.launch()
        self.wait_ready(since)

    def launch(self) -> None:
        """Start without waiting."""
        self.command = [
            *(self.python, "-P", "-m", "edgectl_server", "start", "--json"),
            *("--data", str(self.data), "--port", self.port, "--broker-port", self.broker_port),
            *("--broker", self.broker),
        ]
        self._environment |= {f"EDGECTL_SERVER_{k.upper()}": v for k, v in self.settings.items()}
        super().start()

    def wait_ready(self, since: int) -> None:
        """Wait for the ready line after byte `since` of the log."""
        ready = self.wait_line("the server", "ready", value=True, since=since)
        self.url = ready["url"]
        self.port = self.url.rsplit(":", 1)[1].rstrip("/")
        self.broker_port = ready["broker"].rsplit(":", 1)[1].rstrip("/")

    @property
    def client(self) -> Client:
        """A client with an administrator's token."""
        if self._client is None:
            password = (self.data / "admin-password").read_text().strip()
            with Client(self.url) as anonymous:
                token = anonymous.login("admin", password, name="tests").token
            self._client = Client(self.url, token)
        return self._client

    def stop(self, bound_s: float = 20) -> int:
        """Stop, and forget the client."""
        if self._client is not None:
            self._client.close()
            self._client = None
        return super().stop(bound_s)

    def enrol_token(self, uses: int = 1) -> str:
        """Make an enrolment token."""
        return self.client.create_enrol_token(uses=uses, expires_in_s=600).token

    def begin_push(self, name: str, model: Path, version: str | None = None, **options: Any) -> str:
        """Upload and push; return the job."""
        data = {
            role: self.client.upload(options.pop(role)).sha256
            for role in ("calibration", "evaluation")
            if role in options
        }
        request = PushRequest(
            model=self.client.upload(model).sha256,
            filename=model.name,
            version=version,
            options=PushOptions(**options),
            **data,
        )
        job = self.client.push(name, request).job
        assert job is not None
        return job

    def push(self, name: str, model: Path, version: str | None = None, **options: Any) -> JobInfo:
        """Push and wait until the job has ended."""
        return self.client.wait_job(self.begin_push(name, model, version, **options))

    def roll_out(self, model: str, version: str, *devices: str, **policy: Any) -> str:
        """Start a rollout on `devices`, or on all; return its id."""
        selector = Selector(all=not devices, devices=list(devices))
        request = RolloutRequest(model, version, selector, RolloutPolicy(**policy))
        return self.client.start_rollout(request).id

    def roll_out_group(self, model: str, version: str, group: str, **policy: Any) -> str:
        """Start a rollout on a group; return its id."""
        request = RolloutRequest(model, version, Selector(group=group), RolloutPolicy(**policy))
        return self.client.start_rollout(request).id

    def wait_rollout(self, rollout: str, state: str = "completed", bound_s: float = 90) -> Any:
        """Wait until a rollout is in `state`."""

        def look() -> Any:
            self.last = self.client.rollout(rollout)
            return self.last if self.last.state == state else None

        try:
            return wait_for(look, f"rollout {state}", bound_s=bound_s)
        except AssertionError:
            devices = self.client.rollout_devices(rollout).items
            raise AssertionError(
                f"{self.last}\n{devices}\n{self.log.read_text()[-3000:]}"
            ) from None


class Agent(Process):
    """``edgectl-agent run`` with a state folder of its own."""

    def __init__(
        self, server: Server, device: str, state: Path, token: str = "", **settings: str
    ) -> None:
        self.python = sys.executable
        self.server = server
        self.device = device
        self.state = state
        self.endpoint = ""
        self.token = token
        # Sooner than a fleet should: here is one device, not thousands.
        self.settings = {"telemetry_s": "1", "reconnect_s_max": "2", **settings}
        super().__init__([], state.with_name(state.name + ".log"))

    def begin(self) -> None:
        """Start without waiting."""
        self.command = [
            *(self.python, "-m", "edgectl_agent", "run", "--json"),
            *("--server", self.server.url, "--device", self.device, "--state", str(self.state)),
            *("--port", "0"),
        ]
        given = {**self.settings, "token": self.token}
        self._environment |= {f"EDGECTL_AGENT_{key.upper()}": given[key] for key in given}
        super().start()

    def start(self) -> None:
        """Start and wait until the inference endpoint answers."""
        since = self.log.stat().st_size if self.log.exists() else 0
        self.begin()
        self.endpoint = self.wait_line("the agent", "event", "ready", since)["endpoint"]

    def served(self, model: str) -> str | None:
        """Ask the local endpoint which version of a model serves; None if none does."""
        try:
            with urllib.request.urlopen(f"{self.endpoint}/v2/models/{model}", timeout=60) as answer:
                versions: list[str] = json.load(answer)["versions"]
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != 404:
                raise
            return None
        return versions[0]

    def infer(self, model: str, array: Any, name: str = "input", **more: Any) -> dict[str, Any]:
        """Ask the local endpoint for a prediction on one float32 array [1, …]."""
        body = more | {
            "inputs": [
                {
                    "name": name,
                    "shape": list(array.shape),
                    "datatype": "FP32",
                    "data": array.ravel().tolist(),
                }
            ]
        }
        request = urllib.request.Request(
            f"{self.endpoint}/v2/models/{model}/infer",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def update(self, slot: str) -> Any:
        """Return what the server knows of the newest update of a slot, or None."""
        for one in self.server.client.device(self.device).slots:
            if one.slot == slot:
                return one.update
        return None

    def running(self, slot: str) -> Any:
        """Return what the server knows to run in a slot, or None."""
        for one in self.server.client.device(self.device).slots:
            if one.slot == slot:
                return one.running
        return None


@contextlib.contextmanager
def stopping(*processes: Process) -> Iterator[None]:
    """Stop the processes at the end, the last first."""
    try:
        yield
    finally:
        for process in reversed(processes):
            process.stop()
