"""What is about to be signed, in words: for the person who signs it.

Everything is read from the documents themselves. Names come from others: they are shown only if
they are plain (`edgectl_server.signing.signers.key_name`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, Root, Signed, TargetFile, Targets

from edgectl_server.signing.documents import order_keys_of
from edgectl_server.signing.signers import key_name

__all__ = ["changes_between", "contents_of", "key_text"]

_TARGETS_SHOWN = 20


def contents_of(signed: Signed) -> list[str]:
    """Return everything that a document says."""
    return list(_lines(None, signed))


def changes_between(previous: Signed | None, signed: Signed) -> list[str]:
    """Return what a document changes; everything that it says if there is none before it."""
    return list(_lines(previous, signed))


def key_text(key: Key | None, keyid: str) -> str:
    """Return a key as it is shown: whose it is, and the beginning of its id."""
    name = "" if key is None else key_name(key)
    shown = "".join(one for one in keyid[:12] if one.isalnum())
    return f"{name} ({shown})" if name else shown


def _lines(previous: Signed | None, signed: Signed) -> Iterator[str]:
    yield f"{signed.type} version {signed.version}, ends on {signed.expires:%Y-%m-%d}"
    if isinstance(signed, Root):
        yield from _root_lines(previous if isinstance(previous, Root) else None, signed)
    elif isinstance(signed, Targets):
        yield from _targets_lines(previous if isinstance(previous, Targets) else None, signed)
    if previous is not None and _without_dates(previous) == _without_dates(signed):
        yield "nothing changes but version and end"


def _root_lines(previous: Root | None, root: Root) -> Iterator[str]:
    for role in root.roles:
        before = None if previous is None else previous.roles.get(role)
        yield from _role_lines(
            role,
            (None, {}) if before is None else (before.threshold, _keys(before.keyids, previous)),
            (root.roles[role].threshold, _keys(root.roles[role].keyids, root)),
        )
    before_orders = {} if previous is None else order_keys_of(previous)
    yield from _role_lines(
        "orders", (1 if before_orders else None, before_orders), (1, order_keys_of(root))
    )


def _targets_lines(previous: Targets | None, targets: Targets) -> Iterator[str]:
    before, after = _delegated(previous), _delegated(targets)
    for name in before.keys() - after.keys():
        yield f"- family {name}: no longer signs for {_paths(before[name])}"
    for name, role in after.items():
        old = before.get(name)
        if old is None:
            yield f"+ {name} signs for {_paths(role)}"
        elif old.paths != role.paths:
            yield f"{name}: {_paths(old)} becomes {_paths(role)}"
        yield from _role_lines(
            name,
            (None, {}) if old is None else (old.threshold, _keys(old.keyids, previous)),
            (role.threshold, _keys(role.keyids, targets)),
        )
    known = {} if previous is None else previous.targets
    yield from _shown("+", (one for path, one in targets.targets.items() if path not in known))
    yield from _shown("-", (one for path, one in known.items() if path not in targets.targets))
    for path, one in targets.targets.items():
        if path in known and known[path] != one:
            yield f"! {path} becomes another content, sha256 {one.hashes.get('sha256', '')[:16]}…"


def _role_lines(
    name: str,
    before: tuple[int | None, Mapping[str, Key | None]],
    after: tuple[int, Mapping[str, Key | None]],
) -> Iterator[str]:
    if before[0] != after[0]:
        was = "" if before[0] is None else f", was {before[0]}"
        yield f"{name}: {after[0]} of {len(after[1])} keys sign{was}"
    elif len(before[1]) != len(after[1]):
        yield f"{name}: {after[0]} of {len(after[1])} keys sign, was of {len(before[1])}"
    for keyid, key in after[1].items():
        if keyid not in before[1]:
            yield f"{name}: + key {key_text(key, keyid)}"
    for keyid, key in before[1].items():
        if keyid not in after[1]:
            yield f"{name}: - key {key_text(key, keyid)}"


def _shown(sign: str, targets: Iterable[TargetFile]) -> Iterator[str]:
    found = list(targets)
    for one in found[:_TARGETS_SHOWN]:
        digest = one.hashes.get("sha256", "")
        yield f"{sign} {one.path!a}, {one.length} bytes, sha256 {digest[:16]}…"
    if len(found) > _TARGETS_SHOWN:
        yield f"{sign} and {len(found) - _TARGETS_SHOWN} more"


def _keys(keyids: Iterable[str], holder: Any) -> dict[str, Key | None]:
    keys = holder.keys if isinstance(holder, Root) else holder.delegations.keys
    return {keyid: keys.get(keyid) for keyid in keyids}


def _delegated(targets: Targets | None) -> dict[str, DelegatedRole]:
    if targets is None or targets.delegations is None:
        return {}
    return dict(targets.delegations.roles or {})


def _paths(role: DelegatedRole) -> str:
    return ", ".join(ascii(path) for path in role.paths or ())


def _without_dates(signed: Signed) -> dict[str, Any]:
    document = signed.to_dict()
    return {key: value for key, value in document.items() if key not in {"version", "expires"}}
