"""How keys, signatures and alerts look on the command line."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from edgectl import types
from edgectl.output import age, plain, state_text, table

__all__ = ["alerts_table", "staged_text", "trust_table", "wait_text"]


def wait_text(wait: types.SignatureWait) -> str:
    """Return whose signatures a version waits for, in words."""
    role = plain(wait.role)
    if not wait.missing:
        return f"is signed by {role}, and waits for other staged changes"
    return f"waits for {wait.missing} of {wait.threshold} signatures of {role}"


def trust_table(roles: Sequence[types.TrustRole]) -> Table:
    """Return one row a role of the signed metadata."""
    columns = ["ROLE", ">VERSION", "ENDS", "WHERE", "SIGNED BY", "SIGNS FOR"]
    rows = [
        (
            plain(role.name),
            plain(role.version),
            "-" if role.expires is None else age(role.expires),
            "online" if role.online else "offline",
            f"{role.threshold} of: {_names(role.keys)}",
            plain(", ".join(role.patterns)),
        )
        for role in roles
    ]
    return table(columns, rows)


def staged_text(one: types.StagedInfo) -> str:
    """Return what a staged change waits for, in words."""
    name = f"{plain(one.role)} {one.version}"
    if not one.missing:
        return f"{name} is signed, and waits for other staged changes"
    people = _names(one.unsigned)
    return f"{name} waits for {one.missing} of {one.threshold} signatures: {people}"


def _names(keys: Sequence[types.TrustKey]) -> str:
    return ", ".join(plain(key.name or key.keyid[:12]) for key in keys)


def alerts_table(alerts: Sequence[types.AlertInfo]) -> Table:
    """Return what needs attention, with what to do about it."""
    rows: list[tuple[Text | str, str]] = []
    for one in alerts:
        rows.append((state_text(one.severity), plain(one.detail)))
        rows.append(("", f"try: {plain(one.hint)}"))
    return table(["ALERT", ""], rows)
