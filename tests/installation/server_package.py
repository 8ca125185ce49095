"""The server's Debian package on a machine with systemd, with an agent's, to the purge.

One course of one server: what each step leaves is what the next one finds.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from e2e.conftest import activity  # noqa: F401 - a fixture
from e2e.fleet import Server
from edgectl.client import Client
from installation.machine import Machine, booted, make_root, remove
from installation.packages import build, install, lintian, needs_programs, put, with_version
from waiting import wait_for

UNIT = "edgectl-server.service"
AGENT = "edgectl-agent.service"
EXPOSURE_MAX = 2.0
DATA = "var/lib/edgectl-server"
NEXT = """\
import sqlalchemy as sa
from alembic import op

revision = "9999_next"
down_revision = "{before}"
branch_labels = None
depends_on = None


def upgrade():
    op.create_table("of_the_next_version", sa.Column("id", sa.Integer, primary_key=True))
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("server", tmp_path_factory.mktemp("package"))


@pytest.fixture
def machine() -> Iterator[Machine]:
    # Device nodes and programs must work there, which memory file systems may forbid.
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    try:
        with booted(make_root(folder, "bookworm")) as machine:
            yield machine
    finally:
        remove(folder)


def free_ports() -> tuple[int, int]:
    """Return two ports that are free now; the machine shares this one's network."""
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        return one.getsockname()[1], two.getsockname()[1]


def with_a_migration(tree: Path) -> None:
    """Make of a package that of a next version, whose tables are others."""
    (versions,) = tree.glob(
        "usr/lib/edgectl-server/lib/*/site-packages/edgectl_server/storage/migrations/versions"
    )
    newest = max(path.stem for path in versions.glob("[0-9]*.py"))
    (versions / "9999_next.py").write_text(NEXT.format(before=newest))


def revision(machine: Machine) -> str:
    found = sqlite3.connect(machine.root / DATA / "edgectl.sqlite")
    try:
        return str(found.execute("SELECT version_num FROM alembic_version").fetchone()[0])
    finally:
        found.close()


