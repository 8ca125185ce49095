"""Loops: when models learn anew by themselves."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Request

from edgectl_server.api.access import Admin, Operator, get_services, viewer
from edgectl_server.api.paging import Paging
from edgectl_server.api.problems import responses
from edgectl_server.schemas import (
    LoopAction,
    LoopEventInfo,
    LoopInfo,
    LoopPolicySpec,
    LoopRunDetail,
    LoopRunInfo,
    ModelNameStr,
    Page,
)

__all__ = ["router"]

router = APIRouter(tags=["loops"])

ModelPath = Annotated[ModelNameStr, Path()]
RunPath = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]
ActionPath = Annotated[Literal["run", "pause", "resume", "approve", "stop"], Path()]


@router.get(
    "/loops", operation_id="list_loops", dependencies=[viewer], responses=responses(401, 422)
)
def list_loops(request: Request, paging: Paging) -> Page[LoopInfo]:
    """List the loops, by model."""
    return get_services(request).loops.page(paging)


@router.get(
    "/models/{name}/loop",
    operation_id="get_loop",
    dependencies=[viewer],
    responses=responses(401, 422),
)
def get_loop(request: Request, name: ModelPath) -> LoopInfo:
    """Show the loop of a model: its policy, its run, and what it waits for."""
    return get_services(request).loops.get(name)


@router.put("/models/{name}/loop", operation_id="put_loop", responses=responses(401, 403, 409, 422))
def put_loop(request: Request, principal: Admin, name: ModelPath, body: LoopPolicySpec) -> LoopInfo:
    """Replace the policy of a model's loop."""
    return get_services(request).loops.put(name, body, principal.user)


@router.get(
    "/models/{name}/loop/events",
    operation_id="loop_events",
    dependencies=[viewer],
    responses=responses(401, 422),
)
def loop_events(request: Request, name: ModelPath, paging: Paging) -> Page[LoopEventInfo]:
    """List the steps of a model's loop, the newest first."""
    return get_services(request).loops.events(name, paging)


@router.get(
    "/models/{name}/loop/runs",
    operation_id="list_loop_runs",
    dependencies=[viewer],
    responses=responses(401, 422),
)
def list_loop_runs(request: Request, name: ModelPath, paging: Paging) -> Page[LoopRunInfo]:
    """List the runs of a model's loop, the newest first."""
    return get_services(request).loop_stories.page(name, paging)


@router.get(
    "/models/{name}/loop/runs/{run}",
    operation_id="get_loop_run",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def get_loop_run(request: Request, name: ModelPath, run: RunPath) -> LoopRunDetail:
    """Show a run with each of its steps, their times, and what came of it in figures."""
    return get_services(request).loop_stories.get(name, run)


@router.post(
    "/models/{name}/loop/actions/{action}",
    operation_id="act_on_loop",
    responses=responses(401, 403, 404, 409, 422),
)
def act_on_loop(
    request: Request, principal: Operator, name: ModelPath, action: ActionPath, body: LoopAction
) -> LoopInfo:
    """Begin a run, pause, resume, let a state pass that waits for it, or stop the run."""
    return get_services(request).loops.act(name, action, principal.user, body)
