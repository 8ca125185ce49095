"""Retraining: a version learns from a dataset, and becomes a candidate."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request

from edgectl_server.api.access import Operator, get_services, viewer
from edgectl_server.api.paging import Paging
from edgectl_server.api.problems import responses
from edgectl_server.schemas import (
    ModelNameStr,
    Page,
    RetrainingDetail,
    RetrainingInfo,
    RetrainRequest,
    TrainerInfo,
)

__all__ = ["router"]

router = APIRouter(tags=["retraining"])

ModelPath = Annotated[ModelNameStr, Path()]
RetrainingPath = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]


@router.get(
    "/trainers", operation_id="list_trainers", dependencies=[viewer], responses=responses(401)
)
def list_trainers(request: Request) -> list[TrainerInfo]:
    """List the trainers that can be named."""
    return get_services(request).retrainings.trainers()


@router.post(
    "/models/{name}/retrainings",
    operation_id="retrain_model",
    status_code=202,
    responses=responses(401, 403, 404, 422),
)
def retrain_model(
    request: Request, principal: Operator, name: ModelPath, body: RetrainRequest
) -> RetrainingInfo:
    """Train a candidate from a dataset; its job has the id of the retraining."""
    retrainings = get_services(request).retrainings
    return retrainings.start(name, body, principal.user, principal.role)


@router.get(
    "/retrainings",
    operation_id="list_retrainings",
    dependencies=[viewer],
    responses=responses(401, 422),
)
def list_retrainings(
    request: Request,
    paging: Paging,
    *,
    model: Annotated[ModelNameStr | None, Query(description="Of this model.")] = None,
) -> Page[RetrainingInfo]:
    """List retrainings, the newest first."""
    return get_services(request).retrainings.page(paging, model)


@router.get(
    "/retrainings/{retraining}",
    operation_id="get_retraining",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def get_retraining(request: Request, retraining: RetrainingPath) -> RetrainingDetail:
    """Show a retraining with its figures, what the gates have said, and its log."""
    return get_services(request).retrainings.get(retraining)