class There(Server):
    """The server on the machine, as the tests drive one of their own."""

    def __init__(self, machine: Machine, url: str) -> None:
        self.url = url
        self.data = machine.root / DATA
        self.log = SimpleNamespace(
            read_text=lambda: machine.run("journalctl", "--unit", UNIT, "--no-pager")
        )
        self._client: Client | None = None

    def stop_client(self) -> None:
        """Forget the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None


@needs_programs
@pytest.mark.timeout(900)
def test_the_course_of_a_server(
    machine: Machine,
    package: Path,
    activity: dict[str, Any],  # noqa: F811 - a fixture
    tmp_path: Path,
) -> None:
    agent = put(machine, build("agent", tmp_path / "agent"))
    assert "systemctl enable --now edgectl-server" in install(machine, put(machine, package))
    assert machine.shows(UNIT, "ActiveState") == "inactive", "nothing runs before it is set up"
    port, broker_port = free_ports()
    settings = machine.root / "etc/edgectl/server.toml"
    text = settings.read_text().replace("listen_port = 8080", f"listen_port = {port}")
    settings.write_text(f"{text}broker_port = {broker_port}\n")

    # --- what keeps it from starting is said, and it starts when that is over, however long it took
    with socket.create_server(("127.0.0.1", port)):
        machine.run("systemctl", "enable", "--now", UNIT, codes=(1,))
        said = machine.run("journalctl", "--unit", UNIT, "--no-pager")
        assert f"the API: 127.0.0.1 port {port}: Address already in use" in said, said
        wait_for(lambda: int(machine.shows(UNIT, "NRestarts")) > 5, "tried again", bound_s=180)
    wait_for(lambda: machine.shows(UNIT, "ActiveState") == "active", "the start", bound_s=120)

    # --- started, it is closed in
    assert machine.shows(UNIT, "StatusText") == f"serves on 127.0.0.1 port {port}"
    state = (machine.root / DATA).stat()
    assert state.st_mode & 0o777 == 0o700
    assert state.st_uid != 0
    rating = machine.run("systemd-analyze", "security", "--no-pager", UNIT)
    exposure = float(re.search(r"exposure level for \S+: ([0-9.]+)", rating)[1])  # type: ignore[index]
    assert exposure <= EXPOSURE_MAX, rating

    # --- a model, within the sandbox, and a device that commits it
    server = There(machine, f"http://127.0.0.1:{port}")
    pushed = server.push("har", activity["model"], calibration=activity["calibration"])
    assert pushed.state == "succeeded", pushed.error
    install(machine, agent)
    with (machine.root / "etc/edgectl/agent.toml").open("a") as more:
        more.write("port = 0\n")
    machine.run(
        *("edgectl-agent", "setup", "--server", server.url, "--device", "pi-1"),
        *("--token-file", "-"),
        given=server.enrol_token(),
    )
    server.wait_rollout(server.roll_out("har", "1", observe_s=0.2))
    log = machine.run("journalctl", "--unit", UNIT, "--output", "cat", "--no-pager")
    assert "ERROR" not in log, log
    assert "isolat" not in log, f"the sandbox takes nothing away that the pipeline wants:\n{log}"

    # --- backed up, as its user
    (machine.root / "root/passphrase").write_text("correct horse battery staple\n")
    machine.run(
        "install", "-m", "0600", "-o", "edgectl-server", "/root/passphrase", "/run/passphrase"
    )
    machine.run("install", "-d", "-m", "0700", "-o", "edgectl-server", "/srv/backups")
    machine.run(
        *("systemd-run", "--quiet", "--pipe", "--wait", "--property", "User=edgectl-server"),
        *("--property", "EnvironmentFile=-/etc/edgectl/server.env", "edgectl", "server", "backup"),
        *("/srv/backups", "--passphrase-file", "/run/passphrase"),
        *("--config", "/etc/edgectl/server.toml", "--data", f"/{DATA}"),
    )

    # --- upgraded, it brings its tables up to date, and the device stays the process that it is
    before, process = revision(machine), machine.shows(AGENT, "MainPID")
    second = with_version(package, "0.2.0~deb12", tmp_path, with_a_migration)
    install(machine, put(machine, second))
    wait_for(lambda: machine.shows(UNIT, "StatusText").startswith("serves"), "the new version")
    assert (before, revision(machine)) == (max(before, "0001"), "9999_next")
    server.stop_client()
    wait_for(lambda: server.client.device("pi-1").online, "the device back", bound_s=90)
    assert machine.shows(AGENT, "MainPID") == process
    pushed = server.push("har", activity["model"], "2", precisions=["fp32"])
    assert pushed.state == "succeeded", pushed.error
    server.wait_rollout(server.roll_out("har", "2", observe_s=0.2))
    server.stop_client()

    # --- back to the version before, it says why not, and a backup is the way
    install(machine, f"/root/{package.name}")
    said = machine.run("systemctl", "status", UNIT, codes=(3,))
    assert "newer edgectl" in machine.run("journalctl", "--unit", UNIT, "--no-pager"), said
    machine.run("systemctl", "stop", UNIT)
    machine.run("mv", f"/{DATA}", "/srv/lost")
    machine.run("install", "-d", "-m", "0700", "-o", "edgectl-server", f"/{DATA}")
    machine.run(
        *("runuser", "-u", "edgectl-server", "--", "edgectl", "server", "restore", "/srv/backups"),
        *("--passphrase-file", "/run/passphrase", "--data", f"/{DATA}"),
    )
    machine.run("systemctl", "start", UNIT)
    assert revision(machine) == before

    # --- purged, nothing of it is left, and the agent's is
    machine.run("apt-get", "purge", "--quiet=2", "--yes", "edgectl-server")
    assert not os.path.lexists(machine.root / DATA)
    left = sorted(path.name for path in (machine.root / "etc/edgectl").iterdir())
    assert left == ["agent.toml", "hooks"]


def test_two_builds_are_the_same_bytes(package: Path, tmp_path: Path) -> None:
    again = build("server", tmp_path / "again", TZ="Asia/Tokyo", LC_ALL="C")
    assert again.read_bytes() == package.read_bytes()


@pytest.mark.skipif(shutil.which("lintian") is None, reason="lintian is not installed")
def test_lintian_finds_nothing_that_is_not_documented(package: Path) -> None:
    done = lintian(package)
    assert done.returncode == 0, done.stdout
