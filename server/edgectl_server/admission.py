"""Who may enrol: tokens, keys on a list, and devices that ask.

Rules:

1. A list entry lets one key in under one name, once. Approving a device that asks makes such an
   entry: what happens afterwards is the same.
2. Anybody can ask to be let in, under any name, so a request proves nothing and costs little: its
   key has signed it, there are at most so many, few from one address, and those that are not
   repeated are forgotten. When the list is full, those on it stay: nobody can push others out.
3. An approval names the whole fingerprint. Two devices that ask under one name are two requests;
   that one of them is meant is said by the fingerprint, never by the name.
4. A name that an enrolled device has is not given to another key, whoever approves: the old device
   has to be shut out first, and what lets the new one in must be younger than that.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from edgectl_protocol.enrolment import (
    Token,
    format_fingerprint,
    format_token,
    key_of,
    parse_fingerprint,
)
from edgectl_protocol.names import check_device_id
from edgectl_server.attempts import source_of
from edgectl_server.errors import Conflict, Forbidden, NotFound, Refused, TooMany
from edgectl_server.schemas import (
    EnrolRequestInfo,
    EnrolTokenCreated,
    EnrolTokenInfo,
    Page,
    PreauthorisedEntry,
    PreauthorisedInfo,
    PreauthoriseResult,
)
from edgectl_server.storage.database import Database
from edgectl_server.storage.paging import PageQuery, fetch_page, match, order
from edgectl_server.storage.tables import Device, EnrolRequestRow, EnrolToken, Preauthorised
from edgectl_server.webhook_outbox import announce

__all__ = ["REQUESTS_PER_SOURCE_MAX", "Admission", "shut_out_at"]

REQUESTS_PER_SOURCE_MAX = 10
"""Waiting from one address, or one IPv6 network."""
PREAUTHORISED_MAX = 100_000
_KEEP_EXPIRED = timedelta(days=7)
_FORGET_WAITING = timedelta(hours=1)
"""A device that waits asks at least once a minute."""
_FORGET_REJECTED = timedelta(hours=24)
_NOTED_EVERY = timedelta(seconds=60)  # `last_at` is no finer than this
_RETRY_S = 300
_TOKEN_SORT = {"created_at": EnrolToken.created_at, "expires_at": EnrolToken.expires_at}
_LIST_SORT = {"device": Preauthorised.device, "created_at": Preauthorised.created_at}
_REQUEST_SORT = {"device": EnrolRequestRow.device, "first_at": EnrolRequestRow.first_at}


class Admission:
    """What lets devices in. Its methods may be called from any thread."""

    def __init__(
        self, *, database: Database, now: Callable[[], datetime], requests_max: int
    ) -> None:
        """Take what it needs; with `requests_max` 0 nobody may ask."""
        self._database = database
        self._now = now
        self._requests_max = requests_max

    @property
    def takes_requests(self) -> bool:
        """Whether devices may ask to be approved."""
        return self._requests_max > 0

    # ------------------------------------------------------------ tokens

    def create_token(
        self, *, uses: int, expires_in_s: int, user: str, group: str = ""
    ) -> EnrolTokenCreated:
        """Make a token; what is returned is the only place where it is whole."""
        now = self._now()
        token = Token(secrets.token_hex(8), secrets.token_urlsafe(32))
        expires_at = now + timedelta(seconds=expires_in_s)
        with self._database.write() as session:
            session.execute(delete(EnrolToken).where(EnrolToken.expires_at < now - _KEEP_EXPIRED))
            session.add(
                EnrolToken(
                    id=token.id,
                    key=key_of(token.secret).hex(),
                    group=group,
                    uses_left=uses,
                    expires_at=expires_at,
                    created_at=now,
                    created_by=user,
                )
            )
        return EnrolTokenCreated(
            token=format_token(token), id=token.id, uses=uses, expires_at=expires_at, group=group
        )

    def tokens(self, paging: PageQuery) -> Page[EnrolTokenInfo]:
        """Return one page of the tokens that are still good for something, newest first."""
        columns = order(paging.sort, _TOKEN_SORT, default="-created_at", last=EnrolToken.id)
        wanted = (
            select(EnrolToken)
            .where(EnrolToken.expires_at > self._now(), EnrolToken.uses_left > 0)
            .order_by(*columns)
        )
        if paging.q:
            wanted = wanted.where(
                match(paging.q, (EnrolToken.id, EnrolToken.group, EnrolToken.created_by))
            )
        with self._database.read() as session:
            rows, total = fetch_page(session, wanted, paging)
            items = [EnrolTokenInfo.model_validate(row, from_attributes=True) for row in rows]
            return Page(items=items, total=total)

    def revoke_token(self, identity: str) -> None:
        """Make a token worthless; raise `NotFound` ``enrol.token``."""
        with self._database.write() as session:
            row = session.get(EnrolToken, identity)
            if row is None:
                raise NotFound(
                    "enrol.token",
                    f"there is no enrolment token {identity[:32]!r}",
                    hint="`edgectl devices token list` shows the ids",
                )
            session.delete(row)

    # ------------------------------------------------------------ the list

    def preauthorise(self, entries: Sequence[PreauthorisedEntry], user: str) -> PreauthoriseResult:
        """Put keys on the list, all of them or none. May be repeated.

        Raises:
            MalformedMessage: a fingerprint is none.
            InvalidName: a name is reserved.
            Refused: ``enrol.list``: a name occurs twice, or the list is full.
            Conflict: ``enrol.exists``: names belong to enrolled devices with other keys.
        """
        wanted = {}
        for entry in entries:
            key = parse_fingerprint(entry.fingerprint)
            if entry.device in wanted:
                raise Refused("enrol.list", f"{entry.device} is named twice")
            wanted[check_device_id(entry.device)] = (key, entry.group)
        now = self._now()
        unchanged = 0
        with self._database.write() as session:
            _check_room(session, len(wanted))
            taken = []
            for name, (key, group) in wanted.items():
                device = session.get(Device, name)
                if _is_taken(device, key):
                    taken.append(name)
                elif device is not None and device.state == "enrolled":
                    unchanged += 1
                else:
                    unchanged += _put(session, name, key, group, user=user, now=now, approved=False)
            if taken:
                raise _exists(taken)
        return PreauthoriseResult(added=len(wanted) - unchanged, unchanged=unchanged)

    def preauthorised(self, paging: PageQuery) -> Page[PreauthorisedInfo]:
        """Return one page of the list."""
        columns = order(paging.sort, _LIST_SORT, default="device", last=Preauthorised.device)
        wanted = select(Preauthorised).order_by(*columns)
        if paging.q:
            wanted = wanted.where(match(paging.q, (Preauthorised.device, Preauthorised.group)))
        with self._database.read() as session:
            rows, total = fetch_page(session, wanted, paging)
            items = [
                PreauthorisedInfo(
                    device=row.device,
                    fingerprint=format_fingerprint(row.public_key_sha256),
                    group=row.group,
                    approved=row.approved,
                    created_at=row.created_at,
                    created_by=row.created_by,
                )
                for row in rows
            ]
            return Page(items=items, total=total)

    def forget_preauthorised(self, device: str) -> None:
        """Take a name off the list; raise `NotFound` ``enrol.list``."""
        with self._database.write() as session:
            row = session.get(Preauthorised, device)
            if row is None:
                raise NotFound("enrol.list", f"{device[:80]!r} is not on the list")
            session.delete(row)

    # ------------------------------------------------------------ requests

    def note_request(self, device: str, key: str, address: str) -> None:
        """Keep the request of a device that nothing lets in; return when it waits.

        Args:
            device: the name that it claims.
            key: fingerprint of the key that has signed the request.
            address: where it came from.

        Raises:
            Forbidden: ``enrol.closed``: nobody may ask; ``enrol.rejected``.
            TooMany: ``enrol.full``: too many wait already, in all or from there.
        """
        if not self.takes_requests:
            raise Forbidden(
                "enrol.closed",
                "this server lets no device in without a token, unless its key is on the list",
                hint="use a token, or put the key on the list: edgectl devices preauthorise",
            )
        now, source = self._now(), source_of(address)[:64]
        with self._database.read() as session:
            row = session.get(EnrolRequestRow, (device, key))
            if row is not None and row.rejected_by and now - row.first_at < _FORGET_REJECTED:
                raise Forbidden(
                    "enrol.rejected",
                    f"somebody has rejected {device} with this key",
                    hint="ask who operates the server; they can still approve it",
                )
            if row is not None and not row.rejected_by and now - row.last_at < _NOTED_EVERY:
                return
            if row is None:  # looked at before anything is written: it costs others nothing
                self._check_requests(session, source, now)
        with self._database.write() as session:
            row = session.get(EnrolRequestRow, (device, key), with_for_update=True)
            if row is not None and not row.rejected_by:
                row.last_at = now
                return
            session.execute(
                delete(EnrolRequestRow).where(
                    (EnrolRequestRow.rejected_by == "")
                    & (EnrolRequestRow.last_at < now - _FORGET_WAITING)
                    | (EnrolRequestRow.first_at < now - _FORGET_REJECTED)
                    & (EnrolRequestRow.rejected_by != "")
                )
            )
            self._check_requests(session, source, now)
            session.add(
                EnrolRequestRow(
                    device=device,
                    public_key_sha256=key,
                    source=source,
                    rejected_by="",
                    first_at=now,
                    last_at=now,
                )
            )
            asks = {"device": device, "fingerprint": format_fingerprint(key), "address": source}
            announce(session, "enrolment.pending", asks, now)

    def _check_requests(self, session: Session, source: str, now: datetime) -> None:
        """Raise `TooMany` where one more request would be too many."""
        waiting = (
            select(func.count())
            .select_from(EnrolRequestRow)
            .where(
                EnrolRequestRow.rejected_by == "", EnrolRequestRow.last_at > now - _FORGET_WAITING
            )
        )
        most = min(REQUESTS_PER_SOURCE_MAX, self._requests_max)
        in_all = session.scalar(waiting) or 0
        from_there = session.scalar(waiting.where(EnrolRequestRow.source == source)) or 0
        if in_all >= self._requests_max or from_there >= most:
            raise TooMany(
                "enrol.full",
                "too many devices wait for approval",
                hint="try again later, or enrol with a token",
                data={"retry_after_s": _RETRY_S},
            )

    def requests(self, paging: PageQuery) -> Page[EnrolRequestInfo]:
        """Return one page of the devices that ask, or were rejected, the oldest first."""
        now = self._now()
        columns = order(paging.sort, _REQUEST_SORT, default="first_at", last=EnrolRequestRow.device)
        wanted = (
            select(EnrolRequestRow)
            .where(
                (EnrolRequestRow.rejected_by != "")
                & (EnrolRequestRow.first_at > now - _FORGET_REJECTED)
                | (EnrolRequestRow.last_at > now - _FORGET_WAITING)
            )
            .order_by(*columns, EnrolRequestRow.public_key_sha256)
        )
        if paging.q:
            wanted = wanted.where(match(paging.q, (EnrolRequestRow.device, EnrolRequestRow.source)))
        with self._database.read() as session:
            rows, total = fetch_page(session, wanted, paging)
            return Page(items=[_request(session, row) for row in rows], total=total)

    def approve(
        self, device: str, fingerprint: str, *, group: str, user: str
    ) -> PreauthorisedEntry:
        """Let a device in that asks; it gets its certificate when it asks again.

        Raises:
            MalformedMessage: `fingerprint` is none.
            NotFound: ``enrol.request``: nobody asks under this name.
            Conflict: ``enrol.fingerprint``: who asks has another key; ``enrol.exists``: the name
                belongs to an enrolled device.
        """
        key = parse_fingerprint(fingerprint)
        with self._database.write() as session:
            row = _find_request(session, device, key)
            if _is_taken(session.get(Device, device), key):
                raise _exists([device])
            _check_room(session, 1)
            session.delete(row)
            _put(session, device, key, group, user=user, now=self._now(), approved=True)
        return PreauthorisedEntry(device=device, fingerprint=format_fingerprint(key), group=group)

    def reject(self, device: str, fingerprint: str, *, user: str) -> EnrolRequestInfo:
        """Turn a request down; the device is told so for a day. Errors as of `approve`."""
        key = parse_fingerprint(fingerprint)
        with self._database.write() as session:
            row = _find_request(session, device, key)
            row.rejected_by = user
            row.first_at = row.last_at = self._now()
            rejected = (
                select(EnrolRequestRow)
                .where(EnrolRequestRow.rejected_by != "")
                .order_by(EnrolRequestRow.first_at.desc())
                .offset(max(self._requests_max, 1))
            )
            for oldest in session.scalars(rejected):
                session.delete(oldest)
            return _request(session, row)


def shut_out_at(device: Device) -> datetime | None:
    """Return when a device was shut out; None for one that is enrolled."""
    if device.state == "enrolled":
        return None
    return device.decommissioned_at if device.state == "decommissioned" else device.revoked_at


def _put(
    session: Session, name: str, key: str, group: str, *, user: str, now: datetime, approved: bool
) -> bool:
    """Put a key on the list; return whether it was there already."""
    row = session.get(Preauthorised, name)
    if row is not None and (row.public_key_sha256, row.group) == (key, group):
        device = session.get(Device, name)
        left = None if device is None else shut_out_at(device)
        if left is None or row.created_at > left:
            return True
    if row is None:
        row = Preauthorised(device=name)
        session.add(row)
    row.public_key_sha256, row.group, row.approved = key, group, approved
    row.created_at, row.created_by = now, user
    return False


def _check_room(session: Session, count: int) -> None:
    there = session.scalar(select(func.count()).select_from(Preauthorised)) or 0
    if there + count > PREAUTHORISED_MAX:
        raise Refused(
            "enrol.list",
            f"the list holds {there} keys, at most {PREAUTHORISED_MAX}",
            hint="take those off that are not used: edgectl devices preauthorised",
        )


def _find_request(session: Session, device: str, key: str) -> EnrolRequestRow:
    row = session.get(EnrolRequestRow, (device, key), with_for_update=True)
    if row is not None:
        return row
    others = session.scalar(
        select(func.count()).select_from(EnrolRequestRow).where(EnrolRequestRow.device == device)
    )
    if others:
        raise Conflict(
            "enrol.fingerprint",
            f"who asks as {device} has another key than {format_fingerprint(key)}",
            hint="compare with what the device itself shows; it may be somebody else who asks",
        )
    raise NotFound(
        "enrol.request",
        f"nobody asks to be let in as {device[:80]!r}",
        hint="`edgectl devices requests` lists who does; requests are forgotten within the hour",
    )


def _request(session: Session, row: EnrolRequestRow) -> EnrolRequestInfo:
    device = session.get(Device, row.device)
    return EnrolRequestInfo(
        device=row.device,
        fingerprint=format_fingerprint(row.public_key_sha256),
        state="rejected" if row.rejected_by else "waiting",
        rejected_by=row.rejected_by,
        source=row.source,
        taken=_is_taken(device, row.public_key_sha256),
        first_at=row.first_at,
        last_at=row.last_at,
    )


def _is_taken(device: Device | None, key: str) -> bool:
    """Say whether a name belongs to an enrolled device with another key."""
    return device is not None and device.state == "enrolled" and device.public_key_sha256 != key


def _exists(names: Sequence[str]) -> Conflict:
    return Conflict(
        "enrol.exists",
        f"enrolled with another key: {', '.join(names[:10])}",
        hint="choose another name; or shut the old device out first: edgectl devices decommission",
        data={"devices": list(names[:100])},
    )
