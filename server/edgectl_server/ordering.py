"""Orders: from what the slots of a device shall run to a signed, numbered message on the broker.

Rules: an order is made, signed and stored in the transaction that changes a `DesiredSlot`, and an
`Outbox` row with it; `Ordering.drain` publishes after the commit and removes the row when the
broker has it. In which order a device tries the variants of a slot is decided once, when the slot
is desired: what is measured later changes no device outside of a rollout. Every order gets a random
nonce; those of the newest are kept, because what a device says about an order is believed only with
its nonce. The signed envelope stays with the device's row, so that it can be published again,
unchanged, to a broker that has forgotten it: the counter grows only when something has changed, or
when the order nears its end. It carries the content keys of its encrypted candidates, sealed to its
device: only who is ordered to run a model can read it, or is asked to measure it.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from edgectl_protocol import topics
from edgectl_protocol.messages import (
    FORGIVEN_MAX,
    SLOTS_MAX,
    Candidate,
    Order,
    ReportedState,
    SlotOrder,
    SlotReport,
    UpdatePolicy,
)
from edgectl_protocol.watching import WatchPolicy
from edgectl_server.audit import note
from edgectl_server.delta_rows import (
    Expected,
    deltas_to,
    expected_transfer,
    offers,
    rest_offers,
    running_in,
)
from edgectl_server.domain.coupling import DesiredVersion, couple
from edgectl_server.domain.rollouts import DeviceState
from edgectl_server.domain.variants import ClassFigures, VariantFacts, fits, rank_variants
from edgectl_server.measurements import Measurements
from edgectl_server.order_answers import ACCEPTED_MAX, reported_of
from edgectl_server.sample_policies import sample_policies_of
from edgectl_server.schemas import RolloutPolicy
from edgectl_server.signing.content_keys import ContentKeys
from edgectl_server.signing.orders import OrderSigner
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import (
    BundleVariant,
    DesiredSlot,
    Device,
    ModelVersion,
    Outbox,
    Rollout,
    RolloutDevice,
)

__all__ = [
    "LIFETIME",
    "Ordering",
    "Publishes",
    "variants_of",
]

logger = logging.getLogger(__name__)

LIFETIME = timedelta(days=30)
RENEWAL = timedelta(days=10)
"""An order is made anew when less than this is left."""
NONCES_MAX = 16
"""Orders of a device whose nonces are known; it has taken one of them, or will take the newest."""
_BATCH = 200
_FLUSH_S = 10.0


class Publishes(Protocol):
    """What is needed of the link to the broker."""

    def publish(self, topic: str, payload: bytes, retain: bool = False) -> None:
        """Queue a message."""

    def flush(self, timeout_s: float) -> bool:
        """Wait until the broker has everything."""


class Ordering:
    """Makes and publishes orders. Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        database: Database,
        signer: OrderSigner,
        content_keys: ContentKeys,
        now: Callable[[], datetime],
        measurements: Measurements | None = None,
        watch: WatchPolicy | None = None,
    ) -> None:
        """Take what it needs; without `measurements` the pipeline's own decide.

        `watch` is said in every order.
        """
        self._database = database
        self._signer = signer
        self._content_keys = content_keys
        self._now = now
        self._measurements = measurements
        self._watch = watch or WatchPolicy()
        self._renewed_to = ""
        """The last device that `renew` has come by in this round."""

    # ------------------------------------------------------------ in somebody's transaction

    def desire(
        self,
        session: Session,
        device: str,
        slot: str,
        version_id: int | None,
        *,
        rollout: str | None,
        ranking: Sequence[str] | None = None,
    ) -> int:
        """Say what a slot shall run (None: what it ran before, or nothing), and order it.

        With `ranking`, only the variants with these manifests, in this order.

        That a version is taken back stays said, in every later order: the device may see the
        newest only, and what it has committed meanwhile it gives up only when it is told to.

        Returns:
            The counter of the order.
        """
        row = session.get(DesiredSlot, (device, slot))
        if row is None:
            session.add(
                DesiredSlot(
                    device=device,
                    slot=slot,
                    version_id=version_id,
                    rollout=rollout,
                    updated_at=self._now(),
                    ranking=None if ranking is None else list(ranking),
                )
            )
        else:
            row.version_id, row.rollout, row.updated_at = version_id, rollout, self._now()
            row.ranking = None if ranking is None else list(ranking)
        session.flush()
        return self.issue(session, device)

    def issue(self, session: Session, name: str) -> int:
        """Make the next order of a device from its desired slots; return its counter."""
        device = session.get(Device, name, with_for_update=True)
        assert device is not None, name
        now = self._now()
        device.order_counter = _next_counter(device)
        device.order_expires_at = now + LIFETIME
        slots, policy, coupled, forgive = self._slots(session, device)
        withdrawn = session.scalars(
            select(DesiredSlot.slot)
            .where(DesiredSlot.device == name, DesiredSlot.version_id.is_(None))
            .order_by(DesiredSlot.slot)
            .limit(SLOTS_MAX)
        ).all()
        deltas = deltas_to(session, reported_of(device), slots)
        order = Order(
            device=name,
            counter=device.order_counter,
            nonce=_next_nonce(device),
            issued_at=now,
            expires_at=now + LIFETIME,
            slots=slots,
            policy=policy,
            watch=self._watch,
            samples=sample_policies_of(session, list(slots)),
            withdrawn=tuple(withdrawn),
            coupled=coupled,
            forgive=forgive,
            keys=self.sealed_keys(
                session, device, [c.manifest for s in slots.values() for c in s.candidates]
            ),
            deltas=offers(deltas),
            rests=rest_offers(deltas),
        )
        device.order = self._signer.envelope(order)
        self.enqueue(session, name)
        return device.order_counter

    def sealed_keys(
        self, session: Session, device: Device, manifests: Collection[str]
    ) -> dict[str, bytes]:
        """Return the content keys of the encrypted ones, by manifest, sealed to the device."""
        rows = session.execute(
            select(BundleVariant.manifest, BundleVariant.target, BundleVariant.content_key).where(
                BundleVariant.manifest.in_(manifests), BundleVariant.content_key.is_not(None)
            )
        ).all()
        keys = {}
        for manifest, target, kept in rows:
            assert kept is not None, manifest
            assert device.encryption_key is not None, device.id  # else it is no candidate
            keys[manifest] = self._content_keys.seal(
                kept,
                manifest=manifest,
                target=target,
                device=device.id,
                recipient=device.encryption_key,
            )
        return keys

    def candidates(
        self,
        session: Session,
        device: Device,
        reported: ReportedState | None,
        variants: Sequence[VariantFacts],
        *,
        ranking: Sequence[str] | None = None,
        known: dict[str, dict[str, ClassFigures]] | None = None,
    ) -> tuple[VariantFacts, ...] | None:
        """Return the variants that a device may run, best first; None before it said what it is.

        Args:
            session: open.
            device: its row.
            reported: what it has reported last.
            variants: of one version.
            ranking: manifests in the order that was decided before; None: it is decided now.
            known: figures of each class for these variants, as they become known; for whoever
                asks for many devices in one session.
        """
        if reported is None or reported.capabilities is None:
            return None
        decrypts = device.encryption_key is not None
        if ranking is not None:
            place = {manifest: number for number, manifest in enumerate(ranking)}
            usable = [
                one
                for one in variants
                if one.manifest in place and fits(one, reported.capabilities, decrypts=decrypts)
            ]
            return tuple(sorted(usable, key=lambda one: place[one.manifest]))
        target, figures = None, dict[str, ClassFigures]()
        if self._measurements is not None:
            target = self._measurements.target(device)
            known = {} if known is None else known
            if target is not None and target.name not in known:
                manifests = [one.manifest for one in variants]
                known[target.name] = self._measurements.of_class(session, target.name, manifests)
            figures = {} if target is None else known[target.name]
        return rank_variants(
            reported.capabilities,
            variants,
            decrypts=decrypts,
            target=target,
            figures=figures,
        )

    def _slots(
        self, session: Session, device: Device
    ) -> tuple[dict[str, SlotOrder], UpdatePolicy, tuple[tuple[str, ...], ...], tuple[str, ...]]:
        """Return what the device shall run, and how.

        Then the policy, what switches together, and manifests to be tried again though the device
        has found them bad.

        A slot for which it can run nothing, or not yet what goes with it, is left out.
        """
        rows = session.execute(
            select(DesiredSlot, ModelVersion, Rollout.policy, RolloutDevice.state)
            .join(ModelVersion, ModelVersion.id == DesiredSlot.version_id)
            .outerjoin(Rollout, Rollout.id == DesiredSlot.rollout)
            .outerjoin(
                RolloutDevice,
                (RolloutDevice.rollout == DesiredSlot.rollout)
                & (RolloutDevice.device == DesiredSlot.device),
            )
            .where(DesiredSlot.device == device.id)
            .order_by(DesiredSlot.updated_at)
        ).all()
        slots, wanted, forgive = {}, {}, []
        policy = UpdatePolicy()
        reported = reported_of(device)
        for desired, version, rollout_policy, state in rows:
            if rollout_policy is not None:  # the newest is the last
                policy = RolloutPolicy.model_validate(rollout_policy).for_devices()
            ranked = self.candidates(
                session,
                device,
                reported,
                variants_of(session, version.id),
                ranking=desired.ranking,
            )
            if ranked:
                if desired.ranking is None:
                    desired.ranking = [one.manifest for one in ranked]
                wanted[desired.slot] = DesiredVersion(
                    version=version.version,
                    goes_with=tuple((rollout_policy or {}).get("goes_with", ())),
                    committed=state in (None, DeviceState.COMMITTED.value),
                )
                slots[desired.slot] = _slot_order(session, desired, version, ranked, reported)
                if (rollout_policy or {}).get("forgive"):
                    forgive += _forgiven(slots[desired.slot], desired.slot, reported)
        kept, coupled = couple(wanted)
        chosen = {slot: one for slot, one in slots.items() if slot in kept}
        return chosen, policy, coupled, tuple(forgive[:FORGIVEN_MAX])

    def expected_transfer(self, session: Session, name: str, slot: str) -> Expected | None:
        """Return what fetching is expected to cost a device; None where nothing is ordered."""
        desired, device = session.get(DesiredSlot, (name, slot)), session.get(Device, name)
        if desired is None or device is None or not desired.ranking:
            return None
        running = running_in(reported_of(device), slot)
        return expected_transfer(session, running, desired.ranking[0])

    def withdraw(self, session: Session, device: Device) -> None:
        """Take the device's order back from the broker; for a device that leaves."""
        session.execute(delete(DesiredSlot).where(DesiredSlot.device == device.id))
        device.order = None
        device.order_expires_at = None
        self.enqueue(session, device.id)

    def enqueue(self, session: Session, device: str) -> None:
        """Have the device's present order published; the newest row of a device wins."""
        key = f"order/{device}"
        session.execute(delete(Outbox).where(Outbox.key == key))
        payload = {"device": device, "mark": secrets.token_hex(8)}
        session.add(Outbox(key=key, kind="order", payload=payload, created_at=self._now()))

    # ------------------------------------------------------------ in the background

    def drain(self, link: Publishes) -> int:
        """Publish what is in the outbox; return how many.

        A row that was replaced meanwhile has another mark and stays; SQLite gives it the same id.

        Raises:
            Unavailable: the broker takes nothing now.
        """
        with self._database.read() as session:
            rows = session.scalars(select(Outbox).order_by(Outbox.id).limit(_BATCH)).all()
            names = [row.payload["device"] for row in rows if row.kind == "order"]
            self._publish(session, link, names)
        if not rows or not link.flush(_FLUSH_S):
            return 0
        published = {row.id: row.payload for row in rows}
        with self._database.write() as session:
            for row in session.scalars(select(Outbox).where(Outbox.id.in_(published))):
                if row.payload == published[row.id]:
                    session.delete(row)
        return len(rows)

    def publish_all(self, link: Publishes) -> None:
        """Publish every order that is valid; for a broker that may have forgotten them."""
        after = ""
        while True:
            with self._database.read() as session:
                names = session.scalars(
                    select(Device.id)
                    .where(Device.id > after, Device.order_expires_at > self._now())
                    .order_by(Device.id)
                    .limit(_BATCH)
                ).all()
                self._publish(session, link, names)
            if not names:
                return
            after = names[-1]

    def renew(self) -> int:
        """Make orders that near their end anew, some at each call; return how many."""
        soon = self._now() + RENEWAL
        with self._database.write() as session:
            names = session.scalars(
                select(Device.id)
                .where(
                    Device.id > self._renewed_to,
                    Device.order_expires_at < soon,
                    Device.state == "enrolled",
                )
                .order_by(Device.id)
                .limit(_BATCH)
            ).all()
            count = self._issue_each(session, names)
            if count:
                note(session, "renew_orders", "", {"orders": count})
        # On from there: those for which none can be made must not fill every batch.
        self._renewed_to = names[-1] if len(names) == _BATCH else ""
        return count

    def sign_anew(self, keyids: Collection[str]) -> int:
        """Make anew orders that none of these keys has signed; return how many.

        After a change of the keys that the root lists: devices refuse what another has signed.
        """
        after, count = "", 0
        while True:
            with self._database.write() as session:
                devices = session.scalars(
                    select(Device)
                    .where(Device.id > after, Device.state == "enrolled", Device.order.is_not(None))
                    .order_by(Device.id)
                    .limit(_BATCH)
                ).all()
                names = [one.id for one in devices]
                other = [one.id for one in devices if not _is_signed_by(one.order, keyids)]
                made = self._issue_each(session, other)
                if made:
                    note(session, "sign_orders_anew", "", {"orders": made})
            count += made
            if not names:
                return count
            after = names[-1]

    def _issue_each(self, session: Session, names: Iterable[str]) -> int:
        """Make orders anew; return how many. One that cannot be made keeps no other from its."""
        count = 0
        for name in names:
            try:
                with session.begin_nested():
                    self.issue(session, name)
            except SQLAlchemyError:
                raise  # all of them come again
            except Exception:
                logger.exception("no order can be made for %s", name)
            else:
                count += 1
        return count

    def _publish(self, session: Session, link: Publishes, names: Iterable[str]) -> None:
        for name in names:
            device = session.get(Device, name)
            order = None if device is None else device.order
            payload = b"" if order is None else msgspec.json.encode(order)
            link.publish(topics.order(name), payload, retain=True)


