"""What the first start after a restore does, so that an older state is no state of its own.

Devices have seen more than a restored server remembers. They refuse whatever is numbered behind
that, and rightly so; what people took back in between must not come alive again either. Rules:

1. Every number that devices compare goes ahead by more than can have been given away since:
   versions of the signed metadata, counters of orders, and those of bundles for microcontrollers
   (`edgectl_server.version_rows.counter_of`). (Requests are numbered by the clock, revocation lists
   by the newest revocation.) A root goes on by one, because devices walk through all of them.
2. A device that answers an order of the forgotten time is no attacker: the numbers in between are
   noted as forgotten (`edgectl_server.order_answers`).
3. Unless nothing can have happened since (`carry_on`), nothing moves by itself: rollouts are
   paused, and whom they had ordered waits for a new order. No order of the backup is published or
   renewed: somebody may have taken it back, and devices that know better would report a replay.
   Devices go on with what they run. Logins and enrolment tokens end: they may have ended,
   or been used.
4. It is done before anything is published, may be done twice, and is written into the audit log.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec
from sqlalchemy import delete, null, select, update
from sqlalchemy.orm import Session

from edgectl_server.audit import note
from edgectl_server.domain.rollouts import DeviceState, RolloutState
from edgectl_server.errors import Unavailable
from edgectl_server.order_answers import mark_forgotten
from edgectl_server.storage.database import Database
from edgectl_server.storage.files import sync_directory, write_durably
from edgectl_server.storage.tables import (
    DesiredSlot,
    Device,
    EnrolToken,
    LoginSession,
    Outbox,
    Retained,
    Rollout,
    RolloutDevice,
    RolloutEvent,
)

__all__ = [
    "AHEAD_MIN",
    "UNFINISHED",
    "Restored",
    "ahead_of",
    "check_finished",
    "forget_restored",
    "read_restored",
    "resume_rows",
]

AHEAD_MIN = 1_000_000
UNFINISHED = ".restoring"
"""Folder in the data folder of a restore that has not ended."""
_MARK = "restored.json"
_MARK_BYTES_MAX = 4096
_NOTE = "paused by the restore of a backup: look what has happened since, then resume or abort"


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """That a data folder was restored and its server has not started since."""

    made_at: datetime
    """When the backup was made."""
    restored_at: datetime
    carry_on: bool
    """The server had stopped before, so that nothing can have happened."""
    ahead: int
    """By how much numbers go ahead."""

    def write(self, data: Path) -> None:
        """Leave it in the data folder."""
        write_durably(data / _MARK, msgspec.json.encode(self))


def ahead_of(made_at: datetime, now: datetime) -> int:
    """Return by how much numbers go ahead: more than one a second since, and a million."""
    return AHEAD_MIN + max(0, int((now - made_at).total_seconds()))


def check_finished(data: Path) -> None:
    """Raise `Unavailable` ``backup.unfinished`` where a restore into the data folder goes on."""
    if (data / UNFINISHED).exists():
        raise Unavailable(
            "backup.unfinished",
            f"restoring a backup into {data} has not ended",
            hint="wait for it; where it was broken off, empty the folder and restore again",
        )


def read_restored(data: Path) -> Restored | None:
    """Return what a restore has left in the data folder; None where nothing was restored.

    Raises:
        Unavailable: ``backup.mark``, or ``backup.unfinished``.
    """
    check_finished(data)
    path = data / _MARK
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_MARK_BYTES_MAX), type=Restored)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise Unavailable(
            "backup.mark",
            f"cannot read {path}: {error}",
            hint="restore the backup again, into an empty folder",
        ) from error


def forget_restored(data: Path) -> None:
    """Strike it out: everything is done."""
    (data / _MARK).unlink(missing_ok=True)
    sync_directory(data)


def resume_rows(database: Database, restored: Restored, now: datetime) -> None:
    """Do what the rules say in the database, in one transaction."""
    with database.write() as session:
        devices = 0
        for device in session.scalars(select(Device).with_for_update()):
            mark_forgotten(device, restored.ahead)
            devices += 1
        session.execute(update(Retained).values(complete=False))
        paused = 0 if restored.carry_on else _hold_everything(session, now)
        details = {
            "backup_of": restored.made_at.isoformat(),
            "carry_on": restored.carry_on,
            "numbers_ahead": restored.ahead,
            "devices": devices,
            "paused": paused,
        }
        note(session, "restore", "server", details)


def _hold_everything(session: Session, now: datetime) -> int:
    """Pause rollouts and end what may have ended since; return how many were running."""
    session.execute(delete(LoginSession))
    session.execute(delete(EnrolToken))
    session.execute(delete(Outbox).where(Outbox.kind == "order"))
    session.execute(update(Device).values(order=null(), order_expires_at=None))
    active = (RolloutState.RUNNING.value, RolloutState.PAUSED.value, RolloutState.ABORTED.value)
    paused = 0
    for rollout in session.scalars(
        select(Rollout).where(Rollout.state.in_(active), Rollout.finished_at.is_(None))
    ):
        _let_wait(session, rollout, now)
        if rollout.state != RolloutState.RUNNING:
            continue
        paused += 1
        rollout.state, rollout.note = RolloutState.PAUSED.value, _NOTE
        rollout.revision += 1
        session.add(
            RolloutEvent(
                rollout=rollout.id,
                revision=rollout.revision,
                at=now,
                actor="server",
                kind=RolloutState.PAUSED.value,
                data={"note": _NOTE},
            )
        )
    return paused


def _let_wait(session: Session, rollout: Rollout, now: datetime) -> None:
    """Make as if those that a rollout has ordered, and that have not ended, had no order yet."""
    ordered = select(RolloutDevice).where(
        RolloutDevice.rollout == rollout.id,
        RolloutDevice.state == DeviceState.IN_PROGRESS.value,
    )
    for row in session.scalars(ordered):
        row.state, row.order_counter, row.updated_at = DeviceState.PENDING.value, None, now
        desired = session.get(DesiredSlot, (row.device, rollout.model))
        if desired is None or desired.rollout != rollout.id:
            continue
        if row.previous_version_id is None:
            session.delete(desired)
        else:
            desired.version_id, desired.rollout = row.previous_version_id, None
            desired.ranking = None
