"""What has turned out to be true of samples, as applications say through their devices.

Rules:

1. A device may say it of its own requests alone, of a model whose policy asks for samples; what is
   said otherwise, or of an unknown class, is dropped and counted.
2. An outcome may come before its sample, or of a request that was never sampled. It waits for
   `KEPT`, at most `WAITING_MAX` of a device, the oldest gives way; when the sample comes, it is its
   annotation from the field.
3. Saying it again replaces it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from edgectl_protocol.messages import Reason
from edgectl_protocol.outcomes import OutcomeReport
from edgectl_server.annotation_rows import keep_vote
from edgectl_server.contracts import Contracts, classes_of
from edgectl_server.domain.agreement import Vote
from edgectl_server.sample_policies import sample_policies_of
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import Device, OutcomeRow, SampleRow

__all__ = ["GroundTruth"]

KEPT = timedelta(days=7)
WAITING_MAX = 1000


class GroundTruth:
    """Takes outcomes in; everything in the caller's transaction."""

    def __init__(
        self, *, database: Database, contracts: Contracts, now: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._contracts = contracts
        self._now = now

    def take(self, session: Session, device: Device, outcome: OutcomeReport) -> Reason | None:
        """Note what a device says; return why it is dropped, or None."""
        policy = sample_policies_of(session, [outcome.model]).get(outcome.model)
        if policy is None or not policy.on:
            detail = f"{device.id} tells outcomes of {outcome.model}, of which no policy asks for"
            return Reason(code="outcome.unasked", detail=f"{detail} samples")
        wanted = select(SampleRow).where(
            SampleRow.device == device.id,
            SampleRow.model == outcome.model,
            SampleRow.request == outcome.request_id,
        )
        newest = wanted.order_by(SampleRow.taken_at.desc(), SampleRow.id).limit(1)
        sample = session.scalars(newest.with_for_update()).first()
        if sample is not None:
            return self._say(session, sample, outcome.label)
        key = (device.id, outcome.model, outcome.request_id)
        row = session.get(OutcomeRow, key)
        if row is None:
            self._make_room(session, device.id)
            row = OutcomeRow(device=key[0], model=key[1], request=key[2])
            session.add(row)
        row.label, row.received_at = outcome.label, self._now()
        session.flush()
        return None

    def join(self, session: Session, sample: SampleRow) -> None:
        """Give a sample that has just come what was said of its request before."""
        if sample.request is None:
            return
        row = session.get(OutcomeRow, (sample.device, sample.model, sample.request))
        if row is not None:
            self._say(session, sample, row.label)
            session.delete(row)

    def forget_old(self) -> None:
        """Forget outcomes whose samples have not come; for the ticker."""
        old = delete(OutcomeRow).where(OutcomeRow.received_at < self._now() - KEPT)
        with self._database.write() as session:
            session.execute(old)

    def _say(self, session: Session, sample: SampleRow, label: str) -> Reason | None:
        config = self._contracts.find(sample.manifest)
        classes = () if config is None else classes_of(config)
        if label not in classes:
            detail = f"{sample.device} tells {label[:80]!r}, which is no class of {sample.model}"
            return Reason(code="outcome.class", detail=detail)
        labeller = f"device/{sample.device}"
        vote = Vote("field", labeller, label, classes.index(label))
        keep_vote(session, sample, vote, labeller, self._now())
        return None

    @staticmethod
    def _make_room(session: Session, device: str) -> None:
        mine = select(func.count()).where(OutcomeRow.device == device)
        if (session.scalar(mine) or 0) < WAITING_MAX:
            return
        oldest = select(OutcomeRow).where(OutcomeRow.device == device)
        row = session.scalars(oldest.order_by(OutcomeRow.received_at).limit(1)).first()
        if row is not None:
            session.delete(row)
