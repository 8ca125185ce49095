"""The examples of docs/sdk.md, beside a real inference process."""

import re
import shlex
import tomllib
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.inference.models import make_bundle
from edgectl_agent.cli import make_parser
from edgectl_agent.flows.sinks import SINKS
from edgectl_agent.flows.sources import SOURCES
from edgectl_agent.inference.process import InferenceProcess
from edgectl_agent.local_control import LocalControl
from edgectl_agent.local_messages import Answer, Hold, Outcome, Release
from edgectl_agent.settings import Settings
from waiting import wait_for

PAGE = (Path(__file__).parents[2] / "docs/sdk.md").read_text()


def blocks(kind):
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def process(tmp_path, monkeypatch):
    hub = tmp_path / "models.sock"
    monkeypatch.setenv("EDGECTL_MODELS_SOCKET", str(hub))
    running = InferenceProcess(host="127.0.0.1", port=0, socket=None, hub=hub)
    running.start()
    yield running
    running.stop()


def test_the_python_of_the_page_runs(process, tmp_path, monkeypatch, capsys):
    asked = []

    def answer(request, file):
        asked.append(request)
        return Answer()

    control = LocalControl(tmp_path / "control.sock", answer)
    control.start()
    monkeypatch.setenv("EDGECTL_CONTROL_SOCKET", str(tmp_path / "control.sock"))
    process.load(make_bundle(tmp_path, scores=True, labels=tuple("abcdefg")))
    measured = []
    names = {
        "window": np.zeros((6, 128), np.float32),
        "measure": lambda: measured.append(1),
    }
    for number, block in enumerate(blocks("python")):
        exec(compile(block, f"block {number}", "exec"), names)
        if "swapped" in block:
            process.load(make_bundle(tmp_path, version="2", scores=True))
            wait_for(lambda: names["model"].version == "2")
        names["model"].close()
    control.stop()
    shown = capsys.readouterr().out
    assert re.search(r"^[a-g] 0\.\d+ 1$", shown, re.MULTILINE)
    assert "now 2 () [('input', (-1, 6, 128))]" in shown
    assert "sdk.input: input 'input' has shape [3], expected" in shown
    assert measured == [1]
    assert [type(one) for one in asked] == [Hold, Release, Outcome]


def test_the_settings_of_the_page_are_settings():
    (block,) = blocks("toml")
    msgspec.convert(tomllib.loads(block), Settings)


def test_the_command_lines_of_the_page_are_understood():
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    lines += re.findall(r"ExecStart=/opt/edgectl/bin/(.*)", PAGE)
    assert len(lines) == 3
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "edgectl-agent"
        options = make_parser().parse_args(arguments)
        assert options.source.partition(":")[0] in SOURCES
        assert all(sink.partition(":")[0] in SINKS for sink in options.sinks)


def test_every_source_and_sink_is_on_the_page():
    for scheme in (*SOURCES, *SINKS):
        assert f"`{scheme}" in PAGE, scheme
