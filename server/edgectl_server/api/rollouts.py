"""Rollouts: started, watched, paused, resumed, approved, aborted."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request

from edgectl_server.api.access import Operator, get_services, viewer
from edgectl_server.api.paging import Paging
from edgectl_server.api.problems import responses
from edgectl_server.schemas import (
    PHASES_MAX,
    ActionRequest,
    ModelNameStr,
    Page,
    PhaseInfo,
    ReasonGroup,
    RolloutApplied,
    RolloutDeviceInfo,
    RolloutDeviceState,
    RolloutEventInfo,
    RolloutForecast,
    RolloutInfo,
    RolloutRequest,
    ServiceComparison,
)

__all__ = ["router"]

router = APIRouter(tags=["rollouts"])

RolloutPath = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]
RolloutState = Literal["running", "paused", "completed", "aborted"]


@router.get(
    "/rollouts", operation_id="list_rollouts", dependencies=[viewer], responses=responses(401, 422)
)
def list_rollouts(
    request: Request,
    paging: Paging,
    state: Annotated[RolloutState | None, Query()] = None,
    model: Annotated[ModelNameStr | None, Query()] = None,
) -> Page[RolloutInfo]:
    """List the rollouts, newest first."""
    return get_services(request).rollouts.rollouts(paging, state=state, model=model)


@router.post(
    "/rollouts",
    operation_id="start_rollout",
    status_code=201,
    responses=responses(401, 403, 404, 409, 422),
)
def start_rollout(request: Request, principal: Operator, body: RolloutRequest) -> RolloutInfo:
    """Bring a version to devices."""
    return get_services(request).rollouts.start(body, principal.user)


@router.post(
    "/rollouts/plan",
    operation_id="plan_rollout",
    dependencies=[viewer],
    responses=responses(401, 404, 409, 422),
)
def plan_rollout(request: Request, body: RolloutRequest) -> RolloutForecast:
    """Say what a rollout would do; nothing is started."""
    return get_services(request).rollouts.forecast(body)


@router.post(
    "/rollouts/apply",
    operation_id="apply_rollout",
    responses=responses(401, 403, 404, 409, 422),
)
def apply_rollout(
    request: Request,
    principal: Operator,
    body: RolloutRequest,
    dry_run: Annotated[bool, Query(description="Only say what would be done.")] = False,
) -> RolloutApplied:
    """Start a rollout, or change the one that was started so; the same again does nothing."""
    return get_services(request).rollouts.apply(body, principal.user, dry_run=dry_run)


@router.get(
    "/rollouts/{rollout}",
    operation_id="get_rollout",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def get_rollout(request: Request, rollout: RolloutPath) -> RolloutInfo:
    """Show a rollout."""
    return get_services(request).rollouts.rollout(rollout)


@router.get(
    "/rollouts/{rollout}/devices",
    operation_id="rollout_devices",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def rollout_devices(
    request: Request,
    rollout: RolloutPath,
    paging: Paging,
    *,
    state: Annotated[RolloutDeviceState | None, Query()] = None,
    reason: Annotated[
        str | None, Query(max_length=64, description="The code of its reason.")
    ] = None,
    phase: Annotated[
        int | None,
        Query(ge=1, le=PHASES_MAX + 1, description="It had its first order in this phase."),
    ] = None,
) -> Page[RolloutDeviceInfo]:
    """List the devices of a rollout that match everything that is given."""
    return get_services(request).rollouts.devices(
        rollout, paging, state=state, reason=reason, phase=phase
    )


@router.get(
    "/rollouts/{rollout}/phases",
    operation_id="rollout_phases",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def rollout_phases(request: Request, rollout: RolloutPath) -> list[PhaseInfo]:
    """List the phases of a rollout with what has become of their devices."""
    return get_services(request).breakdown.phases(rollout)


@router.get(
    "/rollouts/{rollout}/reasons",
    operation_id="rollout_reasons",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def rollout_reasons(request: Request, rollout: RolloutPath) -> list[ReasonGroup]:
    """Count the devices of a rollout by why they have ended as they have."""
    return get_services(request).breakdown.reasons(rollout)


@router.get(
    "/rollouts/{rollout}/service",
    operation_id="rollout_service",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def rollout_service(request: Request, rollout: RolloutPath) -> ServiceComparison:
    """Compare the new version in service with the other versions of its model."""
    return get_services(request).comparison.compare(rollout)


@router.get(
    "/rollouts/{rollout}/events",
    operation_id="rollout_events",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def rollout_events(
    request: Request, rollout: RolloutPath, paging: Paging
) -> Page[RolloutEventInfo]:
    """List what has happened to a rollout, newest first."""
    return get_services(request).rollouts.events(rollout, paging)


@router.post(
    "/rollouts/{rollout}/actions/{action}",
    operation_id="rollout_action",
    responses=responses(401, 403, 404, 409, 422),
)
def rollout_action(
    request: Request,
    principal: Operator,
    rollout: RolloutPath,
    action: Literal["pause", "resume", "approve", "abort"],
    body: ActionRequest,
) -> RolloutInfo:
    """Pause a rollout, let it or its phase go on, or take it back from devices."""
    rollouts = get_services(request).rollouts
    match action:
        case "pause":
            return rollouts.pause(rollout, principal.user, body.reason)
        case "resume":
            return rollouts.resume(rollout, principal.user, body.reason)
        case "approve":
            return rollouts.approve(rollout, principal.user, body.reason)
        case "abort":
            return rollouts.abort(rollout, principal.user, body.reason, revert=body.revert)
