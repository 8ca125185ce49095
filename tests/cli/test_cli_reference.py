"""Help: every command has examples, every example parses, the reference is current."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from edgectl.reference import commands, reference

DOCUMENT = Path(__file__).parents[2] / "docs" / "commands.md"
ALL = list(commands())
LIGHT = """
import contextlib, io, sys
from edgectl.cli import run
with contextlib.redirect_stdout(io.StringIO()) as shown:
    assert run(["--help"]) == run(["models", "list", "--help"]) == 0
assert "har@1" in shown.getvalue()
heavy = {"httpx2", "numpy", "sqlalchemy", "fastapi", "onnxruntime", "edgectl.demo.loop"}
print(sorted(heavy & set(sys.modules)))
"""
LEAVES = [(path, context) for path, context in ALL if not isinstance(context.command, click.Group)]


def example_lines():
    for path, context in ALL:
        for line in (context.command.epilog or "").splitlines():
            if line.startswith("  edgectl"):
                yield pytest.param(line.strip(), id=f"{path}: {line.strip()}")


def test_the_reference_is_current():
    assert DOCUMENT.read_text(encoding="utf-8") == reference(), (
        "run `python -m edgectl.reference > docs/commands.md`"
    )


@pytest.mark.parametrize(("path", "context"), ALL, ids=[path for path, _ in ALL])
def test_every_command_has_a_description_and_examples_of_itself(path, context):
    assert context.command.help
    lines = (context.command.epilog or "").splitlines()
    assert any(line.strip().startswith(path) for line in lines), f"{path} has no example"


@pytest.mark.parametrize(("path", "context"), LEAVES, ids=[path for path, _ in LEAVES])
def test_every_command_that_shows_something_can_show_json(path, context):
    if context.command.context_settings.get("ignore_unknown_options"):
        return  # it is another program's command line
    assert any("--json" in option.opts for option in context.command.params)


@pytest.mark.parametrize("line", list(example_lines()))
def test_every_example_parses(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = (
        "har.onnx",
        "har_v2.onnx",
        "detector.onnx",
        "cal.npz",
        "eval.npz",
        "steps.toml",
        "har.oci",
    )
    for name in (*files, "model.keras", "person.tflite"):
        (tmp_path / name).touch()
    (tmp_path / "saved_model").mkdir()
    words = shlex.split(line.split(" < ")[0].split(" > ")[0])[1:]
    command, parent = dict(ALL)["edgectl"].command, None
    while True:
        context = command.make_context("edgectl", words, parent=parent)
        if not isinstance(command, click.Group) or not context._protected_args:
            break
        words = [*context._protected_args, *context.args]
        _, command, words = command.resolve_command(context, words)
        parent = context


def test_completion_is_offered(home):
    completing = {
        "_EDGECTL_COMPLETE": "bash_complete",
        "COMP_WORDS": "edgectl rollout pa",
        "COMP_CWORD": "2",
    }
    done = subprocess.run(
        [shutil.which("edgectl", path=str(Path(sys.executable).parent))],
        env={**os.environ, **completing},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == b"plain,pause\n"


def test_a_command_waits_for_no_library_of_another():
    shown = subprocess.run(
        [sys.executable, "-c", LIGHT], capture_output=True, text=True, timeout=60, check=True
    )
    assert shown.stdout == "[]\n"
