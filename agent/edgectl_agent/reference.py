"""``python -m edgectl_agent.reference``: the agent's commands in Markdown, made of every help."""

from __future__ import annotations

import argparse
import os

from edgectl_agent.cli import make_parser

__all__ = ["command_names", "reference"]

_WIDTH = "96"


def command_names() -> list[str]:
    """Return the commands in the order in which they are listed."""
    return list(_commands(make_parser()))


def reference() -> str:
    """Return the whole reference."""
    os.environ["COLUMNS"] = _WIDTH  # what argparse wraps at
    parser = make_parser()
    parts = [
        "# Commands of the agent",
        "",
        "Made of `--help` by `python -m edgectl_agent.reference > docs/device-commands.md`; a test",
        "keeps it so. What they are for: [at the device](device.md).",
        "",
    ]
    for name, one in {"": parser, **_commands(parser)}.items():
        lines = (line.rstrip() for line in one.format_help().splitlines())
        parts += [f"## edgectl-agent {name}".rstrip(), "", "```text", *lines, "```", ""]
    return "\n".join(parts).rstrip("\n") + "\n"


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            return dict(action.choices)
    raise AssertionError("there are commands")


if __name__ == "__main__":
    print(reference(), end="")
