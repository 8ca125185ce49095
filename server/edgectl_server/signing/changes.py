"""Changes of who may sign what: a root or targets in, an altered copy out.

Everything is checked here, before anything is signed: a threshold that nobody can meet would lock
the fleet out for ever.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, Root, Targets

from edgectl_protocol.errors import InvalidName
from edgectl_protocol.metadata import (
    MODELS_ROLE,
    ORDER_KEYS_FIELD,
    check_family,
    family_pattern,
)
from edgectl_server.errors import Conflict, NotFound, Refused
from edgectl_server.signing.documents import (
    families_of,
    mandate_in_root,
    mandate_in_targets,
    order_keys_of,
)

__all__ = [
    "TOP_ROLES",
    "add_family",
    "change_root_keys",
    "change_targets_keys",
    "covers",
    "remove_family",
]

TOP_ROLES = ("root", "targets", "snapshot", "timestamp", "orders")
"""The root says who signs for them; the targets say it of the others."""
_KEYS_MAX = 16
_FAMILIES_MAX = 24
"""python-tuf's client visits 32 roles at most."""
_PATTERNS_MAX = 16


def change_root_keys(
    root: Root, role: str, add: Sequence[Key], remove: Collection[str], threshold: int | None
) -> None:
    """Change the keys of one of `TOP_ROLES`, in place.

    Raises:
        NotFound: ``tuf.unknown_key``.
        Conflict: ``tuf.key_exists``.
        Refused: ``tuf.threshold``.
    """
    mandate = mandate_in_root(root, role)
    keyids = _changed(role, mandate.keyids, add, remove)
    if role == "orders":
        if threshold not in {None, 1}:
            raise Refused(
                "tuf.threshold", "orders have one signature", hint="leave the threshold out"
            )
        _check_threshold(role, len(keyids), 1)
        keys = {**order_keys_of(root), **{key.keyid: key for key in add}}
        root.unrecognized_fields[ORDER_KEYS_FIELD] = {
            keyid: keys[keyid].to_dict() for keyid in keyids
        }
        return
    threshold = mandate.threshold if threshold is None else threshold
    _check_threshold(role, len(keyids), threshold)
    for key in add:
        root.add_key(key, role)
    for keyid in remove:
        root.revoke_key(keyid, role)
    root.roles[role].threshold = threshold


def change_targets_keys(
    targets: Targets, role: str, add: Sequence[Key], remove: Collection[str], threshold: int | None
) -> None:
    """Change the keys of ``models`` or of a family, in place.

    Raises:
        NotFound: ``tuf.unknown_role`` or ``tuf.unknown_key``.
        Conflict: ``tuf.key_exists``.
        Refused: ``tuf.threshold``.
    """
    mandate = mandate_in_targets(targets, role)
    if mandate is None:
        raise _unknown_role(role, targets)
    keyids = _changed(role, mandate.keyids, add, remove)
    threshold = mandate.threshold if threshold is None else threshold
    _check_threshold(role, len(keyids), threshold)
    for key in add:
        targets.add_key(key, role)
    for keyid in remove:
        targets.revoke_key(keyid, role)
    _roles(targets)[role].threshold = threshold


def add_family(
    targets: Targets, family: str, patterns: Sequence[str], keys: Sequence[Key], threshold: int
) -> None:
    """Delegate models to a new family, in place; it is asked before ``models``.

    Args:
        targets: the top-level targets.
        family: its name.
        patterns: names of models, or beginnings of names and ``*``.
        keys: who signs for it.
        threshold: how many of them.

    Raises:
        Refused: ``tuf.family``: a name or pattern that cannot be; or ``tuf.threshold``.
        Conflict: ``tuf.family_exists``: there is such a family, or one for some of these models.
    """
    families = families_of(targets)
    try:
        check_family(family)
        paths = [family_pattern(pattern) for pattern in patterns]
    except InvalidName as error:
        raise Refused(
            "tuf.family",
            f"{error}",
            hint="a family is named like vision; a pattern is a model's name, or vision-*",
        ) from error
    if not 0 < len(set(paths)) <= _PATTERNS_MAX or len(families) >= _FAMILIES_MAX:
        raise Refused(
            "tuf.family",
            f"1 to {_PATTERNS_MAX} patterns, and {_FAMILIES_MAX} families at most",
            hint="combine some of them",
        )
    if family in families:
        raise Conflict(
            "tuf.family_exists",
            f"there is a family {family}",
            hint="change its keys with rotate; other patterns: undelegate it first",
        )
    for name, other in families.items():
        shared = [a for a in paths for b in other.paths or () if covers(a, b) or covers(b, a)]
        if shared:
            raise Conflict(
                "tuf.family_exists",
                f"the family {name} signs for {', '.join(other.paths or ())}, "
                f"which meets {shared[0]}",
                hint="choose patterns that do not meet",
            )
    keyids = _changed(family, (), keys, ())
    _check_threshold(family, len(keyids), threshold)
    role = DelegatedRole(family, [], threshold, terminating=True, paths=sorted(set(paths)))
    roles = _roles(targets)
    last = roles.pop(MODELS_ROLE)
    roles[family] = role
    roles[MODELS_ROLE] = last  # asked in this order
    for key in keys:
        targets.add_key(key, family)


def remove_family(targets: Targets, family: str) -> None:
    """Take a delegation back, in place.

    Raises:
        NotFound: ``tuf.unknown_role``.
    """
    if family not in families_of(targets):
        raise _unknown_role(family, targets)
    for keyid in list(_roles(targets)[family].keyids):
        targets.revoke_key(keyid, family)
    del _roles(targets)[family]


def covers(pattern: str, other: str) -> bool:
    """Say whether all models of one family pattern are models of another."""
    beginning, wanted = pattern.split("/")[1], other.split("/")[1]
    if beginning.endswith("*"):
        return wanted.startswith(beginning[:-1])
    return beginning == wanted


def _changed(
    role: str, present: Collection[str], add: Iterable[Key], remove: Collection[str]
) -> list[str]:
    keyids = list(present)
    for key in add:
        if key.keyid in keyids:
            raise Conflict(
                "tuf.key_exists",
                f"{role} has the key {key.keyid[:12]}… already",
                hint="edgectl keys status shows who signs for what",
            )
        keyids.append(key.keyid)
    for keyid in remove:
        if keyid not in keyids:
            raise NotFound(
                "tuf.unknown_key",
                f"{role} has no key {keyid[:12]}…",
                hint="edgectl keys status shows who signs for what",
            )
        keyids.remove(keyid)
    return keyids


def _check_threshold(role: str, keys: int, threshold: int) -> None:
    if not 1 <= threshold <= keys <= _KEYS_MAX:
        raise Refused(
            "tuf.threshold",
            f"{role} would need {threshold} of {keys} keys",
            hint=f"1 to {_KEYS_MAX} keys, and a threshold that they can meet: add a key first, or "
            "give another threshold",
        )


def _roles(targets: Targets) -> dict[str, DelegatedRole]:
    assert targets.delegations is not None
    assert targets.delegations.roles is not None
    return targets.delegations.roles


def _unknown_role(role: str, targets: Targets) -> NotFound:
    known = [*TOP_ROLES, MODELS_ROLE, *families_of(targets)]
    return NotFound(
        "tuf.unknown_role", f"there is no role {role}", hint=f"the roles are {', '.join(known)}"
    )