def _is_signed_by(order: dict[str, Any] | None, keyids: Collection[str]) -> bool:
    """Say whether one of the keys has signed an envelope; no envelope needs no signature."""
    return order is None or any(one["keyid"] in keyids for one in order["signatures"])


def _next_counter(device: Device) -> int:
    """Return a number above every order of ours, and above the newest that the device has accepted.

    Who had the orders key may have numbered orders far ahead; a restored backup numbers behind.
    """
    accepted = int((device.reported or {}).get("order_counter", 0))
    if accepted > ACCEPTED_MAX:  # only a lie, or a thief of the key: there must be room above it
        accepted = 0
    return max(device.order_counter, accepted) + 1


def _next_nonce(device: Device) -> str:
    """Return the nonce of the order that `device.order_counter` counts, and note it."""
    nonce = secrets.token_hex(16)
    newest = sorted(device.order_nonces or {}, key=int)[-(NONCES_MAX - 1) :]
    kept = {counter: device.order_nonces[counter] for counter in newest}
    device.order_nonces = {**kept, str(device.order_counter): nonce}
    return nonce


def variants_of(session: Session, version_id: int) -> tuple[VariantFacts, ...]:
    """Return the published variants of a version."""
    rows = session.scalars(
        select(BundleVariant)
        .where(BundleVariant.version_id == version_id)
        .order_by(BundleVariant.id)
    )
    return tuple(
        VariantFacts(
            variant=row.variant,
            precision=row.precision,
            target=row.target,
            manifest=row.manifest,
            model_bytes=row.model_bytes,
            latency_p50_us=_number(row.trial.get("latency_p50_us")),
            rank=row.rank,
            runtime=str(row.trial.get("runtime", "onnxruntime")),
            encrypted=row.content_key is not None,
            portable=bool(row.trial.get("portable", True)),
        )
        for row in rows
    )


def _slot_order(
    session: Session,
    desired: DesiredSlot,
    version: ModelVersion,
    ranked: Sequence[VariantFacts],
    reported: ReportedState | None,
) -> SlotOrder:
    """Return what a slot is ordered to run, and what that is expected to cost."""
    running = running_in(reported, desired.slot)
    expected = expected_transfer(session, running, ranked[0].manifest)
    return SlotOrder(
        model=version.model,
        version=version.version,
        candidates=tuple(
            Candidate(variant=one.variant, target=one.target, manifest=one.manifest)
            for one in ranked
        ),
        rollout=desired.rollout,
        predicted_bytes=None if expected is None else expected.predicted_bytes,
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _forgiven(wanted: SlotOrder, slot: str, reported: ReportedState | None) -> list[str]:
    """Return what a device has found bad and shall try again, unless this rollout has said so."""
    if reported is None:
        return []
    update = reported.slots.get(slot, SlotReport()).update
    if update is not None and update.rollout == wanted.rollout:
        return []  # it was told: what it finds bad now stays so
    return [one.manifest for one in wanted.candidates if one.manifest in reported.rejected]
