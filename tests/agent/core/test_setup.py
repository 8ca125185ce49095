"""``edgectl-agent setup`` on machines without systemd; with it: tests/installation."""

from __future__ import annotations

import contextlib
import io
import json
import tomllib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from edgectl_agent.cli import main
from edgectl_agent.commands import setup
from edgectl_agent.commands.setup import with_settings
from edgectl_agent.server_request import Answer

TOKEN = "ee_0123456789abcdef_" + "A" * 43


@pytest.fixture(autouse=True)
def without_systemd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(setup, "_SYSTEMD", tmp_path / "no systemd")


def answering(
    monkeypatch: pytest.MonkeyPatch,
    content: bytes = b'{"version": "0.1.0"}',
    off: timedelta = timedelta(),
) -> None:
    date = format_datetime(datetime.now(UTC) + off, usegmt=True)  # noqa: TID251 - compared with it
    monkeypatch.setattr(setup, "look", lambda *_, **__: Answer(200, content, date))


def run(tmp_path: Path, *arguments: str) -> int:
    config = tmp_path / "etc" / "agent.toml"
    return main(["setup", "--config", str(config), "--state", str(tmp_path / "state"), *arguments])


# ---------------------------------------------------------------- the settings file


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {"server": "http://h:8080"}),
        ("# a comment\nport = 0\n", {"server": "http://h:8080", "device": "pi-1"}),
        ('server = "http://old"\nport = 0\n', {"server": "http://h:8080"}),
        ('[labels]\nserver = "a label"\n', {"server": "http://h:8080"}),
        ("", {"server": 'http://h/"\\\x7f\u2028é'}),
    ],
)
def test_settings_are_written_and_everything_else_stays(text: str, values: dict[str, str]) -> None:
    before, after = tomllib.loads(text), tomllib.loads(with_settings(text, values))
    assert after == {**before, **values}
    assert with_settings(with_settings(text, values), values) == with_settings(text, values)
    for comment in (line for line in text.splitlines() if line.startswith("#")):
        assert comment in with_settings(text, values)


# ---------------------------------------------------------------- what is refused, and how


HOURS = timedelta(hours=2)


@pytest.mark.parametrize(
    ("content", "off", "says"),
    [
        (b"<html>", timedelta(), "error[enrol.reply]"),
        (b'"' + b"[" * 2000, timedelta(), "error[enrol.reply]"),
        (b'{"version": "1"}', HOURS, "s behind the server's"),
        (b'{"version": "1"}', -HOURS, "s ahead of the server's"),
    ],
)
def test_a_wrong_server_or_clock_is_refused_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    content: bytes,
    off: timedelta,
    says: str,
) -> None:
    answering(monkeypatch, content, off)
    monkeypatch.setenv("EDGECTL_AGENT_TOKEN", TOKEN)
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        assert run(tmp_path, "--server", "http://127.0.0.1:1") == 1
    assert says in said.getvalue()
    assert not (tmp_path / "etc").exists()
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [((), "--server is not given"), (("--server", "http://h:1"), "neither a token nor")],
)
def test_what_nobody_is_there_to_answer_is_asked_for_as_an_option(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    assert run(tmp_path, *arguments) == 2
    assert says in capsys.readouterr().err


def test_a_server_that_does_not_answer(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    authority = "sha256:" + "0" * 64
    assert run(tmp_path, "--server", "http://127.0.0.1:1", "--authority", authority) == 3
    assert "error[server.unreachable]" in capsys.readouterr().err


# ---------------------------------------------------------------- what is written


def test_a_refused_token_leaves_settings_to_try_again_with(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    answering(monkeypatch)
    (tmp_path / "token").write_text(TOKEN)
    arguments = ("--server", "http://127.0.0.1:1", "--device", "pi-1", "--json")
    assert run(tmp_path, *arguments, "--token-file", str(tmp_path / "token")) == 3
    assert "error[server.unreachable]" in capsys.readouterr().err
    config, token = tmp_path / "etc" / "agent.toml", tmp_path / "etc" / "token"
    assert tomllib.loads(config.read_text()) == {"server": "http://127.0.0.1:1", "device": "pi-1"}
    assert config.stat().st_mode & 0o777 == 0o644
    assert token.read_text().strip() == TOKEN
    assert token.stat().st_mode & 0o777 == 0o600


def test_what_is_not_ours_to_write_is_said_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "etc").mkdir()
    monkeypatch.setattr(setup.os, "access", lambda *_: False)
    assert run(tmp_path, "--server", "http://h:1") == 1
    assert "sudo" in capsys.readouterr().err


def test_steps_in_json_are_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    steps = setup._Steps(quiet=True)
    steps.say("server", "answers")
    assert capsys.readouterr().out == ""
    assert json.dumps(steps.done) == '[{"step": "server", "detail": "answers"}]'
