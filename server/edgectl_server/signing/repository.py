"""The TUF repository: which bundle manifests are ours, signed so that nobody in between can lie.

Layout: `edgectl_protocol.metadata`; files: `edgectl_server.signing.folder`; what is published when:
`edgectl_server.signing.plan`.

Rules:

1. The files are the truth. Server and command line work on the same folder: every change holds the
   folder's lock, reads what has changed on disk, and then writes.
2. A version number only grows; a target path names one content for ever.
3. A change to a role whose keys this server does not hold is *staged*: it waits on disk for
   signatures made elsewhere. There is one staged document a role; a later change is made on top of
   it, and its signatures are void.
4. What nears its end is signed anew by `Repository.refresh`: online roles at half their life,
   offline ones are staged in good time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tuf.api.metadata import TargetFile, Targets

from edgectl_protocol.metadata import MODELS_ROLE
from edgectl_protocol.names import hex_of
from edgectl_server.errors import Conflict, Refused, Unavailable
from edgectl_server.signing.ceremonies import Ceremonies
from edgectl_server.signing.changes import TOP_ROLES
from edgectl_server.signing.documents import (
    LIFETIMES,
    Document,
    end_of,
    families_of,
    kind_of,
    mandate_in_root,
    mandate_of,
)
from edgectl_server.signing.folder import KEPT, MetadataFile
from edgectl_server.signing.keys import Keys
from edgectl_server.signing.publication import Outcome
from edgectl_server.signing.status import ALERT_TIMES, TrustStatus, trust_status

__all__ = ["KEPT", "LIFETIMES", "MetadataFile", "Outcome", "Repository", "Target"]

_STAGED_BEFORE = 2
"""Alert times before its end, an offline role is staged for renewal."""


@dataclass(frozen=True)
class Target:
    """A bundle manifest to be signed for."""

    path: str
    digest: str
    length: int
    """Bytes of the manifest."""
    custom: dict[str, Any] = field(default_factory=dict)


class Repository(Ceremonies):
    """Signs, keeps and hands out the metadata. Its methods may be called from any thread."""

    @classmethod
    def open(cls, directory: Path, keys: Keys, now: datetime) -> Repository:
        """Load the repository in `directory`, or make its first version.

        Raises:
            Unavailable: ``tuf.damaged``; ``tuf.keys`` where the keys are not the root's;
                ``tuf.unsigned`` where the first version waits for signatures.
        """
        repository = cls(directory, keys)
        state = repository._state
        with state.changing():
            if state.published is None and "root" not in state.drafts:
                repository.begin(now)
            else:
                state.apply(now)
            if state.published is None:
                missing = [
                    f"{one.role} lacks {one.missing}" for one in repository.status(now).staged
                ]
                raise Unavailable(
                    "tuf.unsigned",
                    f"the first signed metadata is not complete: {', '.join(missing)}",
                    hint="edgectl keys status says who has to sign; then start again",
                )
        return repository

    @classmethod
    def inspect(cls, directory: Path, keys: Keys) -> Repository:
        """Load the repository as it is, without signing anything.

        Raises:
            Unavailable: ``tuf.damaged``.
        """
        repository = cls(directory, keys)
        with repository._state.changing():
            return repository

    # ------------------------------------------------------------ reading

    @property
    def root_version(self) -> int:
        """Version of the newest root."""
        with self._state.lock:
            return self._state.whole.root.version

    @property
    def first_root(self) -> bytes:
        """Version 1 of the root, exactly as signed; whoever trusts it finds the others."""
        return self._state.folder.roots()[0].content

    @property
    def newest_root(self) -> bytes:
        """The root that a device is enrolled with, exactly as signed.

        Not the first: keys that were revoked since must not mislead a new device.
        """
        with self._state.lock:
            return self._state.whole.root.content

    @property
    def order_keyids(self) -> frozenset[str]:
        """Ids of the keys whose orders devices obey."""
        with self._state.lock:
            root = self._state.whole.root.signed
            return frozenset(mandate_in_root(root, "orders").keyids)

    def find(self, path: str) -> TargetFile | None:
        """Return the signed target at `path`, as a device would find it."""
        with self._state.lock:
            role = self._state.role_for(path, self._state.whole.targets.signed)
            document = None if role is None else self._state.whole.document(role)
            return None if document is None else document.signed.targets.get(path)

    def role_of(self, path: str) -> str | None:
        """Return which role signs for `path`: a family, or ``models``; None: nobody does."""
        with self._state.lock:
            role = self._state.role_for(path, self._state.whole.targets.signed)
            return MODELS_ROLE if role is not None and kind_of(role) == MODELS_ROLE else role

    def awaits(self, path: str) -> str | None:
        """Return the family whose signatures the target at `path` waits for; None: it does not."""
        with self._state.lock:
            role = self.role_of(path)
            draft = None if role is None else self._state.drafts.get(role)
            waits = draft is not None and path in draft.signed.targets and not self.find(path)
            return role if waits else None

    def metadata(self) -> list[MetadataFile]:
        """Return everything that the broker must hold, in the order in which it is published.

        What is referred to comes before what refers to it, so that a device which reads in between
        finds what the timestamp names.
        """
        with self._state.lock:
            return self._state.folder.files(self._state.whole)

    def metadata_for(self, paths: Iterable[str]) -> list[MetadataFile]:
        """Return what a device needs that has nothing but its first root and wants these targets.

        All of it is of one moment: the newest of each role on the way, and every root.
        """
        with self._state.lock:
            whole = self._state.whole
            roles = {"targets"}
            for path in paths:
                role = self._state.role_for(path, whole.targets.signed)
                if role is not None:
                    roles |= {role, MODELS_ROLE} if kind_of(role) == MODELS_ROLE else {role}
            documents = {role: whole.document(role) for role in sorted(roles)}
            return [
                *(("root", one.version, one.content) for one in self._state.folder.roots()),
                *(
                    (role, one.version, one.content)
                    for role, one in documents.items()
                    if one is not None
                ),
                ("snapshot", whole.snapshot.version, whole.snapshot.content),
                ("timestamp", None, whole.timestamp.content),
            ]

    def status(self, now: datetime) -> TrustStatus:
        """Return who signs what, what waits, and what needs attention."""
        with self._state.lock:
            return trust_status(self._state.published, self._state.drafts, self._keys, now)

    def current(self, role: str) -> bytes | None:
        """Return the published document of a role; None: there is none."""
        with self._state.lock:
            published = self._state.published
            document = None if published is None else published.document(role)
            return None if document is None else document.content

    # ------------------------------------------------------------ targets

    def add_targets(self, targets: Iterable[Target], now: datetime) -> bool:
        """Sign for `targets`; True if anything was new.

        Those of an offline family are staged: `awaits` says for whom they wait.

        Raises:
            Conflict: ``tuf.target_exists``: a path is signed for another content.
            Refused: ``tuf.path``: nobody signs for such a path.
            TooLarge: ``tuf.full``: metadata would be larger than devices accept.
        """
        state = self._state
        with state.changing():
            changed: dict[str, dict[str, TargetFile]] = {}
            for target in targets:
                role = self._state.role_for(target.path, self._state.whole.targets.signed)
                if role is None:
                    raise Refused(
                        "tuf.path",
                        f"{target.path!r} is not the path of a bundle",
                        hint="models/<model>/<version>/<variant>",
                    )
                wanted = TargetFile(
                    target.length,
                    {"sha256": hex_of(target.digest)},
                    target.path,
                    {"custom": target.custom} if target.custom else {},
                )
                present = changed.get(role) or self._state.targets_of(role)
                known = present.get(target.path)
                if known is None:
                    changed[role] = {**present, target.path: wanted}
                    family = self._family_to_be(target.path)
                    if family is not None:
                        present = changed.get(family) or state.targets_of(family)
                        changed[family] = {**present, target.path: wanted}
                elif (known.hashes, known.length) != (wanted.hashes, wanted.length):
                    raise Conflict(
                        "tuf.target_exists",
                        f"{target.path} is signed for {known.hashes['sha256'][:12]}…, "
                        f"not {hex_of(target.digest)[:12]}…",
                        hint="push it as another version: a published version never changes",
                    )
            if not changed:
                return False
            bins = {role: one for role, one in changed.items() if kind_of(role) == MODELS_ROLE}
            families = {
                role: Targets(
                    version=state.next_version(role), expires=end_of(role, now), targets=one
                )
                for role, one in changed.items()
                if role not in bins
            }
            state.apply(now, families, bins=bins, void=self._void(families))
            return True

    def refresh(self, now: datetime) -> bool:
        """Read what others have changed, sign anew what nears its end; True if anything was.

        Cheap where nothing is to be done.

        Raises:
            Unavailable: ``tuf.…`` or ``keys.…``.
        """
        with self._state.lock:
            changed = self._state.has_changed()
            if not changed and not self._due(now):
                return False
        with self._state.changing():
            due = self._due(now)
            drafts = {}
            for role in due:
                document = self._state.whole.document(role)
                if kind_of(role) in {"root", "targets", "family"} and document is not None:
                    drafts[role] = self._next(role, now)
            self._state.apply(now, drafts, renew=due - drafts.keys())
            return True

    def number_ahead(self, by: int, now: datetime) -> Outcome:
        """Sign all that can be signed here anew, `by` versions ahead: after a restore.

        Devices have seen versions that this repository has forgotten, and refuse older ones. A
        root goes ahead by one at most, as ever. What others sign stays as it is.

        Raises:
            Unavailable: ``tuf.…`` or ``keys.…``.
        """
        state = self._state
        with state.changing():
            root, targets = state.whole.root.signed, state.whole.targets.signed
            drafts = {}
            state.ahead = by
            try:
                for role in ("targets", *families_of(targets)):
                    mandate = mandate_of(root if role in TOP_ROLES else targets, role)
                    if state.can_sign(role, mandate) and state.whole.document(role) is not None:
                        drafts[role] = self._next(role, now)
                models = {one for one in state.whole.delegated if kind_of(one) == MODELS_ROLE}
                renew = {*models, "snapshot", "timestamp"}
                return state.apply(now, drafts, renew=renew)
            finally:
                state.ahead = 0

    def _family_to_be(self, path: str) -> str | None:
        """Return the family that will sign for `path` once the staged targets are published."""
        draft = self._state.drafts.get("targets")
        role = None if draft is None else self._state.role_for(path, draft.signed)
        return role if role in self._state.drafts else None

    def _due(self, now: datetime) -> set[str]:
        """Return the roles that have to be signed anew by now."""
        published = self._state.whole
        due: set[str] = set()
        root, targets = published.root.signed, published.targets.signed
        for role in ("root", "targets", *families_of(targets)):
            mandate = mandate_of(root if role in TOP_ROLES else targets, role)
            document = self._state.drafts.get(role) or published.document(role)
            left = document.signed.expires - now if document else LIFETIMES[kind_of(role)]
            if self._state.can_sign(role, mandate):
                limit = LIFETIMES[kind_of(role)] / 2
            else:
                limit = ALERT_TIMES[kind_of(role)] * _STAGED_BEFORE
            if left < limit:
                due.add(role)
        for role, document in published.delegated.items():
            if kind_of(role) == MODELS_ROLE and _is_old(document, role, now):
                due.add(role)
        for role in ("snapshot", "timestamp"):
            document = published.document(role)
            if document is not None and _is_old(document, role, now):
                due.add(role)
        return due


def _is_old(document: Document[Any], role: str, now: datetime) -> bool:
    left: timedelta = document.signed.expires - now
    return left < LIFETIMES[kind_of(role)] / 2
