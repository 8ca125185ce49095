"""``python -m edgectl.reference``: the command reference in Markdown, made of every ``--help``."""

from __future__ import annotations

from collections.abc import Iterator

import click

from edgectl.cli import cli

__all__ = ["commands", "reference"]

_WIDTH = 96


def commands(
    command: click.Command = cli, path: str = "edgectl", parent: click.Context | None = None
) -> Iterator[tuple[str, click.Context]]:
    """Yield every command's path and a context that can show its help, groups before members."""
    context = click.Context(
        command,
        parent,
        info_name=path.rpartition(" ")[2],
        terminal_width=_WIDTH,
        max_content_width=_WIDTH,
        color=False,
        help_option_names=["-h", "--help"],
    )
    yield path, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            member = command.get_command(context, name)
            if member is not None and not member.hidden:
                yield from commands(member, f"{path} {name}", context)


def reference() -> str:
    """Return the whole reference."""
    parts = [
        "# Commands",
        "",
        "Made of `--help` by `python -m edgectl.reference > docs/commands.md`; a test keeps it so.",
        "",
    ]
    for path, context in commands():
        depth = "##" if path.count(" ") < 2 else "###"  # noqa: PLR2004 - groups and their members
        lines = (line.rstrip() for line in context.get_help().splitlines())
        parts += [f"{depth} {path}", "", "```text", *lines, "```", ""]
    return "\n".join(parts).rstrip("\n") + "\n"


if __name__ == "__main__":
    print(reference(), end="")
