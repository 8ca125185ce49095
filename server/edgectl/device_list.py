"""The file of ``edgectl devices preauthorise``: lines of ``device,fingerprint[,group]``.

What follows a ``#`` is a remark, empty lines are nothing. A file is right as a whole or not at all.
"""

from __future__ import annotations

import sys
from pathlib import Path

from edgectl.errors import LocalError
from edgectl.types import PreauthorisedEntry
from edgectl_protocol.enrolment import format_fingerprint, parse_fingerprint
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.names import check_device_id, check_group_name

__all__ = ["parse_device_list", "read_device_list"]

LINES_MAX = 100_000
_FIELDS = (2, 3)
_CHARACTERS_MAX = 32 * 1024**2


def read_device_list(file: Path, group: str = "") -> list[PreauthorisedEntry]:
    """Return the entries of a file, ``-`` for standard input; errors as of `parse_device_list`."""
    try:
        if str(file) == "-":
            text = sys.stdin.read(_CHARACTERS_MAX)
        else:
            with file.open(encoding="utf-8") as stream:
                text = stream.read(_CHARACTERS_MAX)
    except (OSError, UnicodeDecodeError) as error:
        raise LocalError("devices.list", f"cannot read {file}: {error}") from error
    return parse_device_list(text, group)


def parse_device_list(text: str, group: str = "") -> list[PreauthorisedEntry]:
    """Return the entries of a file.

    Args:
        text: of the file.
        group: of the lines that name none.

    Raises:
        LocalError: ``devices.list``, naming the line.
    """
    lines = text.splitlines()
    if len(lines) > LINES_MAX:
        raise LocalError("devices.list", f"more than {LINES_MAX} lines", "split the file")
    entries: list[PreauthorisedEntry] = []
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        fields = [field.strip() for field in content.split(",")]
        if len(fields) not in _FIELDS:
            raise _wrong(number, "expected device,fingerprint[,group]")
        name, fingerprint, named = (*fields, "")[:3]
        try:
            check_device_id(name)
            digits = parse_fingerprint(fingerprint)
            chosen = check_group_name(named) if named else group
        except ProtocolError as error:
            raise _wrong(number, str(error)) from error
        if name in seen:
            raise _wrong(number, f"{name} is named twice")
        seen.add(name)
        entries.append(PreauthorisedEntry(name, format_fingerprint(digits), chosen))
    if not entries:
        raise LocalError("devices.list", "the file names no device", "see --help for its lines")
    return entries


def _wrong(number: int, what: str) -> LocalError:
    return LocalError(
        "devices.list",
        f"line {number}: {what}",
        "on the device, `edgectl-agent fingerprint` prints the line",
    )
