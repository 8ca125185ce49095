"""What of the waiting changes can be published now, so that what devices see is whole.

Rules:

1. A root counts when the thresholds of the root before it and its own are met (TUF 1.0.33 §6.1);
   targets, when the root's is met; a family, when that of the targets is.
2. A change is published only together with what it needs: a root that names other keys for the
   targets waits for targets that those keys have signed; targets that delegate to a new family wait
   for the family's first version.
3. A draft that the waiting changes above it would make worthless waits with them: otherwise it
   would be signed, published, and have to be signed again.
4. The server must hold enough keys of the roles that sign every day, or nothing is published: a
   repository that nobody can refresh would stop all installations within a day.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tuf.api.metadata import Root, Targets

from edgectl_protocol.metadata import MODELS_ROLE
from edgectl_server.signing.documents import (
    Document,
    Mandate,
    families_of,
    mandate_in_root,
    mandate_in_targets,
)
from edgectl_server.signing.folder import Drafts, Published, published_document

__all__ = ["Choice", "choose", "mandates_of", "missing_in"]

CanSign = Callable[[str, Mandate], bool]
"""Whether the server holds enough keys of a role."""


@dataclass(frozen=True)
class Choice:
    """Root, targets and families that make a whole."""

    root: Document[Root]
    targets: Document[Targets]
    families: Mapping[str, Document[Targets]]
    taken: frozenset[str]
    """The drafts among them."""


def choose(published: Published | None, drafts: Drafts, can_sign: CanSign) -> Choice | None:
    """Return what can be published, with as many of the drafts as can be; None: nothing whole."""
    drafts = {
        role: draft
        for role, draft in drafts.items()
        if not missing_in(draft, mandates_of(role, published, drafts))
    }
    for root in _candidates("root", drafts, published):
        for targets in _candidates("targets", drafts, published):
            families = _whole(published, root, targets, drafts, can_sign)
            if families is not None:
                named = {"root": root, "targets": targets, **families}
                taken = {role for role, one in named.items() if drafts.get(role) is one}
                return Choice(root, targets, families, frozenset(taken))
    return None


def mandates_of(role: str, published: Published | None, drafts: Drafts) -> list[Mandate]:
    """Return whose signatures a draft needs, once everything that waits is published.

    For a root these are two: those of the root before it, and its own.
    """
    root = drafts.get("root") or published_document(published, "root")
    targets = drafts.get("targets") or published_document(published, "targets")
    if role == "root":
        roots = [drafts["root"]] if published is None else [published.root, drafts["root"]]
        return [mandate_in_root(one.signed, "root") for one in roots]
    if role == "targets":
        return [mandate_in_root(root.signed, "targets")] if root else []
    mandate = mandate_in_targets(targets.signed, role) if targets else None
    return [mandate] if mandate else []


def missing_in(document: Document[Any], mandates: list[Mandate]) -> int:
    """Return how many more signatures suffice; one signature may count for two mandates."""
    missing = [document.missing(one) for one in mandates]
    if len(missing) < 2:  # noqa: PLR2004 - the old root and the new
        return sum(missing)
    signed = {keyid for one in mandates for keyid in document.signers_of(one)}
    common = set(mandates[0].keyids) & set(mandates[1].keyids) - signed
    return sum(missing) - min(*missing, len(common))


def _candidates(role: str, drafts: Drafts, published: Published | None) -> list[Document[Any]]:
    both = (drafts.get(role), published_document(published, role))
    return [one for one in both if one is not None]


def _whole(
    published: Published | None,
    root: Document[Root],
    targets: Document[Targets],
    drafts: Drafts,
    can_sign: CanSign,
) -> dict[str, Document[Targets]] | None:
    """Return the families that make root and targets whole; None: something is missing."""
    if published is None or root is not published.root:
        roots = [root] if published is None else [published.root, root]
        if any(root.missing(mandate_in_root(one.signed, "root")) for one in roots):
            return None
    if targets.missing(mandate_in_root(root.signed, "targets")):
        return None
    for role in ("snapshot", "timestamp", "orders"):
        if not can_sign(role, mandate_in_root(root.signed, role)):
            return None
    models = mandate_in_targets(targets.signed, MODELS_ROLE)
    if models is None or not can_sign(MODELS_ROLE, models):
        return None
    families: dict[str, Document[Targets]] = {}
    for role in families_of(targets.signed):
        mandate = mandate_in_targets(targets.signed, role)
        assert mandate is not None, role
        usable = [one for one in _candidates(role, drafts, published) if not one.missing(mandate)]
        if not usable:
            return None
        families[role] = usable[0]
    return families
