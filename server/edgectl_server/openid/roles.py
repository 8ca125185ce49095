"""From the claims of a person to a role: the setting `oidc_roles`, read and applied. Pure.

``"edge-admins=admin; cn=operations,ou=groups=operator"``: entries are separated by semicolons and
split at the last ``=``, because names of groups may hold commas, spaces and ``=``. Who matches
several gets the highest role; who matches none gets the default role, or no entry.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

from edgectl_server.auth import ROLES
from edgectl_server.errors import Refused
from edgectl_server.schemas import Role

__all__ = ["claim_values", "parse_roles", "role_of"]

_VALUES_MAX = 2000
_COMMA = re.compile(rf"=\s*({'|'.join(ROLES)})\s*,")


def parse_roles(text: str) -> dict[str, Role]:
    """Read the mapping of claim values to roles.

    Raises:
        Refused: ``settings.invalid``.
    """
    mapping: dict[str, Role] = {}
    for entry in (one.strip() for one in text.split(";")):
        if not entry:
            continue
        value, _, role = (part.strip() for part in entry.rpartition("="))
        comma = _COMMA.search(value)  # surely meant as the end of an entry
        if not value or role not in get_args(Role) or value in mapping or comma:
            raise Refused(
                "settings.invalid",
                f"oidc_roles: {entry!r} is not `value=role` with a role of {', '.join(ROLES)}, "
                "each value once",
                hint='write it like "edge-admins=admin; edge-operators=operator"',
            )
        mapping[value] = cast("Role", role)
    return mapping


def claim_values(claims: Mapping[str, Any], name: str) -> list[str]:
    """Return the strings of the claim `name`; dots lead into objects (``realm_access.roles``).

    What is not a string, or not a list of strings, counts as nothing.
    """
    found: Any = claims
    if name in claims:
        found = claims[name]
    else:
        for part in name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    listed = [found] if isinstance(found, str) else found if isinstance(found, list) else []
    return [one for one in listed[:_VALUES_MAX] if isinstance(one, str)]


def role_of(values: Sequence[str], mapping: Mapping[str, Role], default: str) -> Role | None:
    """Return the highest role of `values`, or the default one; None: no entry."""
    found = {mapping[one] for one in values if one in mapping}
    for role in reversed(ROLES):
        if role in found:
            return role
    return cast("Role", default) if default else None
