"""Alerts: what is wrong now, who sees to it, and for how long nobody wants to hear of it."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request

from edgectl_server.alerting.book import AlertFilter
from edgectl_server.api.access import Operator, get_services, operator, viewer
from edgectl_server.api.paging import Paging
from edgectl_server.api.problems import responses
from edgectl_server.schemas import (
    AlertAsked,
    AlertAssigned,
    AlertCounts,
    AlertDetail,
    AlertKindStr,
    AlertSeverity,
    AlertStateName,
    DeviceIdStr,
    ModelNameStr,
    Page,
    RaisedAlert,
    SilenceInfo,
    SilenceRequest,
)

__all__ = ["router"]

router = APIRouter(tags=["alerts"])

AlertPath = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]
_ENDED = {"no": False, "yes": True, "all": None}


@router.get(
    "/alerts", operation_id="list_alerts", dependencies=[viewer], responses=responses(401, 422)
)
def list_alerts(
    request: Request,
    paging: Paging,
    *,
    ended: Annotated[
        Literal["no", "yes", "all"], Query(description="Those that have ended, too, or only.")
    ] = "no",
    state: Annotated[AlertStateName | None, Query(description="In this state only.")] = None,
    severity: Annotated[AlertSeverity | None, Query(description="Of this severity only.")] = None,
    kind: Annotated[
        AlertKindStr | None, Query(description="Of this kind, or of all that begin with it.")
    ] = None,
    model: Annotated[ModelNameStr | None, Query(description="About this model only.")] = None,
    site: Annotated[str | None, Query(description="At this site only.", max_length=128)] = None,
    device: Annotated[DeviceIdStr | None, Query(description="Of this device only.")] = None,
    owner: Annotated[
        str | None, Query(description="Of this owner only; empty: of nobody.", max_length=128)
    ] = None,
) -> Page[RaisedAlert]:
    """List alerts that last, the most severe first."""
    wanted = AlertFilter(
        state=state,
        severity=severity,
        kind=kind,
        model=model,
        site=site,
        device=device,
        owner=owner,
        ended=None if state is not None else _ENDED[ended],
    )
    return get_services(request).alert_book.page(paging, wanted)


@router.get(
    "/alerts/counts",
    operation_id="count_alerts",
    dependencies=[viewer],
    responses=responses(401),
)
def count_alerts(request: Request) -> AlertCounts:
    """Say how many alerts last, by state and severity."""
    return get_services(request).alert_book.counts()


@router.get(
    "/alerts/{alert}",
    operation_id="get_alert",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def get_alert(request: Request, alert: AlertPath) -> AlertDetail:
    """Show an alert, and what has happened to it."""
    return get_services(request).alert_book.detail(alert)


@router.post(
    "/alerts/{alert}/acknowledge",
    operation_id="acknowledge_alert",
    responses=responses(401, 403, 404, 409, 422),
)
def acknowledge_alert(
    request: Request, principal: Operator, alert: AlertPath, body: AlertAsked
) -> RaisedAlert:
    """Say that you know of it: nobody is reminded of it any more."""
    return get_services(request).alert_book.acknowledge(alert, principal.user, body.reason)


@router.post(
    "/alerts/{alert}/assign",
    operation_id="assign_alert",
    responses=responses(401, 403, 404, 422),
)
def assign_alert(
    request: Request, principal: Operator, alert: AlertPath, body: AlertAssigned
) -> RaisedAlert:
    """Say who sees to it."""
    return get_services(request).alert_book.assign(alert, principal.user, body.owner)


@router.post(
    "/alerts/{alert}/resolve",
    operation_id="resolve_alert",
    responses=responses(401, 403, 404, 409, 422),
)
def resolve_alert(
    request: Request, principal: Operator, alert: AlertPath, body: AlertAsked
) -> RaisedAlert:
    """End it; while its condition lasts, it comes back only if it grows more severe."""
    return get_services(request).alert_book.resolve(alert, principal.user, body.reason)


@router.get(
    "/alert-silences",
    operation_id="list_silences",
    dependencies=[viewer],
    responses=responses(401, 422),
)
def list_silences(request: Request, paging: Paging) -> Page[SilenceInfo]:
    """List the silences in force."""
    return get_services(request).alert_book.silences(paging)


@router.post(
    "/alert-silences",
    operation_id="create_silence",
    status_code=201,
    responses=responses(401, 403, 409, 422),
)
def create_silence(request: Request, principal: Operator, body: SilenceRequest) -> SilenceInfo:
    """Have nobody told of some alerts for a while; they are listed all the same."""
    return get_services(request).alert_book.silence(body, principal.user)


@router.delete(
    "/alert-silences/{silence}",
    operation_id="end_silence",
    status_code=204,
    dependencies=[operator],
    responses=responses(401, 403, 404, 422),
)
def end_silence(request: Request, silence: Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]) -> None:
    """End a silence now."""
    get_services(request).alert_book.end_silence(silence)
