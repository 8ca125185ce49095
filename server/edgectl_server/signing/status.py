"""What an operator must know of the keys and the signed metadata, as values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from securesystemslib.signer import Key

from edgectl_protocol.metadata import MODELS_ROLE
from edgectl_server.signing.describe import changes_between
from edgectl_server.signing.documents import (
    Document,
    Mandate,
    families_of,
    kind_of,
    mandate_in_root,
    mandate_in_targets,
)
from edgectl_server.signing.folder import Drafts, Published, published_document
from edgectl_server.signing.keys import Keys
from edgectl_server.signing.plan import mandates_of, missing_in
from edgectl_server.signing.signers import key_name

__all__ = [
    "ALERT_TIMES",
    "Alert",
    "KeyStatus",
    "RoleStatus",
    "StagedStatus",
    "TrustStatus",
    "trust_status",
]

ALERT_TIMES = {
    "root": timedelta(days=30),
    "targets": timedelta(days=30),
    "family": timedelta(days=30),
    "models": timedelta(days=7),
    "snapshot": timedelta(days=2),
    "timestamp": timedelta(hours=6),
}
"""By kind of role: what ends within this time is an alert."""


@dataclass(frozen=True)
class KeyStatus:
    """A key that signs for a role."""

    keyid: str
    name: str
    """Whose it is; may be empty."""
    scheme: str
    online: bool
    """This server can sign with it."""


@dataclass(frozen=True)
class RoleStatus:
    """A role. ``models`` stands for its bins too; ``orders`` has no version of its own."""

    name: str
    version: int | None
    """None: not published, or ``orders``."""
    expires: datetime | None
    """The earliest of ``models`` and its bins."""
    threshold: int
    keys: tuple[KeyStatus, ...]
    online: bool
    """This server alone can sign it."""
    patterns: tuple[str, ...] = ()
    targets: int = 0
    """How many bundles it has signed for."""


@dataclass(frozen=True)
class StagedStatus:
    """A change that waits."""

    role: str
    version: int
    expires: datetime
    summary: tuple[str, ...]
    """What changes, in words."""
    signed_by: tuple[str, ...]
    """Names of keys, or ids of those without a name."""
    unsigned: tuple[KeyStatus, ...]
    """Who could sign."""
    missing: int
    """How many more signatures suffice; 0: it waits for other staged changes."""
    threshold: int
    """How many must sign."""


@dataclass(frozen=True)
class Alert:
    """What somebody should look at."""

    code: str
    severity: Literal["warning", "critical"]
    detail: str
    hint: str
    subject: str = ""
    """Which thing it is about; the same as long as it lasts, unlike the detail."""


@dataclass(frozen=True)
class TrustStatus:
    """Everything."""

    roles: tuple[RoleStatus, ...]
    staged: tuple[StagedStatus, ...]
    alerts: tuple[Alert, ...]


def trust_status(
    published: Published | None, drafts: Drafts, keys: Keys, now: datetime
) -> TrustStatus:
    """Return the status of what is published and of what waits."""
    roles = () if published is None else tuple(_roles(published, keys))
    order = sorted(drafts, key=lambda role: (role != "root", role != "targets", role))
    staged = tuple(_staged(role, published, drafts, keys) for role in order)
    return TrustStatus(roles, staged, (*_ends(roles, now), *_waiting(staged)))


def key_status(key: Key, role: str, keys: Keys) -> KeyStatus:
    """Return the status of one key of a role."""
    held = any(one.key.keyid == key.keyid for one in keys.held(role))
    return KeyStatus(key.keyid, key_name(key), key.scheme, held)


def _roles(published: Published, keys: Keys) -> Iterable[RoleStatus]:
    root, targets = published.root.signed, published.targets.signed
    for role in ("root", "targets"):
        yield _role(role, mandate_in_root(root, role), [published.document(role)], keys)
    for name, family in families_of(targets).items():
        yield _role(
            name,
            mandate_in_targets(targets, name),
            [published.delegated[name]],
            keys,
            patterns=family.paths or (),
        )
    models = [one for role, one in published.delegated.items() if kind_of(role) == MODELS_ROLE]
    models.sort(key=lambda one: one is not published.delegated[MODELS_ROLE])
    yield _role(MODELS_ROLE, mandate_in_targets(targets, MODELS_ROLE), models, keys)
    for role in ("snapshot", "timestamp", "orders"):
        yield _role(role, mandate_in_root(root, role), [published.document(role)], keys)


def _role(
    name: str,
    mandate: Mandate | None,
    documents: Sequence[Document[Any] | None],
    keys: Keys,
    patterns: Sequence[str] = (),
) -> RoleStatus:
    assert mandate is not None, name
    listed = tuple(key_status(mandate.keys[keyid], name, keys) for keyid in mandate.keyids)
    known = [one for one in documents if one is not None]
    return RoleStatus(
        name=name,
        version=known[0].version if known else None,
        expires=min((one.signed.expires for one in known), default=None),
        threshold=mandate.threshold,
        keys=listed,
        online=sum(key.online for key in listed) >= mandate.threshold,
        patterns=tuple(patterns),
        targets=sum(len(getattr(one.signed, "targets", ())) for one in known),
    )


def _staged(role: str, published: Published | None, drafts: Drafts, keys: Keys) -> StagedStatus:
    draft = drafts[role]
    mandates = mandates_of(role, published, drafts)
    listed = {keyid: mandate.keys[keyid] for mandate in mandates for keyid in mandate.keyids}
    signed = {keyid for mandate in mandates for keyid in draft.signers_of(mandate)}
    unsigned = [key_status(listed[keyid], role, keys) for keyid in listed if keyid not in signed]
    previous = published_document(published, role)
    return StagedStatus(
        role=role,
        version=draft.version,
        expires=draft.signed.expires,
        summary=tuple(changes_between(None if previous is None else previous.signed, draft.signed)),
        signed_by=tuple(key_name(listed[one]) or one[:12] for one in listed if one in signed),
        unsigned=tuple(unsigned),
        missing=missing_in(draft, mandates),
        threshold=max((mandate.threshold for mandate in mandates), default=0),
    )


def _ends(roles: Sequence[RoleStatus], now: datetime) -> Iterable[Alert]:
    for role in roles:
        if role.expires is None or role.expires - now > ALERT_TIMES[kind_of(role.name)]:
            continue
        if role.online:
            hint = "the server signs this by itself: look into its log, and whether it runs"
        else:
            hint = f"edgectl keys export {role.name}, sign it with the offline keys, import it"
        if role.expires <= now:
            detail = f"{role.name} has ended on {role.expires:%Y-%m-%d %H:%M}: nothing is installed"
            yield Alert("trust.expired", "critical", detail, hint, role.name)
        else:
            detail = f"{role.name} ends on {role.expires:%Y-%m-%d %H:%M} UTC"
            yield Alert("trust.expiring", "warning", detail, hint, role.name)


def _waiting(staged: Sequence[StagedStatus]) -> Iterable[Alert]:
    for one in staged:
        if one.missing:
            names = ", ".join(key.name or key.keyid[:12] for key in one.unsigned)
            yield Alert(
                "trust.unsigned",
                "warning",
                f"{one.role} {one.version} waits for {one.missing} more of: {names}",
                f"edgectl keys export {one.role} --output {one.role}.json, "
                "edgectl keys sign there, edgectl keys import here",
                one.role,
            )
        else:
            yield Alert(
                "trust.waiting",
                "warning",
                f"{one.role} {one.version} is signed, and waits for other staged changes",
                "sign those too",
                one.role,
            )
