"""Who may log in, as it is shown to admins."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgectl_server.schemas import Page, UserInfo
from edgectl_server.storage.paging import PageQuery, fetch_page, match, order
from edgectl_server.storage.tables import ApiToken, LoginSession, OpenIdPerson, User

__all__ = ["list_users", "user_info"]

_SORT = {"name": User.name, "role": User.role, "created_at": User.created_at}


def list_users(session: Session, paging: PageQuery, now: datetime) -> Page[UserInfo]:
    """Return one page of the users; what has expired is not counted.

    Args:
        session: open.
        paging: `q` is part of a name.
        now: the time.
    """
    wanted = select(User).order_by(*order(paging.sort, _SORT, default="name", last=User.name))
    if paging.q:
        wanted = wanted.where(match(paging.q, (User.name,)))
    rows, total = fetch_page(session, wanted, paging)
    return Page(items=[user_info(session, row, now) for row in rows], total=total)


def user_info(session: Session, row: User, now: datetime) -> UserInfo:
    """Return one user as admins see them; what has expired is not counted."""
    sessions, newest = session.execute(
        select(func.count(), func.max(LoginSession.created_at)).where(
            LoginSession.user == row.name, LoginSession.expires_at > now
        )
    ).one()
    tokens = session.scalar(
        select(func.count()).where(
            ApiToken.user == row.name,
            ApiToken.expires_at.is_(None) | (ApiToken.expires_at > now),
        )
    )
    person = session.scalars(
        select(OpenIdPerson).where(OpenIdPerson.user == row.name)
    ).one_or_none()
    return UserInfo.model_validate(
        {
            "name": row.name,
            "role": row.role,
            "by": "password" if row.password_hash else "sign-on",
            "created_at": row.created_at,
            "last_login_at": newest if person is None else person.last_login_at,
            "sessions": sessions,
            "tokens": tokens or 0,
            "disabled_at": row.disabled_at,
        }
    )
