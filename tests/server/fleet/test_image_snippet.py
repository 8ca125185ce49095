"""What an image does at first boot: valid cloud-init that runs command lines of ours."""

from __future__ import annotations

import configparser
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from edgectl_agent.cli import make_parser
from edgectl_protocol.names import check_device_id
from edgectl_server.image_snippet import TOKEN, image_snippet

AUTHORITY = "sha256:" + "5b" * 32
SECRET = "ee_0123456789abcdef_" + "A" * 43
GIVEN = {
    "server": "https://edge.example.org:8080",
    "authority": AUTHORITY,
    "prefix": "site-a",
    "package": "/boot/firmware/edgectl-agent_0.1.0~deb13_arm64.deb",
}


def cloud_config(**changes: str) -> dict:
    text = image_snippet("cloud-init", **(GIVEN | changes)).replace(TOKEN, SECRET)
    assert text.startswith("#cloud-config\n"), "cloud-init knows it by this line"
    return yaml.safe_load(text)


def files_of(config: dict) -> dict[str, dict]:
    return {one["path"]: one for one in config["write_files"]}


def test_it_is_cloud_init_that_writes_a_secret_and_a_script_and_runs_it() -> None:
    config = cloud_config()
    assert set(config) == {"write_files", "runcmd"}
    files = files_of(config)
    for one in files.values():
        assert set(one) == {"path", "permissions", "content"}
        assert all(isinstance(value, str) for value in one.values()), "0600 would be the number 384"
    token = files.pop("/etc/edgectl/token")
    assert (token["permissions"], token["content"]) == ("0600", SECRET + "\n")
    script = files.pop("/usr/local/sbin/edgectl-first-boot")
    assert script["permissions"] == "0755"
    ((path, unit),) = files.items()
    assert config["runcmd"][0] == ["systemctl", "enable", "--now", "--no-block", Path(path).name]
    assert not [one for one in (script, unit) if SECRET in one["content"]]


def test_it_is_begun_again_at_every_boot_until_the_token_is_used() -> None:
    """cloud-init's commands run once, whether the power went in the middle or not."""
    files = files_of(cloud_config())
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(files["/etc/systemd/system/edgectl-first-boot.service"]["content"])
    assert unit["Unit"]["ConditionPathExists"] in files, "what setup removes at its end"
    assert files[unit["Service"]["ExecStart"]]["permissions"] == "0755"
    assert unit["Install"]["WantedBy"] == "multi-user.target"


def run(
    script: str, folder: Path, *, fails: int, package: bool, apt_fails: int = 0, cut: bool = False
) -> tuple[int, list[list[str]]]:
    """Run a script as root would, with commands that note how they were called.

    Args:
        script: what is run.
        folder: stands for ``/etc``.
        fails: how often the agent does not get in.
        package: whether the agent is installed already.
        apt_fails: how often apt-get, asked for anything, fails.
        cut: whether the power went while it was installed, and the package is not configured.
    """
    tools, log = folder / "bin", folder / "calls"
    tools.mkdir()
    for name in ("sh", "cut", "sleep", "id", "install", "cat"):
        (tools / name).symlink_to(shutil.which(name) or name)
    note = f'#!/bin/sh\nfor each in "$0" "$@"; do echo "$each" >>{log}; done; echo >>{log}\n'
    agent = f"""{note}
[ "$(cat {folder}/left)" = "" ] && exit 0
printf %s "$(cut -c2- {folder}/left)" >{folder}/left; exit 3
"""
    (folder / "left").write_text("x" * fails)
    (folder / "apt").write_text("x" * apt_fails)
    installs = f"""{note}
[ "$(cat {folder}/status)" = half-configured ] && exit 100
if [ "$(cat {folder}/apt)" != "" ]; then
    printf %s "$(cut -c2- {folder}/apt)" >{folder}/apt; exit 100
fi
[ "$1" = install ] || exit 0
echo installed >{folder}/status
cat >{tools}/edgectl-agent <<'END'
{agent}
END
/bin/chmod 755 {tools}/edgectl-agent
"""
    status = "half-configured" if cut else "installed" if package else ""
    (folder / "status").write_text(status)
    configures = f"{note}\n[ -s {folder}/status ] && echo installed >{folder}/status; exit 0\n"
    asked = f"#!/bin/sh\ncat {folder}/status\n"
    for name, text in (
        ("apt-get", installs), ("dpkg", configures), ("dpkg-query", asked), ("edgectl-agent", agent)
    ):  # fmt: skip
        if name != "edgectl-agent" or package:
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
    (folder / "machine-id").write_text("9f8e7d6c5b4a39281706f5e4d3c2b1a0\n")
    here = script.replace("/etc/", f"{folder}/").replace("sleep 10", "sleep 0")
    (folder / "first-boot").write_text(here)
    done = subprocess.run(
        ["/bin/sh", str(folder / "first-boot")],
        env={**os.environ, "PATH": str(tools)}, timeout=30, check=False,
    )  # fmt: skip
    calls = [one.splitlines() for one in log.read_text().split("\n\n") if one]
    return done.returncode, [[Path(words[0]).name, *words[1:]] for words in calls]


