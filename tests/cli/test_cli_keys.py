"""``edgectl keys`` as it is typed: it becomes another program, with its own exit codes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgectl.commands import keys as keys_module

EDGECTL = str(shutil.which("edgectl", path=str(Path(sys.executable).parent)))
RUN_S = 60


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "EDGECTL_SERVER_DATA": str(folder / "data")}
    return subprocess.run(
        [EDGECTL, *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=RUN_S,
    )


def test_a_server_starts_when_its_first_metadata_is_signed(tmp_path: Path) -> None:
    """Real processes: ceremony, a start that is refused, signatures, a start that is not."""
    for name in ("ana", "ben"):
        made = run("keys", "generate", f"{name}.pem", "--no-passphrase", "--json", folder=tmp_path)
        assert len(json.loads(made.stdout)["keyid"]) == 64
    begun = run(
        *("keys", "init", "--root", "ana.pub", "--root", "ben.pub", "--root-threshold", "2"),
        *("--targets", "ben.pub"),
        folder=tmp_path,
    )
    assert begun.returncode == 0, begun.stderr
    start = ("server", "start", "--port", "0", "--broker-port", "0", "--json")
    refused = run(*start, folder=tmp_path)
    assert refused.returncode == 1
    assert "error[tuf.unsigned]" in refused.stderr
    assert "root lacks 2, targets lacks 1" in refused.stderr

    for role, names in (("root", ("ana", "ben")), ("targets", ("ben",))):
        run("keys", "export", role, "--output", f"{role}.json", folder=tmp_path)
        for name in names:
            run("keys", "sign", f"{role}.json", "--key", f"{name}.pem", "--yes", folder=tmp_path)
        taken = run("keys", "import", f"{role}.json", folder=tmp_path)
        assert taken.returncode == 0, taken.stderr
    assert run("keys", "status", folder=tmp_path).returncode == 0

    environment = {**os.environ, "EDGECTL_SERVER_DATA": str(tmp_path / "data")}
    with subprocess.Popen(
        [EDGECTL, *start], env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            assert json.loads(server.stdout.readline())["ready"] is True
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(RUN_S) == 0


def test_the_exit_codes_and_the_help_come_through(tmp_path: Path) -> None:
    missing = run("keys", "status", folder=tmp_path)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert re.match(r"error\[server\.data\]: .*\ntry: ", missing.stderr)
    assert run("keys", "rotate", folder=tmp_path).returncode == 2
    shown = run("keys", "--help", folder=tmp_path)
    assert shown.stdout.startswith("Usage: edgectl keys")


def test_a_missing_package_is_named(edgectl: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "_NEEDED", ("tuf", "no_such_package"))
    done = edgectl("keys", "list")  # type: ignore[operator]
    assert done.code == 1
    assert "error[keys.not_installed]" in done.err
    assert "pip install 'edgectl[keys]'" in done.err


def test_names_that_a_server_gives_do_nothing_to_a_terminal(
    logged_in: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGECTL_SERVER_DATA", raising=False)
    shown = logged_in("keys", "status")  # type: ignore[operator]
    assert shown.code == 3
    assert "\x1b" not in shown.out + shown.err
    assert "\\x1b[31mred" in shown.out
    assert json.loads(logged_in("keys", "status", "--json").out)["staged"][0]["role"] == "vision"  # type: ignore[operator]
