"""The documentation says what the code does: topics, error codes, settings, commands, links."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from edgectl.cli import cli
from edgectl_agent.cli import main as agent_main
from edgectl_agent.examination import CHECKS
from edgectl_agent.hooks import HOOKS
from edgectl_agent.reference import command_names
from edgectl_protocol import topics
from edgectl_server.cli import main as server_cli

ROOT = Path(__file__).parents[2]
DOCS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
CODE = re.compile(r"[a-z0-9]+\.[a-z0-9_]+")


def test_every_topic_is_documented():
    page = (ROOT / "docs/protocol.md").read_text()
    digest = "sha256:" + "0" * 64
    built = [
        topics.head(),
        topics.metadata("timestamp", None),
        topics.chunk_index(digest).replace("0" * 64, "<sha256>"),
        topics.order("x").replace("/x/", "/<device>/"),
        topics.ack("x").replace("/x/", "/<device>/"),
        topics.command("x").replace("/x/", "/<device>/"),
        topics.state("x").replace("/x/", "/<device>/"),
        topics.event("x").replace("/x/", "/<device>/"),
        topics.telemetry("x").replace("/x/", "/<device>/"),
        topics.seed("x").replace("/x/", "/<device>/"),
        topics.alerts(),
        topics.device_alert("x").replace("/x/", "/<device>/"),
    ]
    for topic in built:
        assert f"`{topic.removeprefix('edgectl/v1/')}`" in page, topic


@pytest.mark.parametrize("page", DOCS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), target


def test_error_codes_are_documented():
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs/collect_errors.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def commands_in(text):
    """Yield each `edgectl …` line of the shell blocks of a page."""
    for block in re.findall(r"```(?:sh|console)\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = line.removeprefix("$ ").split("#")[0].split()
            if words and words[0] == "edgectl":
                yield words[1:]


@pytest.mark.parametrize("page", DOCS, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options_exist(page):
    for words in commands_in(page.read_text()):
        command: click.Command = cli
        rest = list(words)
        while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            assert rest[0] in command.commands, " ".join(words)
            command = command.commands[rest.pop(0)]
        known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
        if command.context_settings.get("ignore_unknown_options"):  # passed on to the server
            continue
        for word in rest:
            if word.startswith("--"):
                assert word.split("=")[0] in known | {"--help"}, " ".join(words)


@pytest.mark.parametrize("command", [server_cli, *server_cli.commands.values()])
def test_every_help_of_the_server_has_examples_that_parse(command):
    lines = [line.strip() for line in (command.epilog or "").splitlines()]
    examples = [line for line in lines if line.startswith("edgectl server ")]
    assert examples
    for line in examples:
        name, *words = shlex.split(line.split(" > ")[0])[2:]
        server_cli.commands[name].make_context(name, words)


@pytest.mark.parametrize("command", ["", *command_names()])
def test_every_help_of_the_agent_has_examples(command, capsys):
    with pytest.raises(SystemExit) as ended:
        agent_main([*([command] if command else []), "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert f"edgectl-agent {command}".strip() in shown.partition("Examples:")[2]


def test_the_agents_commands_are_those_of_the_reference():
    done = subprocess.run(
        [sys.executable, "-m", "edgectl_agent.reference"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (ROOT / "docs/device-commands.md").read_text() == done.stdout
    page = (ROOT / "docs/device.md").read_text()
    for command in command_names():
        assert f"edgectl-agent {command}" in page, command


def test_every_hook_and_check_is_documented():
    page = (ROOT / "docs/device.md").read_text()
    for hook in HOOKS:
        assert f"`{hook}`" in page, hook
    for check in CHECKS:
        assert f"| {check} |" in page, check


def test_the_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    for page in DOCS:
        for target in re.findall(r"(?:^|`)make ([a-z0-9-]+)", page.read_text(), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), (page, target)


def test_every_public_module_says_what_it_is():
    for source in [*ROOT.glob("agent/**/*.py"), *ROOT.glob("server/**/*.py")]:
        if "node_modules" in source.parts or "migrations" in source.parts:
            continue
        assert ast.get_docstring(ast.parse(source.read_text())), source
