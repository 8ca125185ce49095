"""Server and agents are upgraded one after the other, in either order, while models serve.

The older version is not made up: `tests/data/older` has it. Its devices have no
figures of what their models see, no samples and no logs that are followed, and its database has 24
migrations less.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import threading
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.fleet import Agent, Server, stopping
from edgectl.errors import ApiError
from edgectl_server.backup.rows import revision_of
from waiting import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ARCHIVE = Path(__file__).parents[1] / "data/older/edgectl.tar.xz"


@pytest.fixture
def older(tmp_path: Path) -> str:
    """A Python that has the older version, and of ours only what it depends on."""
    source, environment = tmp_path / "older", tmp_path / "environment"
    with tarfile.open(ARCHIVE) as tar:
        tar.extractall(source, filter="data")
    command = [sys.executable, "-m", "venv", "--without-pip", str(environment)]
    subprocess.run(command, check=True, timeout=120)
    (packages,) = environment.glob("lib/python*/site-packages")
    # Plain lines of a .pth file: what the .pth files of these folders say does not count.
    places = [source / "agent", source / "server", sysconfig.get_paths()["purelib"]]
    (packages / "older.pth").write_text("".join(f"{place}\n" for place in places))
    python = str(environment / "bin/python")
    program = "import edgectl_agent as a, edgectl_server as s; print(a.__file__, s.__file__)"
    found = subprocess.run(
        [python, "-P", "-c", program],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout.split()  # fmt: skip
    assert all(Path(one).is_relative_to(source) for one in found), found
    return python


class Operator:
    """Who works with the older version's own command line."""

    def __init__(self, python: str, folder: Path, server: Server) -> None:
        self._python = python
        self._environment = {**os.environ, "XDG_CONFIG_HOME": str(folder)}
        words = ("login", server.url, "--username", "admin", "--password-stdin")
        self(*words, given=(server.data / "admin-password").read_text())

    def __call__(self, *words: str, given: str = "") -> Any:
        """Run a command; return what it prints, one JSON object."""
        done = subprocess.run(
            [self._python, "-P", "-m", "edgectl", *words, "--json"],
            input=given, env=self._environment,
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return json.loads(done.stdout)


class Application:
    """Asks an agent the whole time; no request may fail."""

    def __init__(self, agent: Agent, window: Any) -> None:
        self.answers = 0
        self.problems: list[str] = []
        self._agent, self._window = agent, window
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        while not self._end.wait(0.05):
            try:
                self._agent.infer("har", self._window[None])
            except (OSError, urllib.error.HTTPError) as error:
                self.problems.append(repr(error))
            self.answers += 1

    def stop(self) -> None:
        """End; what was asked is answered."""
        self._end.set()
        self._thread.join(90)


@pytest.fixture
def applications(activity: Any) -> Iterator[Any]:
    """Makes applications; all end with the test."""
    running: list[Application] = []

    def ask(agent: Agent) -> Application:
        running.append(Application(agent, activity["windows"][0]))
        return running[-1]

    yield ask
    for application in running:
        application.stop()


def test_versions_mixed_through_an_upgrade(
    older: str, tmp_path: Path, activity: Any, applications: Any
) -> None:
    server = Server(tmp_path / "server")
    server.python = older
    with stopping(server):
        # --- an older server: two devices of its version, and one that was upgraded before it
        server.start()
        operator = Operator(older, tmp_path / "config", server)
        model = str(activity["model"])
        data = ("--calibration", str(activity["calibration"]))
        operator("push", model, "--name", "har", "--version", "1", *data)
        token = operator("devices", "token", "create", "--uses", "3")["token"]
        agents = [Agent(server, name, tmp_path / name, token) for name in ("pi-1", "pi-2", "pi-3")]
        for agent in agents[:2]:
            agent.python = older
            del agent.settings["reconnect_s_max"]  # there was none

        def served() -> list[str | None]:
            return sorted(str(one.served("har")) for one in agents)

        with stopping(*agents):
            for agent in agents:
                agent.start()
            # Whose command line is newer than the server rolls out all the same.
            server.wait_rollout(server.roll_out("har", "1", observe_s=0.5))
            assert served() == ["1", "1", "1"]
            operator("push", model, "--name", "har", "--version", "2", "--precision", "fp32")
            options = ("--phases", "canary:1", "--approve-after", "canary", "--no-watch")
            rollout = operator("rollout", "start", "har@2", "--all", *options)["rollout"]["id"]
            wait_for(lambda: served() == ["1", "1", "2"], "the canary")

            # --- the server alone is upgraded, on its data; devices come back, the rollout goes on
            asking = [applications(agent) for agent in agents]
            server.stop()
            before = revision_of(server.data / "edgectl.sqlite")
            server.python = sys.executable
            server.start()
            assert revision_of(server.data / "edgectl.sqlite") > before
            client = server.client
            wait_for(lambda: all(client.device(one.device).online for one in agents), "devices")
            assert served() == ["1", "1", "2"]
            wait_for(lambda: client.rollout(rollout).phase.step == "approval", "the canary's end")
            client.rollout_action(rollout, "approve", "it looks good")
            server.wait_rollout(rollout)
            assert served() == ["2", "2", "2"]

            # --- what the newer server makes is for older agents too
            pushed = server.push(
                "har", activity["model"], "3",
                calibration=activity["calibration"], evaluation=activity["evaluation"],
            )  # fmt: skip
            assert pushed.state == "succeeded", pushed.error
            server.wait_rollout(server.roll_out("har", "3", observe_s=0.5))
            assert served() == ["3", "3", "3"]
            assert [(one.answers > 20, one.problems) for one in asking] == [(True, [])] * 3
            with pytest.raises(ApiError) as refused:
                client.follow_logs(agents[0].device)  # what it does not know it calls an attack
            assert refused.value.code == "logs.older"

            # --- an agent is upgraded on its state: it serves before it hears of anybody
            first = agents[0]
            asking[0].stop()
            first.stop()
            first.python = sys.executable
            first.start()
            assert first.served("har") == "3"
            wait_for(lambda: client.device(first.device).online, "the upgraded agent")
            before = client.device_receipts(first.device).boots[-1]
            assert before.gaps == [], "nobody says that what the older server took was lost"
            pushed = server.push("har", activity["model"], "4", precisions=["fp32"])
            assert pushed.state == "succeeded", pushed.error
            server.wait_rollout(server.roll_out("har", "4", observe_s=0.5))
            assert served() == ["4", "4", "4"]
            assert [one.problems for one in asking[1:]] == [[], []]

            # --- and put back to the older version, it serves and is heard of as before
            first.stop()
            first.python = older
            first._environment.pop("EDGECTL_AGENT_RECONNECT_S_MAX", None)
            first.start()
            assert first.served("har") == "4"
            wait_for(lambda: client.device(first.device).online, "the agent that was put back")
            server.wait_rollout(server.roll_out("har", "3", first.device, observe_s=0.5))
            assert first.served("har") == "3"
            assert client.security_events().items == [], "nobody was taken for an attacker"
