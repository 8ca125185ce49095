"""A fake server, and a command line with its own home."""

import contextlib
import io

import pytest

from cli.answers import install_answers
from cli.fake_server import TOKEN, FakeServer
from edgectl.cli import run


class Outcome:
    """What a command line has done."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def server():
    fake = FakeServer()
    yield fake
    fake.kill()


@pytest.fixture
def fleet_server(server):
    """A server with one of everything."""
    install_answers(server)
    return server


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home without any configuration."""
    folder = tmp_path / "home"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    for name in ("EDGECTL_CA", "EDGECTL_URL", "EDGECTL_TOKEN", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def edgectl(home, monkeypatch):
    """Run a command line in this process."""

    def call(*arguments, stdin=""):
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run([str(argument) for argument in arguments])
        return Outcome(code, out.getvalue(), err.getvalue())

    return call


@pytest.fixture
def logged_in(edgectl, fleet_server, monkeypatch):
    """The same, logged in to `fleet_server`."""
    monkeypatch.setenv("EDGECTL_URL", fleet_server.url)
    monkeypatch.setenv("EDGECTL_TOKEN", TOKEN)
    return edgectl


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A file to push, in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "har.onnx").write_bytes(b"a model")
    return "har.onnx"
