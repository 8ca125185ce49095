"""What of a model's inputs and answers may leave the devices that run it: nothing, until said.

A policy is told in every order of a device that has the model among its slots, and signed with it.
A change has these orders made anew soon, as the renewal of orders does, some at a time.

To which key samples are sealed is part of it: the server's own unless somebody says otherwise. A
change that does not speak of the key leaves it as it is.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from edgectl_protocol.samples import SamplePolicy
from edgectl_protocol.sealed_samples import sample_key_id
from edgectl_server.audit import describe
from edgectl_server.policy_documents import replace_document
from edgectl_server.sample_keys import SERVER, SampleKeys, bring_key, server_key
from edgectl_server.schemas import SampleKeyInfo, SamplePolicyChange, SamplePolicyInfo
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import DesiredSlot, Device, SamplePolicyRow

__all__ = ["SamplePolicies", "sample_policies_of"]

_NONE = "none"


class SamplePolicies:
    """Policies by model. Its methods may be called from any thread."""

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        """Take what it needs."""
        self._database = database
        self._now = now

    def get(self, model: str) -> SamplePolicyInfo:
        """Return the policy of a model, also of one that was never pushed."""
        with self._database.read() as session:
            return _info(model, session.get(SamplePolicyRow, model), server_key(session))

    def put(self, model: str, policy: SamplePolicyChange, user: str) -> SamplePolicyInfo:
        """Replace the policy of a model, and have its devices told.

        Raises:
            Conflict: ``policy.changed``: it is not the one any more that the new one is made from.
            Refused: ``sample.key``: nothing can be sealed to that key.
        """
        with self._database.write() as session:
            before = session.get(SamplePolicyRow, model)
            seal = policy.seal or (SERVER if before is None else _seal_of(before))
            if seal not in {SERVER, _NONE}:
                bring_key(session, seal, user=user, now=self._now())
            document: dict[str, Any] = {
                "bytes_per_day": policy.bytes_per_day,
                "reasons": sorted(set(policy.reasons)),
                "random_share": policy.random_share,
                "seal": seal,
            }
            row = replace_document(
                session,
                SamplePolicyRow,
                model,
                document,
                revision=policy.revision,
                by=(user, self._now()),
                named=(f"the policy of {model} on samples", f"edgectl samples policy {model}"),
            )
            self._have_told(session, [model])
            return _info(model, row, server_key(session))

    def rotate(self, keys: SampleKeys, user: str) -> SampleKeyInfo:
        """Make a new key of the server's, and have the devices told that seal to it."""
        with self._database.write() as session:
            made = keys.make(session, user)
            describe(key=made.id)
            rows = session.scalars(select(SamplePolicyRow)).all()
            self._have_told(session, [row.model for row in rows if _seal_of(row) == SERVER])
        return made

    def _have_told(self, session: Session, models: Collection[str]) -> None:
        """Have new orders made for the devices that are to run one of `models`."""
        running = select(DesiredSlot.device).where(DesiredSlot.slot.in_(models))
        session.execute(
            update(Device)
            .where(Device.id.in_(running), Device.order_expires_at.is_not(None))
            .values(order_expires_at=self._now())
            .execution_options(synchronize_session=False)
        )


def sample_policies_of(session: Session, models: Collection[str]) -> dict[str, SamplePolicy]:
    """Return the policies of those of `models` of which anything may leave a device."""
    wanted = select(SamplePolicyRow).where(SamplePolicyRow.model.in_(models))
    rows = session.scalars(wanted).all()
    ours = server_key(session) if rows else None
    policies = {row.model: _policy(row, ours) for row in rows}
    return {model: policy for model, policy in policies.items() if policy.on}


def _seal_of(row: SamplePolicyRow) -> str:
    return str(row.document.get("seal", SERVER))


def _key_of(row: SamplePolicyRow, ours: bytes | None) -> bytes | None:
    """Return the key that devices seal to; None: to none, or to the server's that is not there."""
    seal = _seal_of(row)
    return ours if seal == SERVER else None if seal == _NONE else b64decode(seal)


def _policy(row: SamplePolicyRow, ours: bytes | None) -> SamplePolicy:
    """Return a policy with its key; nothing leaves where the server's is wanted and is not there.

    Args:
        row: of the policy.
        ours: the server's public key.
    """
    document = row.document
    if _seal_of(row) == SERVER and ours is None:
        return SamplePolicy()
    return SamplePolicy(
        bytes_per_day=document["bytes_per_day"],
        reasons=tuple(document["reasons"]),
        random_share=document["random_share"],
        key=_key_of(row, ours),
    )


def _info(model: str, row: SamplePolicyRow | None, ours: bytes | None) -> SamplePolicyInfo:
    nothing = SamplePolicy()
    if row is None:
        return SamplePolicyInfo(
            model=model,
            bytes_per_day=nothing.bytes_per_day,
            reasons=list(nothing.reasons),
            random_share=nothing.random_share,
            seal=SERVER,
            key=None,
            revision=0,
            changed_at=None,
            changed_by="",
        )
    key = _key_of(row, ours)
    return SamplePolicyInfo(
        model=model,
        bytes_per_day=row.document["bytes_per_day"],
        reasons=row.document["reasons"],
        random_share=row.document["random_share"],
        seal=_seal_of(row),
        key=None if key is None else sample_key_id(key),
        revision=row.revision,
        changed_at=row.changed_at,
        changed_by=row.changed_by,
    )
