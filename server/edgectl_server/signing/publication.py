"""What is published and what waits, and the one way from waiting to published.

Rules: whoever changes something holds the folder's lock and has read what others changed. Root,
targets and families come as drafts; ``models``, its bins, the snapshot and the timestamp are made
here, with the keys that the server holds, whenever what they depend on has changed. Memory follows
the disk: after a failed write everything is read again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from securesystemslib.signer import Signer
from tuf.api.metadata import DelegatedRole, Root, Snapshot, TargetFile, Targets, Timestamp

from edgectl_protocol.metadata import MODELS_ROLE
from edgectl_server.errors import ServerError, Unavailable
from edgectl_server.signing.documents import (
    Document,
    Mandate,
    SignedT,
    copy_of,
    end_of,
    families_of,
    kind_of,
    mandate_in_models,
    mandate_in_root,
    mandate_in_targets,
    mandate_of,
    meta_file,
    models_delegations,
)
from edgectl_server.signing.folder import Drafts, MetadataFolder, Published, published_document
from edgectl_server.signing.keys import Keys
from edgectl_server.signing.plan import Choice, choose, mandates_of

__all__ = ["Outcome", "Publication"]

logger = logging.getLogger(__name__)

_ROUNDS_MAX = 4
"""Publishing root or targets may make another draft necessary, and that one publishable."""


@dataclass(frozen=True)
class Outcome:
    """What became of a change."""

    published: tuple[str, ...] = ()
    """Roles with a new version that devices see."""
    staged: tuple[str, ...] = ()
    """Roles with a document that waits."""
    void: tuple[str, ...] = ()
    """Roles whose gathered signatures no longer count, because another change came on top."""


class Publication:
    """The state of one repository; every method needs the lock of `changing`, or `lock`."""

    def __init__(self, directory: Path, keys: Keys) -> None:
        self.lock = threading.RLock()
        self.folder = MetadataFolder(directory)
        self.keys = keys
        self.published: Published | None = None
        self.drafts: Drafts = {}
        self.ahead = 0
        """By how much versions go ahead now; not those of roots, which devices walk through."""
        self._fingerprint: object = None
        self._depth = 0

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the lock, with what is on disk in memory.

        Raises:
            Unavailable: ``tuf.damaged`` or ``keys.unreadable``.
        """
        with self.lock:
            if self._depth:
                yield
                return
            with self.folder.locked():
                self.reload()
                self._depth += 1
                try:
                    yield
                except BaseException:
                    self._fingerprint = None  # memory and disk may differ
                    raise
                finally:
                    self._depth -= 1

    def has_changed(self) -> bool:
        """Say whether another process has changed something; a few calls to the file system."""
        return self._fingerprint != self._look()

    def reload(self) -> bool:
        """Read what others have changed; True if anything was.

        Raises:
            Unavailable: ``tuf.damaged`` or ``keys.unreadable``.
        """
        seen = self._look()
        if seen == self._fingerprint:
            return False
        self.keys.reload()
        published, drafts = self.folder.published(), self.folder.drafts()
        self.published = published
        self.drafts = {
            role: one for role, one in drafts.items() if one.version >= self.next_version(role)
        }
        self._fingerprint = seen
        return True

    # ------------------------------------------------------------ reading

    @property
    def whole(self) -> Published:
        """What is published.

        Raises:
            Unavailable: ``tuf.unsigned``: nothing is, yet.
        """
        if self.published is None:
            raise Unavailable(
                "tuf.unsigned",
                "there is no signed metadata yet",
                hint="edgectl keys status says what is missing",
            )
        return self.published

    def role_for(self, path: str, targets: Targets) -> str | None:
        """Return the role that a device asks for `path` last: a family, or a bin; None: nobody."""
        delegations = targets.delegations
        for role, _ in () if delegations is None else delegations.get_roles_for_target(path):
            if role != MODELS_ROLE:
                return role
            models = self.whole.delegated[MODELS_ROLE].signed.delegations
            if models is not None and models.succinct_roles is not None:
                return models.succinct_roles.get_role_for_target(path)
        return None

    def targets_of(self, role: str) -> dict[str, TargetFile]:
        """Return what a role signs for, or will."""
        document = self.drafts.get(role) or self.whole.document(role)
        targets: dict[str, TargetFile] = {} if document is None else document.signed.targets
        return targets

    def next_version(self, role: str) -> int:
        """Return the version that the next document of a role has."""
        if self.published is None:
            return 1
        current = self.published.document(role) or self.published.retired.get(f"{role}.json")
        newest = 0 if current is None else current.version
        return newest + 1 + (0 if role == "root" else self.ahead)

    def can_sign(self, role: str, mandate: Mandate) -> bool:
        """Say whether the server holds enough keys of a role."""
        held = {one.key.keyid for one in self.keys.held(role)}
        return len(held & set(mandate.keyids)) >= mandate.threshold

    # ------------------------------------------------------------ changing

    def apply(
        self,
        now: datetime,
        drafts: Mapping[str, Root | Targets] | None = None,
        *,
        bins: Mapping[str, dict[str, TargetFile]] | None = None,
        renew: Collection[str] = (),
        void: tuple[str, ...] = (),
    ) -> Outcome:
        """Sign what can be signed here, publish what is whole, keep the rest for later.

        Args:
            now: the time.
            drafts: new content of root, targets or families.
            bins: new content of bins.
            renew: online roles to be signed anew.
            void: roles whose gathered signatures a draft has made void, for the outcome.

        Raises:
            Unavailable: ``tuf.keys``: the keys here are not those that devices were told of; or
                ``keys.…``.
            TooLarge: ``tuf.full``.
        """
        waiting: Drafts = {
            **self.drafts,
            **{role: Document.signed_by(one, ()) for role, one in (drafts or {}).items()},
        }
        published: set[str] = set()
        for _ in range(_ROUNDS_MAX):
            waiting = self._signed_here(self._with_dependents(waiting, now))
            choice = choose(self.published, waiting, self.can_sign)
            if choice is None:
                break
            self.folder.stage(
                {
                    role: one
                    for role, one in waiting.items()
                    if role in self.drafts or role not in choice.taken
                }
            )
            published |= self._publish(choice, now, bins or {}, renew)
            waiting = {role: one for role, one in waiting.items() if role not in choice.taken}
            bins, renew = None, ()
            if not choice.taken:
                break
        if choice is None and self.published is not None:
            raise self._wrong_keys()
        self.folder.stage(waiting)
        self.drafts = waiting
        if published & {"root", "targets"}:
            self.forget_unlisted_keys()
        self._fingerprint = self._look()
        return Outcome(tuple(sorted(published)), tuple(sorted(waiting)), void)

    # ------------------------------------------------------------ drafts

    def _with_dependents(self, drafts: Drafts, now: datetime) -> Drafts:
        """Add what the drafts make necessary: targets and families under other keys."""
        result = dict(drafts)
        current = self.published
        root = result.get("root") or published_document(current, "root")
        if root is None:
            return result
        if "targets" not in result and current is not None:
            mandate = mandate_in_root(root.signed, "targets")
            if current.targets.missing(mandate):
                result["targets"] = self._renewed("targets", current.targets, now)
        targets = result.get("targets") or published_document(current, "targets")
        if targets is None:
            return result
        families = families_of(targets.signed)
        for role in families.keys() - result.keys():
            document = published_document(current, role)
            if document is None:
                result[role] = self._first_of(families[role], now)
            elif document.missing(mandate_of(targets.signed, role)):
                result[role] = self._renewed(role, document, now)
        known = {"root", "targets", *families}
        return {role: one for role, one in result.items() if role in known}

    def _first_of(self, family: DelegatedRole, now: datetime) -> Document[Targets]:
        """Return a family's first document, with what is signed for its models already."""
        signed = {
            path: one
            for role, document in self.whole.delegated.items()
            if kind_of(role) == MODELS_ROLE
            for path, one in document.signed.targets.items()
            if family.is_delegated_path(path)
        }
        version, expires = self.next_version(family.name), end_of(family.name, now)
        return Document.signed_by(Targets(version=version, expires=expires, targets=signed), ())

    def _renewed(self, role: str, document: Document[SignedT], now: datetime) -> Document[SignedT]:
        version = self.next_version(role)
        return Document.signed_by(
            copy_of(document.signed, version=version, expires=end_of(role, now)), ()
        )

    def _signed_here(self, drafts: Drafts) -> Drafts:
        """Add the signatures of keys that the server holds."""
        result = {}
        for role, draft in drafts.items():
            mandates = self.signing_mandates(role, drafts)
            keyids = {keyid for one in mandates for keyid in one.keyids}
            signed = draft
            for signer in self._usable(role, keyids - set(draft.metadata.signatures)):
                try:
                    signed = signed.with_signatures_of([signer])
                except ServerError as error:
                    # It may be a token that somebody took home: the others must not wait for it.
                    logger.warning("%s is not signed: %s", role, error.detail)
            result[role] = signed
        return result

    def signing_mandates(self, role: str, drafts: Drafts) -> list[Mandate]:
        """Return whose signatures count for a draft: now, or when what waits is published."""
        mandates = mandates_of(role, self.published, drafts)
        return mandates if role == "root" else mandates + mandates_of(role, self.published, {})

    def _usable(self, role: str, keyids: Collection[str]) -> Iterator[Signer]:
        for keyid in keyids:
            try:
                yield from self.keys.signers(role, [keyid])
            except ServerError as error:
                logger.warning("a key of %s cannot be used: %s", role, error.detail)

    # ------------------------------------------------------------ publishing

    def _publish(
        self,
        choice: Choice,
        now: datetime,
        bins: Mapping[str, dict[str, TargetFile]],
        renew: Collection[str],
    ) -> set[str]:
        """Write what has changed, the timestamp last; return the roles."""
        before = self.published
        delegated = {**choice.families, **self._models(choice, now, bins, renew)}
        snapshot = self._snapshot(choice, delegated, now, renew)
        mandate = mandate_in_root(choice.root.signed, "timestamp")
        timestamp = None if before is None else before.timestamp
        if (
            timestamp is None
            or before is None
            or snapshot is not before.snapshot
            or timestamp.missing(mandate)
            or "timestamp" in renew
        ):
            signed = Timestamp(
                version=self.next_version("timestamp"),
                expires=end_of("timestamp", now),
                snapshot_meta=meta_file(snapshot),
            )
            timestamp = self._sign("timestamp", signed, mandate)
        after = Published(choice.root, choice.targets, delegated, snapshot, timestamp)
        # A root before the timestamp: whoever reads in between walks to it first.
        order = [*delegated, "targets", "snapshot", "root", "timestamp"]
        changed = [
            role
            for role in order
            if before is None or after.document(role) is not before.document(role)
        ]
        for role in changed:
            document = after.document(role)
            assert document is not None, role
            self.folder.write(role, document)
        self.published = after
        if changed:
            self.folder.forget_old(after)
        return set(changed)

    def _models(
        self,
        choice: Choice,
        now: datetime,
        bins: Mapping[str, dict[str, TargetFile]],
        renew: Collection[str],
    ) -> dict[str, Document[Targets]]:
        """Return ``models`` and its bins, those that must change made anew."""
        known = {} if self.published is None else self.published.delegated
        mandate = mandate_in_targets(choice.targets.signed, MODELS_ROLE)
        assert mandate is not None
        wanted = models_delegations(mandate)
        models = known.get(MODELS_ROLE)
        if (
            models is None
            or models.missing(mandate)
            or models.signed.delegations != wanted
            or MODELS_ROLE in renew
        ):
            signed = Targets(
                version=self.next_version(MODELS_ROLE),
                expires=end_of(MODELS_ROLE, now),
                delegations=wanted,
            )
            models = self._sign(MODELS_ROLE, signed, mandate)
        result = {MODELS_ROLE: models}
        in_models = mandate_in_models(models.signed)
        assert in_models is not None
        assert wanted.succinct_roles is not None
        for role in wanted.succinct_roles.get_roles():
            current = known.get(role)
            if current is None or role in bins or role in renew or current.missing(in_models):
                targets = bins.get(role, {} if current is None else current.signed.targets)
                signed = Targets(
                    version=self.next_version(role), expires=end_of(role, now), targets=targets
                )
                current = self._sign(MODELS_ROLE, signed, in_models)
            result[role] = current
        return result

    def _snapshot(
        self,
        choice: Choice,
        delegated: Mapping[str, Document[Targets]],
        now: datetime,
        renew: Collection[str],
    ) -> Document[Snapshot]:
        current = None if self.published is None else self.published.snapshot
        meta = {} if current is None else dict(current.signed.meta)  # once listed, always listed
        documents = {"targets": choice.targets, **delegated}
        for role, document in documents.items():
            known = meta.get(f"{role}.json")
            if known is None or known.version != document.version:
                meta[f"{role}.json"] = meta_file(document)
        mandate = mandate_in_root(choice.root.signed, "snapshot")
        if (
            current is None
            or current.signed.meta != meta
            or current.missing(mandate)
            or "snapshot" in renew
        ):
            signed = Snapshot(
                version=self.next_version("snapshot"), expires=end_of("snapshot", now), meta=meta
            )
            return self._sign("snapshot", signed, mandate)
        return current

    def _sign(self, role: str, signed: SignedT, mandate: Mandate) -> Document[SignedT]:
        return Document.signed_by(signed, self.keys.signers(role, mandate.keyids))

    # ------------------------------------------------------------ keys

    def forget_unlisted_keys(self) -> None:
        """Forget the keys that nothing lists any more, and delete their files."""
        self.keys.keep_only(self._listed())
        self._fingerprint = self._look()

    def _listed(self) -> dict[str, set[str]]:
        """Return the ids of all keys that are listed, or about to be, by role."""
        listed: dict[str, set[str]] = {}
        roots = [one.signed for one in (self.drafts.get("root"),) if one]
        targets = [one.signed for one in (self.drafts.get("targets"),) if one]
        if self.published is not None:
            roots.append(self.published.root.signed)
            targets.append(self.published.targets.signed)
        for root in roots:
            for role in (*root.roles, "orders"):
                listed.setdefault(role, set()).update(mandate_in_root(root, role).keyids)
        for one in targets:
            for role in (*families_of(one), MODELS_ROLE):
                mandate = mandate_in_targets(one, role)
                listed.setdefault(role, set()).update(mandate.keyids if mandate else ())
        return listed

    def _wrong_keys(self) -> Unavailable:
        return Unavailable(
            "tuf.keys",
            "the keys at hand are not those that the signed metadata names for the roles that "
            "this server signs",
            hint="restore the keys folder that belongs to this data folder from a backup",
        )

    def _look(self) -> object:
        try:
            found = self.keys.path.stat()
        except FileNotFoundError:
            return None
        return self.folder.fingerprint(), found.st_ino, found.st_mtime_ns, found.st_size
