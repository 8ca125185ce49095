"""The commands of docs/operations/keys.md, all of them in their order, before a device's eyes."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from edgectl_server.ceremony.cli import main
from edgectl_server.ceremony.console import ATTENTION
from edgectl_server.clock import now
from edgectl_server.errors import Unavailable
from edgectl_server.signing.keys import Keys
from edgectl_server.signing.repository import Repository
from server.signing.conftest import PIN
from server.signing.devices import ClientDevice, Person, Published, target

PAGE = Path(__file__).parents[3] / "docs/operations/keys.md"
PASSPHRASE = "correct horse"
VISION = "models/vision-door/1/int8"


def commands(kind: str = "sh") -> list[list[str]]:
    """Return the lines of the page's shell blocks."""
    blocks = re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


class Desk:
    """Everybody's files in one folder, and a device that follows."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.folder = folder
        self.device: ClientDevice | None = None

    def run(self, *arguments: str, answers: str = "") -> Result:
        return CliRunner().invoke(main, list(arguments), input=answers)

    def open(self) -> Repository:
        return Repository.open(self.data / "tuf", Keys.open(self.data / "keys"), now())

    def start(self) -> None:
        """What ``edgectl server start`` does with keys."""
        repository = self.open()
        self.device = ClientDevice(self.folder / "device", repository.first_root)
        repository.add_targets([target(VISION), target("models/har/1/int8")], now())

    def check(self) -> None:
        assert self.device is not None
        published = Published(self.open().metadata())
        for path in (VISION, "models/har/1/int8"):
            assert self.device.look_up(published, path, now()) is not None, path


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGECTL_SERVER_DATA", str(tmp_path / "data"))
    return Desk(tmp_path)


def answers_to(words: list[str]) -> str:
    """What the person types: a new passphrase twice; yes, and the passphrase or PIN."""
    if words[0] == "generate":
        return f"{PASSPHRASE}\n{PASSPHRASE}\n"
    secret = PIN.decode() if any(word.startswith("hsm:") for word in words) else PASSPHRASE
    return f"y\n{secret}\n" if words[0] == "sign" else f"{secret}\n"


def test_every_command_of_the_page_does_what_it_says(desk: Desk, token: str) -> None:
    started = False
    imported = 0
    for words in commands():
        if words[0] == "export":
            continue
        if words[:2] == ["edgectl", "server"]:
            desk.start()
            started = True
            continue
        assert words[:2] == ["edgectl", "keys"], words
        if "--secret-file" in words:
            (desk.data / "keys" / "pin").write_bytes(PIN)
            (desk.data / "keys" / "pin").chmod(0o600)
        if words[2:4] == ["export", "vision"] and imported:
            repository = desk.open()
            if not any(one.role == "vision" for one in repository.status(now()).staged):
                repository.add_targets([target("models/vision-door/2/int8")], now())
                assert repository.awaits("models/vision-door/2/int8") == "vision"
        done = desk.run(*words[2:], answers=answers_to(words[2:]))
        assert done.exit_code == 0 or words[2] == "status", (words, done.output)
        if words[2] == "init":
            with pytest.raises(Unavailable, match="root lacks 2, targets lacks 1"):
                desk.open()
        if words[2] == "import":
            imported += 1
        if started:
            desk.check()
    assert imported == 15

    status = json.loads(desk.run("status", "--json").output)
    assert status["staged"] == []
    roles = {one["name"]: one for one in status["roles"]}
    assert {key["name"] for key in roles["root"]["keys"]} == {"ana", "cleo", "dora", "safe"}
    assert {key["name"] for key in roles["snapshot"]["keys"]} == {"snapshot token"}
    assert (roles["root"]["threshold"], roles["root"]["online"]) == (2, False)
    uris = [one["uri"] for one in json.loads(desk.run("list", "--json").output)]
    assert "hsm:3?label=edgectl" in uris
    left = {path.name for path in (desk.data / "keys").glob("*.pem")}
    assert len(left) == 3, left  # models, timestamp and orders: retired ones are gone


def test_an_installation_without_ceremony_is_taken_offline(desk: Desk) -> None:
    desk.start()
    for name in ("ana", "ben"):
        desk.run("generate", f"{name}.pem", "--name", name, "--no-passphrase")
    for words in commands("console"):
        done = desk.run(*words[2:])
        assert done.exit_code == 0, done.output
    for role in ("root", "targets"):
        desk.run("export", role, "--output", f"{role}.json")
        for name in ("ana", "ben") if role == "root" else ("ana",):
            done = desk.run("sign", f"{role}.json", "--key", f"{name}.pem", "--yes")
            assert done.exit_code == 0, done.output
        done = desk.run("import", f"{role}.json")
        assert done.exit_code == 0, done.output
    desk.check()
    assert not (desk.data / "keys" / "root.pem").exists()
    assert desk.run("status").exit_code == 0


def test_status_tells_a_timer_that_something_waits(desk: Desk) -> None:
    desk.start()
    assert desk.run("status").exit_code == 0
    ana = Person("ana")
    desk.open().delegate("vision", ["vision-*"], [ana.key], 1, now())
    done = desk.run("status")
    assert done.exit_code == ATTENTION
    assert "warning[trust.unsigned]: vision 1 waits for 1 more of: ana" in done.output
    shown = json.loads(desk.run("status", "--json").stdout)
    assert [one["code"] for one in shown["alerts"]] == ["trust.waiting", "trust.unsigned"]


def test_what_is_signed_is_shown_first_and_can_be_refused(desk: Desk) -> None:
    desk.run("generate", "ana.pem", "--no-passphrase", "--name", "ana")
    desk.run("init", "--root", "ana.pub", "--root-threshold", "1")
    desk.run("export", "root", "--output", "root.json")
    before = Path("root.json").read_bytes()
    done = desk.run("sign", "root.json", "--key", "ana.pem", answers="n\n")
    assert done.exit_code == 1
    assert "root: 1 of 1 keys sign" in done.output
    assert "root: + key ana (" in done.output
    assert Path("root.json").read_bytes() == before

    desk.run("generate", "mallory.pem", "--no-passphrase")
    done = desk.run("sign", "root.json", "--key", "mallory.pem", "--yes")
    assert (done.exit_code, "tuf.unknown_key" in done.output) == (1, True)
    done = desk.run("sign", "root.json", "--key", "ana.pem", "--previous", "root.json", "--yes")
    assert (done.exit_code, "keys.previous" in done.output) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["status"], "server.data"),
        (["generate", "here.pub", "--no-passphrase"], "keys.exists"),
        (["generate", "x.pem", "--no-passphrase", "--name", "\x1b[2J"], "keys.name"),
        (["sign", "absent.json", "--key", "here", "--yes"], "keys.file"),
        (["sign", "here.pub", "--key", "here", "--yes"], "tuf.malformed"),
        (["init", "--root", "absent.pub"], "keys.public"),
        (["init", "--root", "here.pub", "--root-threshold", "2"], "tuf.threshold"),
        (["public", "tkey:", "--output", "x"], "keys.missing"),
        (["status", "--passphrase-file", "here.pub"], "keys.p"),
    ],
)
def test_refusals_have_a_code_and_exit_with_1(desk: Desk, arguments: list[str], code: str) -> None:
    desk.run("generate", "here", "--no-passphrase")
    done = desk.run(*arguments)
    assert done.exit_code == 1, done.output
    assert f"error[{code}" in done.output


def test_a_key_is_named_by_name_or_the_beginning_of_its_id(desk: Desk) -> None:
    desk.start()
    (keyid,) = [
        one["keyid"]
        for one in json.loads(desk.run("list", "--json").stdout)
        if one["roles"] == ["timestamp"]
    ]
    for wrong in ("server nobody", keyid[:7], "0" * 12):
        done = desk.run("revoke", wrong)
        assert "error[tuf.unknown_key]" in done.output, done.output
    assert desk.run("revoke", keyid[:8]).exit_code == 0
    assert desk.run("revoke", "server timestamp").exit_code == 0
    desk.check()


def test_every_help_has_examples_that_parse(desk: Desk) -> None:
    for name, command in main.commands.items():
        lines = [line.strip() for line in (command.epilog or "").splitlines()]
        found = [shlex.split(line) for line in lines if line.startswith(f"edgectl keys {name}")]
        assert found, name
        assert any("--json" in option.opts for option in command.params), name
        for words in found:
            assert isinstance(command.make_context(name, words[3:]), click.Context)
