"""Changes of who may sign what, and of what waits for signatures.

Rotation is an operation on the data folder: an account of the API, an administrator's too, is not
enough to sign models. Every method reads and writes under the folder's lock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from securesystemslib.signer import Key
from tuf.api.metadata import Root, TargetFile, Targets

from edgectl_protocol.metadata import MODELS_ROLE, ORDER_KEYS_FIELD
from edgectl_server.errors import Conflict, NotFound, Refused
from edgectl_server.signing.changes import (
    TOP_ROLES,
    add_family,
    change_root_keys,
    change_targets_keys,
    remove_family,
)
from edgectl_server.signing.documents import (
    Document,
    copy_of,
    end_of,
    families_of,
    first_targets,
    mandate_of,
    read_delegator,
)
from edgectl_server.signing.keys import ONLINE_ROLES, HeldKey, Keys
from edgectl_server.signing.publication import Outcome, Publication

__all__ = ["Ceremonies"]


class Ceremonies:
    """What a `Repository` does to its keys. Its methods may be called from any thread."""

    def __init__(self, directory: Path, keys: Keys) -> None:
        """Take the folder and the keys, as they are; `Repository.open` demands that all is well."""
        self._keys = keys
        self._state = Publication(directory, keys)

    def begin(
        self,
        now: datetime,
        *,
        root: Sequence[Key] = (),
        root_threshold: int = 1,
        targets: Sequence[Key] = (),
        targets_threshold: int = 1,
    ) -> Outcome:
        """Make the first root and targets; for roles without keys given, those that are held sign.

        Raises:
            Conflict: ``tuf.exists``.
            Refused: ``tuf.threshold``.
            Unavailable: ``keys.none``.
        """
        state = self._state
        with state.changing():
            if state.published is not None or state.drafts:
                raise Conflict(
                    "tuf.exists",
                    f"there is signed metadata in {state.folder}",
                    hint="edgectl keys status shows it; keys are changed with edgectl keys rotate",
                )
            given = {"root": (root, root_threshold), "targets": (targets, targets_threshold)}
            first = Root(
                version=1,
                expires=end_of("root", now),
                consistent_snapshot=True,
                unrecognized_fields={ORDER_KEYS_FIELD: {}},
            )
            for role in TOP_ROLES:
                added, threshold = given.get(role, ((), 1))
                change_root_keys(first, role, added or self._held(role), (), threshold)
            targets_too = first_targets(self._held(MODELS_ROLE), now)
            drafts: dict[str, Root | Targets] = {"root": first, "targets": targets_too}
            return state.apply(now, drafts)

    # ------------------------------------------------------------ staged documents

    def staged(self, role: str) -> bytes:
        """Return the staged document of a role, with the signatures so far.

        Raises:
            NotFound: ``tuf.nothing_staged``.
        """
        with self._state.lock:
            return self._draft(role).content

    def submit(self, role: str, document: bytes, now: datetime) -> Outcome:
        """Take over the signatures of a staged document that was signed elsewhere.

        Raises:
            NotFound: ``tuf.nothing_staged``.
            Refused: ``tuf.malformed``, ``tuf.changed``, ``tuf.unknown_key`` or ``tuf.signature``.
        """
        state = self._state
        with state.changing():
            draft = self._draft(role)
            given = read_delegator(role, document)
            if given.signed_bytes != draft.signed_bytes:
                raise Refused(
                    "tuf.changed",
                    f"this is not the {role} {draft.version} that waits here",
                    hint=f"it was changed since: edgectl keys export {role}, and sign that",
                )
            mandates = state.signing_mandates(role, state.drafts)
            known = {keyid for one in mandates for keyid in one.keyids}
            good = {keyid for one in mandates for keyid in given.signers_of(one)}
            for keyid in given.metadata.signatures:
                if keyid not in known:
                    raise Refused(
                        "tuf.unknown_key",
                        f"{keyid[:12]}… does not sign for {role}",
                        hint="edgectl keys status says who does",
                    )
                if keyid not in good:
                    raise Refused(
                        "tuf.signature",
                        f"the signature of {keyid[:12]}… is not good",
                        hint="sign the exported file again",
                    )
            if not good:
                raise Refused(
                    "tuf.signature",
                    f"nobody has signed this {role}",
                    hint="edgectl keys sign FILE --key KEY",
                )
            state.drafts[role] = draft.with_signatures(given.metadata.signatures)
            return state.apply(now)

    def discard(self, role: str, now: datetime) -> Outcome:
        """Give a staged change up.

        Raises:
            NotFound: ``tuf.nothing_staged``.
            Conflict: ``tuf.exists``: without the first metadata there is nothing.
        """
        with self._state.changing():
            self._draft(role)
            if self._state.published is None:
                raise Conflict(
                    "tuf.exists",
                    "the first metadata cannot be discarded",
                    hint="to begin again, delete the folders tuf and keys",
                )
            self._state.drafts.pop(role)
            outcome = self._state.apply(now)
            self._state.forget_unlisted_keys()
            return outcome

    # ------------------------------------------------------------ keys

    def rotate(
        self,
        role: str,
        now: datetime,
        *,
        add: Sequence[Key | HeldKey] = (),
        remove: Collection[str] = (),
        threshold: int | None = None,
    ) -> Outcome:
        """Change who signs for a role; without any change given, replace the keys that are held.

        Args:
            role: any role; bins follow ``models``.
            now: the time.
            add: keys of people, or keys that this server can sign with.
            remove: ids of keys.
            threshold: how many must sign; None: as before.

        Raises:
            NotFound: ``tuf.unknown_role`` or ``tuf.unknown_key``.
            Conflict: ``tuf.key_exists``.
            Refused: ``tuf.threshold``; or ``tuf.offline``: this server could not sign any more what
                it must sign every day, or holds no key that it could replace.
            Unavailable: ``keys.…``.
        """
        with self._state.changing():
            parent = "root" if role in TOP_ROLES else "targets"
            changed = self._next(parent, now)
            self._change(changed, role, (), (), None)  # is there such a role?
            added = list(add)
            if not add and not remove and threshold is None:
                held = {one.key.keyid for one in self._keys.held(role)}
                remove = [keyid for keyid in mandate_of(changed, role).keyids if keyid in held]
                if not remove:
                    raise Refused(
                        "tuf.offline",
                        f"this server holds no key of {role} that it could replace",
                        hint=f"edgectl keys rotate {role} --add PUB --remove KEYID",
                    )
                added = [self._keys.make(role)]
            self._change(changed, role, [_key(one) for one in added], remove, threshold)
            self._hold(role, added)
            self._check_online(changed, role)
            drafts: dict[str, Root | Targets] = {parent: changed}
            return self._state.apply(now, drafts, void=self._void(drafts))

    def revoke(self, keyids: Collection[str], now: datetime) -> Outcome:
        """Take keys out of every role at once.

        A role that this server signs gets a new key in the place of its own.

        Raises:
            NotFound: ``tuf.unknown_key``.
            Refused: ``tuf.threshold``: too few keys would be left.
        """
        with self._state.changing():
            root, targets = self._next("root", now), self._next("targets", now)
            drafts: dict[str, Root | Targets] = {}
            found: set[str] = set()
            for role in (*TOP_ROLES, *families_of(targets), MODELS_ROLE):
                changed = root if role in TOP_ROLES else targets
                mandate = mandate_of(changed, role)
                gone = [keyid for keyid in mandate.keyids if keyid in keyids]
                if not gone:
                    continue
                found.update(gone)
                held = {one.key.keyid for one in self._keys.held(role)}
                lost = len(held & set(gone))
                added = [self._keys.make(role) for _ in range(lost)]
                self._change(changed, role, [_key(one) for one in added], gone, None)
                self._check_online(changed, role)
                drafts["root" if role in TOP_ROLES else "targets"] = changed
            unknown = set(keyids) - found
            if unknown:
                raise NotFound(
                    "tuf.unknown_key",
                    f"no role has the key {min(unknown)[:12]}…",
                    hint="edgectl keys list shows all keys",
                )
            return self._state.apply(now, drafts, void=self._void(drafts))

    def delegate(
        self,
        family: str,
        patterns: Sequence[str],
        keys: Sequence[Key | HeldKey],
        threshold: int,
        now: datetime,
    ) -> Outcome:
        """Give models to a family of their own, with what is signed for them already.

        Raises:
            Refused: ``tuf.family`` or ``tuf.threshold``.
            Conflict: ``tuf.family_exists``.
        """
        with self._state.changing():
            targets = self._next("targets", now)
            add_family(targets, family, patterns, [_key(one) for one in keys], threshold)
            self._hold(family, keys)
            drafts: dict[str, Root | Targets] = {"targets": targets}
            return self._state.apply(now, drafts, void=self._void(drafts))

    def undelegate(self, family: str, now: datetime, *, keep_targets: bool = False) -> Outcome:
        """Take a family's models back; from then on ``models`` signs for them.

        Args:
            family: its name.
            now: the time.
            keep_targets: this server signs for what the family has signed for. Otherwise only what
                it had signed for itself before counts again.

        Raises:
            NotFound: ``tuf.unknown_role``.
            Conflict: ``tuf.target_exists``: a path was signed for another content before.
        """
        with self._state.changing():
            targets = self._next("targets", now)
            remove_family(targets, family)
            bins: dict[str, dict[str, TargetFile]] = {}
            document = self._state.whole.document(family)
            if keep_targets and document is not None:
                for path, one in document.signed.targets.items():
                    role = self._state.role_for(path, targets)
                    assert role is not None, path
                    bins.setdefault(role, dict(self._state.targets_of(role)))[path] = one
            drafts: dict[str, Root | Targets] = {"targets": targets}
            return self._state.apply(now, drafts, bins=bins, void=self._void(drafts))

    # ------------------------------------------------------------ parts

    def _held(self, role: str) -> list[Key]:
        return [one.key for one in self._keys.held(role)]

    def _hold(self, role: str, keys: Iterable[Key | HeldKey]) -> None:
        for one in keys:
            if isinstance(one, HeldKey):
                self._keys.hold(role, one)

    def _draft(self, role: str) -> Document[Any]:
        draft = self._state.drafts.get(role)
        if draft is None:
            waiting = ", ".join(self._state.drafts) or "nothing does"
            raise NotFound(
                "tuf.nothing_staged",
                f"no version of {role} waits for signatures",
                hint=f"what waits: {waiting}",
            )
        return draft

    def _next(self, role: str, now: datetime) -> Any:
        """Return a copy of what is staged, or else published, as the next version."""
        base = self._state.drafts.get(role) or self._state.whole.document(role)
        assert base is not None, role
        return copy_of(
            base.signed, version=self._state.next_version(role), expires=end_of(role, now)
        )

    def _change(
        self,
        changed: Root | Targets,
        role: str,
        add: Sequence[Key],
        remove: Collection[str],
        threshold: int | None,
    ) -> None:
        if isinstance(changed, Root):
            change_root_keys(changed, role, add, remove, threshold)
        else:
            change_targets_keys(changed, role, add, remove, threshold)

    def _check_online(self, changed: Root | Targets, role: str) -> None:
        if role in ONLINE_ROLES and not self._state.can_sign(role, mandate_of(changed, role)):
            raise Refused(
                "tuf.offline",
                f"this server could not sign {role} any more, and must do so every day",
                hint=f"edgectl keys add-signer {role} URI, with a key that the server can use",
            )

    def _void(self, drafts: Mapping[str, Root | Targets]) -> tuple[str, ...]:
        """Return the roles where signatures of people are lost by a change on top."""
        result = []
        for role in drafts:
            staged = self._state.drafts.get(role)
            held = {one.key.keyid for one in self._keys.held(role)}
            if staged is not None and set(staged.metadata.signatures) - held:
                result.append(role)
        return tuple(result)


def _key(one: Key | HeldKey) -> Key:
    return one.key if isinstance(one, HeldKey) else one