@pytest.mark.parametrize("package", [False, True])
def test_the_script_installs_and_sets_up_until_it_is_in(tmp_path: Path, package: bool) -> None:
    files = files_of(cloud_config())
    code, calls = run(
        files["/usr/local/sbin/edgectl-first-boot"]["content"], tmp_path, fails=2, package=package
    )
    assert code == 0
    if not package:
        assert calls.pop(0) == ["dpkg", "--configure", "-a"]
        assert calls.pop(0) == ["apt-get", "install", "-y", GIVEN["package"]]
    assert len(calls) == 3, "the network and the clock come later"
    assert calls[0] == calls[1] == calls[2]
    command, *words = calls[0]
    assert command == "edgectl-agent"
    options = make_parser().parse_args(words)  # a command line of ours
    assert (options.command, options.server) == ("setup", GIVEN["server"])
    assert options.authority == AUTHORITY
    assert check_device_id(options.device) == "site-a-9f8e7d6c"
    assert str(options.token_file) == f"{tmp_path}/edgectl/token"


def test_a_package_that_needs_others_is_tried_again_when_the_lists_and_the_network_are_there(
    tmp_path: Path,
) -> None:
    files = files_of(cloud_config())
    script = files["/usr/local/sbin/edgectl-first-boot"]["content"]
    code, calls = run(script, tmp_path, fails=0, package=False, apt_fails=3)
    assert code == 0
    install, update = ["apt-get", "install", "-y", GIVEN["package"]], ["apt-get", "update"]
    # Neither at first; the lists at the second turn; then the package.
    assert [one for one in calls[:-1] if one[0] == "apt-get"] == [
        install,
        update,
        install,
        update,
        install,
    ]
    assert calls[-1][:2] == ["edgectl-agent", "setup"]


def test_a_package_that_was_installed_in_part_is_finished_first(tmp_path: Path) -> None:
    """Its command is there already, and apt-get refuses everything before dpkg has gone on."""
    files = files_of(cloud_config())
    script = files["/usr/local/sbin/edgectl-first-boot"]["content"]
    code, calls = run(script, tmp_path, fails=0, package=True, cut=True)
    assert code == 0
    assert [one[:2] for one in calls] == [
        ["dpkg", "--configure"], ["apt-get", "install"], ["edgectl-agent", "setup"]
    ]  # fmt: skip


def test_it_gives_up_when_it_never_gets_in(tmp_path: Path) -> None:
    files = files_of(cloud_config())
    content = files["/usr/local/sbin/edgectl-first-boot"]["content"]
    code, calls = run(content, tmp_path, fails=99, package=True)
    assert (code, len(calls)) == (1, 30)


def test_as_a_script_it_keeps_the_secret_to_root(tmp_path: Path) -> None:
    text = image_snippet("script", **GIVEN).replace(TOKEN, SECRET)
    code, calls = run(text, tmp_path, fails=0, package=True)
    assert (code, len(calls)) == (0, 1)
    token = tmp_path / "edgectl" / "token"
    assert (token.read_text(), token.stat().st_mode & 0o777) == (SECRET + "\n", 0o600)
    assert not [word for call in calls for word in call if SECRET in word]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("server", "https://edge.example.org:8080/$(reboot)"),
        ("server", "https://edge.example.org\nruncmd: [reboot]"),
        ("server", "https://a b"),
        ("server", "ftp://edge.example.org"),
        ("prefix", "pi;reboot"),
        ("prefix", '"$(reboot)"'),
        ("prefix", "p" * 41),
        ("prefix", "pi-"),
        ("package", "/boot/a b.deb"),
        ("package", "edgectl-agent.deb"),
        ("package", "/tmp/x.deb; reboot"),
        ("package", "/tmp/x.deb\n"),
        ("authority", "sha256:x"),
    ],
)
def test_nothing_that_a_shell_or_yaml_reads_gets_in(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="does not match"):
        image_snippet("cloud-init", **(GIVEN | {name: value}))


@pytest.mark.parametrize("server", ["http://192.0.2.10:8080", "https://[2001:db8::1]:8443"])
def test_addresses_stay_one_word(server: str) -> None:
    script = files_of(cloud_config(server=server))["/usr/local/sbin/edgectl-first-boot"]["content"]
    (line,) = [one for one in script.splitlines() if "setup" in one]
    words = shlex.split(line.removesuffix(" \\"))
    assert words[words.index("--server") + 1] == server
