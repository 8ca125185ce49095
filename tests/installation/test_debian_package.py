"""The agent's Debian package on a machine with systemd, from the installation to the purge.

One course of one device: what each step leaves is what the next one finds.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.conftest import activity, start  # noqa: F401 - fixtures
from e2e.fleet import Server
from installation.machine import Machine, booted, make_root, remove
from installation.packages import (
    ROOT,
    build,
    depends,
    install,
    lintian,
    needs_programs,
    put,
    with_version,
)
from waiting import wait_for

UNIT = "edgectl-agent.service"
EXPOSURE_MAX = 1.5


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("agent", tmp_path_factory.mktemp("package"))


@pytest.fixture
def machine() -> Iterator[Machine]:
    # Device nodes and programs must work there, which memory file systems may forbid.
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    try:
        with booted(make_root(folder, "bookworm")) as machine:
            yield machine
    finally:
        remove(folder)


def serves(machine: Machine) -> str:
    """Return the version of `har` that the endpoint there says it serves; empty for none."""
    status = machine.run("edgectl-agent", "status", "--json", codes=(0, 1, 3))
    found = re.search(r'"endpoint": ?"(http://[^"]+)"', status)
    if found is None:
        return ""
    fetch = f"import urllib.request as u; print(u.urlopen('{found[1]}/v2/models/har').read())"
    answer = machine.run("python3", "-c", fetch, codes=(0, 1))
    version = re.search(r'"versions": ?\["([^"]+)"\]', answer)
    return version[1] if version else ""


@needs_programs
@pytest.mark.timeout(900)
def test_the_course_of_a_device(
    machine: Machine,
    package: Path,
    start,  # noqa: F811 - a fixture
    activity,  # noqa: F811 - a fixture
    tmp_path: Path,
) -> None:
    course(machine, package, start.server(), activity, tmp_path)


def course(
    machine: Machine,
    package: Path,
    server: Server,
    activity: dict[str, Any],  # noqa: F811 - a fixture
    tmp_path: Path,
) -> None:
    """Install, set up, serve, kill, upgrade, downgrade, remove, purge."""
    server.push("har", activity["model"], calibration=activity["calibration"])
    first = put(machine, package)

    assert "sudo edgectl-agent setup" in install(machine, first), "it says what is next"
    assert machine.shows(UNIT, "ActiveState") == "inactive", "nothing runs before it is set up"

    # --- set up
    with (machine.root / "etc/edgectl/agent.toml").open("a") as settings:
        settings.write("port = 0\n")
    said = machine.run(
        *("edgectl-agent", "setup", "--server", server.url, "--device", "pi-1"),
        *("--token-file", "-"),
        given=server.enrol_token(),
    )
    assert re.search(r"connected +serves at http://", said), said
    assert machine.shows(UNIT, "ActiveState") == "active"
    assert machine.shows(UNIT, "StatusText") == "connected"
    assert not (machine.root / "etc/edgectl/token").exists(), "the token is used up"
    state = (machine.root / "var/lib/private/edgectl-agent").stat()
    assert state.st_mode & 0o777 == 0o700
    assert state.st_uid >= 61184, "a user that systemd made for it: systemd.exec(5), DynamicUser"
    rating = machine.run("systemd-analyze", "security", "--no-pager", UNIT)
    exposure = float(re.search(r"exposure level for \S+: ([0-9.]+)", rating)[1])  # type: ignore[index]
    assert exposure <= EXPOSURE_MAX, rating
    assert "fail" not in machine.run("edgectl-agent", "doctor")

    # --- a model, within the sandbox
    server.wait_rollout(server.roll_out("har", "1"))
    assert wait_for(lambda: serves(machine), "har to be served") == "1"
    assert (machine.root / "run").is_dir()
    log = machine.run("journalctl", "--unit", UNIT, "--output", "cat", "--no-pager")
    assert "without" not in log, f"the sandbox takes nothing away that the agent wants:\n{log}"
    assert "ERROR" not in log, log

    # --- killed, it comes back with the model
    process = machine.shows(UNIT, "MainPID")
    machine.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", UNIT)
    wait_for(lambda: machine.shows(UNIT, "MainPID") not in {process, "0"}, "a restart", bound_s=90)
    assert wait_for(lambda: serves(machine), "har to be served again") == "1"

    # --- upgraded and downgraded, it keeps settings, identity and model
    second = put(machine, with_version(package, "0.2.0", tmp_path))
    for path in (second, first):
        process = machine.shows(UNIT, "MainPID")
        install(machine, path)
        assert machine.shows(UNIT, "MainPID") not in {process, "0"}, "the new version runs"
        assert wait_for(lambda: serves(machine), "har to be served again") == "1"
        assert "port = 0" in (machine.root / "etc/edgectl/agent.toml").read_text()
    wait_for(lambda: server.client.device("pi-1").online, "the device to be online")

    # --- removed, it ends and keeps its state; again installed it is who it was
    machine.run("apt-get", "remove", "--quiet=2", "--yes", "edgectl-agent")
    assert machine.shows(UNIT, "ActiveState") in {"inactive", "failed"}
    assert (machine.root / "var/lib/private/edgectl-agent/identity/enrolment.json").exists()
    install(machine, first)
    assert "enrolled    as pi-1" in machine.run("edgectl-agent", "setup")
    assert wait_for(lambda: serves(machine), "har to be served again") == "1"

    # --- purged, nothing is left
    machine.run("apt-get", "purge", "--quiet=2", "--yes", "edgectl-agent")
    for path in ("var/lib/private/edgectl-agent", "var/lib/edgectl-agent", "etc/edgectl"):
        assert not os.path.lexists(machine.root / path), path


def test_two_builds_are_the_same_bytes(package: Path, tmp_path: Path) -> None:
    again = build("agent", tmp_path / "again", TZ="Asia/Tokyo", LC_ALL="C")
    assert again.read_bytes() == package.read_bytes()


def test_what_its_scripts_run_is_installed_with_it(package: Path) -> None:
    assert "systemd-sysusers" in (ROOT / "packaging/deb/agent/postinst").read_text()
    assert "systemd" in depends(package), "a recommended package may be left out"


@pytest.mark.skipif(shutil.which("lintian") is None, reason="lintian is not installed")
def test_lintian_finds_nothing_that_is_not_documented(package: Path) -> None:
    done = lintian(package)
    assert done.returncode == 0, done.stdout
