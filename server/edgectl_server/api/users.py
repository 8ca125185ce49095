"""Who may log in. Everything that changes it asks for the own password again (`proved`)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request

from edgectl_server.api.access import Admin, admin, get_services, proved
from edgectl_server.api.paging import Paging
from edgectl_server.api.problems import responses
from edgectl_server.clock import now
from edgectl_server.schemas import Page, UserChange, UserCreated, UserInfo, UserRequest
from edgectl_server.user_changes import UserMade
from edgectl_server.user_list import list_users

__all__ = ["router"]

router = APIRouter(tags=["users"])

UserName = Annotated[str, Path(max_length=64)]
Myself = Annotated[bool, Query(description="It may be the own user.")]
_CHANGES = [admin, proved]


def _created(made: UserMade) -> UserCreated:
    return UserCreated(user=made.info, password=made.password)


@router.get(
    "/users", operation_id="list_users", dependencies=[admin], responses=responses(401, 403, 422)
)
def users(request: Request, paging: Paging) -> Page[UserInfo]:
    """List who may log in, with what role, and what of theirs is in use."""
    with get_services(request).database.read() as session:
        return list_users(session, paging, now())


@router.post(
    "/users",
    operation_id="create_user",
    status_code=201,
    dependencies=_CHANGES,
    responses=responses(401, 403, 409, 422),
)
def create_user(request: Request, body: UserRequest) -> UserCreated:
    """Make a user; the answer holds the password, this once."""
    return _created(get_services(request).users.create(body.name, body.role))


@router.patch(
    "/users/{user}",
    operation_id="change_user",
    dependencies=_CHANGES,
    responses=responses(401, 403, 404, 409, 422),
)
def change_user(
    request: Request, principal: Admin, user: UserName, body: UserChange, *, myself: Myself = False
) -> UserInfo:
    """Give somebody another role, or say whether they may log in. The last admin stays one."""
    return get_services(request).users.change(
        principal, user, role=body.role, disabled=body.disabled, myself=myself
    )


@router.post(
    "/users/{user}/password",
    operation_id="reset_password",
    dependencies=_CHANGES,
    responses=responses(401, 403, 404, 422),
)
def reset_password(
    request: Request, principal: Admin, user: UserName, *, myself: Myself = False
) -> UserCreated:
    """Make a new password for somebody and end their sessions; it is shown this once."""
    return _created(get_services(request).users.reset_password(principal, user, myself=myself))


@router.post(
    "/users/{user}/logout",
    operation_id="log_out_user",
    dependencies=_CHANGES,
    responses=responses(401, 403, 404, 422),
)
def log_out_user(
    request: Request,
    principal: Admin,
    user: UserName,
    *,
    tokens: Annotated[bool, Query(description="Revoke all tokens, too.")] = False,
    myself: Myself = False,
) -> UserInfo:
    """End all sessions of somebody, and with `tokens` revoke all their tokens."""
    return get_services(request).users.log_out(principal, user, tokens=tokens, myself=myself)


@router.delete(
    "/users/{user}",
    operation_id="delete_user",
    status_code=204,
    dependencies=_CHANGES,
    responses=responses(401, 403, 404, 409, 422),
)
def delete_user(
    request: Request, principal: Admin, user: UserName, *, myself: Myself = False
) -> None:
    """Remove somebody with all sessions and tokens. The last admin stays."""
    get_services(request).users.delete(principal, user, myself=myself)
