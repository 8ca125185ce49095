"""The commands of docs/operations/README.md, from top to bottom, on a real server with a device.

What a person has beside the page is given here: services, passwords that are asked for, ids that
were printed, and 400 days, which Debian's faketime lets pass. Rollouts observe for less than 10 s.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.fleet import Agent, Server
from e2e.test_clock import faketime, shifted
from edgectl.client import Client
from edgectl.errors import EdgectlError
from waiting import wait_for

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/operations/README.md").read_text(encoding="utf-8")
MODEL = ROOT / "server/edgectl/demo/activity/har_v1.onnx"
FOLDER = "/var/lib/edgectl-server"
ADDRESS = "http://127.0.0.1:8080"
PLACEHOLDER = "0123456789abcdef"
PASSPHRASE = "correct horse"
ONLINE = ("models", "snapshot", "timestamp", "orders")
LATER_S = 400 * 86400


def sections() -> list[tuple[str, list[str]]]:
    """Return the titles of the page with the lines of their shell blocks."""
    found = []
    for section in PAGE.split("\n## ")[1:]:
        blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
        lines = [line for block in blocks for line in block.splitlines()]
        found.append((section.partition("\n")[0], lines))
    return found


class Desk:
    """One folder in which everything is typed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = Server(folder / "edgectl")
        self.agent: Agent | None = None
        self.token = ""
        self.rollout = ""
        self.password = ""
        self.stranger: Agent | None = None
        self.revoked_was_out = False
        self.later: dict[str, str] = {}
        self.keys_before: dict[str, set[str]] = {}
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "XDG_CONFIG_HOME": str(folder / "config"),
            "EDGECTL_SERVER_DATA": str(folder / "edgectl"),
        }

    def type(self, line: str) -> str:
        """Do what a line says; return what it prints."""
        words = shlex.split(line)
        if words == ["systemctl", "start", "edgectl-server"]:
            self.server.start()
        elif words == ["systemctl", "start", "edgectl-agent"]:
            assert self.agent is not None
            self.agent.start()
        elif words == ["systemctl", "stop", "edgectl-server"]:
            self.server.stop()
        elif words == ["systemctl", "stop", "edgectl-agent"]:
            assert self.agent is not None
            self.agent.stop()
        elif words[0] == "edgectl-agent":
            self.start_agent(words[words.index("--device") + 1])
        elif words[0] != "export":
            return self.run(line)
        return ""

    def start_agent(self, device: str) -> None:
        """Start the agent with the newest token."""
        if self.agent is None:
            self.agent = Agent(self.server, device, self.folder / device)
        self.agent.token = self.token
        self.agent.start()

    def run(self, line: str) -> str:
        """Run a command in a shell; it has to succeed."""
        words = shlex.split(line)
        named = self.rollout if "rollout" in words else self.token[3:19]
        line = line.replace(FOLDER, str(self.server.data)).replace(ADDRESS, self.server.url)
        answers = f"{PASSPHRASE}\n{PASSPHRASE}\n"
        if words[1:3] == ["keys", "sign"]:
            answers = f"y\n{PASSPHRASE}\n"
        elif words[1:3] == ["rollout", "start"]:
            line += " --observe 0.2"
        elif words[1] == "login" and "<" not in words:
            line, answers = f"{line} --password-stdin", f"{self.password}\n"
        done = subprocess.run(
            ["bash", "-c", line.replace(PLACEHOLDER, named)],
            cwd=self.folder,
            env=self.environment | (self.later if words[1] == "keys" else {}),
            input=answers,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            start_new_session=True,  # no terminal to ask
        )
        assert done.returncode == 0, (line, done.returncode, done.stdout, done.stderr)
        if words[1:4] == ["devices", "token", "create"]:
            self.token = re.search(r"ee_\S+", done.stdout).group()
        if words[1:3] == ["rollout", "start"]:
            with self.client as client:
                self.rollout = client.rollouts().items[0].id
        if words[1:3] == ["devices", "revoke"]:
            with self.client as client:
                wait_for(lambda: not client.device("pi-1").online, "the device out")
            self.revoked_was_out = True
        if words[1:3] == ["server", "user"]:
            self.password = done.stdout.split()[-1]
        return done.stdout

    @property
    def client(self) -> Client:
        """An administrator's client, by the token of `edgectl login`."""
        stored = json.loads((self.folder / "config/edgectl/config.json").read_text())
        return Client(self.server.url, stored["servers"][self.server.url]["token"])

    def stop(self) -> None:
        """Stop what runs."""
        for process in (self.agent, self.stranger, self.server):
            if process is not None:
                process.stop()

    # ------------------------------------------------------------ what happens to them

    def somebody_steals_a_token(self) -> None:
        """Have a device of theirs in, by a token that is good for another one."""
        created = self.run("edgectl devices token create --uses 2")
        assert self.token in created
        self.stranger = Agent(self.server, "stranger", self.folder / "stranger", self.token)
        self.stranger.start()

    def time_passes(self) -> None:
        """Stop all; the clock of whatever starts from now on is 400 days later."""
        self.stop()
        self.later = shifted(LATER_S)
        self.server._environment |= self.later
        self.agent._environment |= self.later
        self.agent.token = ""

    # ------------------------------------------------------------ what is true afterwards

    def after_first_keys(self) -> None:
        self.wait_served("1")
        assert not list(self.server.data.glob("keys/root*.pem"))

    def after_a_rotation(self) -> None:
        assert self.keys("orders") != self.keys_before["orders"]
        assert self.keys("timestamp") != self.keys_before["timestamp"]
        assert self.status()["staged"] == []

    def after_a_lost_device(self) -> None:
        assert self.revoked_was_out
        with self.client as client:
            wait_for(lambda: client.device("pi-1").online, "the device back")
        self.wait_served("1")

    def after_a_leaked_online_key(self) -> None:
        for role in ONLINE:
            assert not self.keys(role) & self.keys_before[role], role

    def after_a_stolen_enrolment_token(self) -> None:
        command = [sys.executable, "-m", "edgectl_agent", "enrol", "--device", "stranger-2"]
        command += ["--server", self.server.url, "--state", str(self.folder / "stranger-2")]
        done = subprocess.run(
            [*command, "--token-file", "-"],
            input=self.token,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode != 0
        assert "enrol.token" in done.stdout + done.stderr
        with self.client as client:
            assert client.device("stranger").state == "decommissioned"

    def after_a_lost_admin_password(self) -> None:
        first = (self.server.data / "admin-password").read_text().strip()
        with Client(self.server.url) as anonymous:
            with pytest.raises(EdgectlError):
                anonymous.login("admin", first, name="before")
            assert anonymous.login("admin", self.password, name="after").token

    def after_a_restored_backup(self) -> None:
        self.wait_served("3")

    def after_expired_metadata_after_a_long_stop(self) -> None:
        self.wait_served("1")
        assert self.status()["staged"] == []

    def wait_served(self, version: str) -> None:
        """Wait until the device serves a version."""
        assert self.agent is not None
        wait_for(lambda: self.agent.served("har") == version, f"version {version} served")

    def status(self) -> Any:
        """Return what `edgectl keys status` says."""
        return json.loads(self.run("edgectl keys status --json"))

    def keys(self, role: str) -> set[str]:
        """Return the ids of a role's keys."""
        (found,) = [one for one in self.status()["roles"] if one["name"] == role]
        return {key["keyid"] for key in found["keys"]}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    shutil.copy(MODEL, tmp_path / "har.onnx")
    yield desk
    desk.stop()


def test_every_command_of_the_guide_does_what_it_says(desk: Desk) -> None:
    faketime()  # skip at once, not after a minute
    for title, lines in sections():
        name = title.lower().replace(" ", "_")
        if title == "A stolen enrolment token":
            desk.somebody_steals_a_token()
        if title != "First keys":
            desk.keys_before = {role: desk.keys(role) for role in ONLINE}
        if title.startswith("Expired"):
            desk.time_passes()
        for line in lines:
            desk.type(line)
        getattr(desk, f"after_{name}")()
