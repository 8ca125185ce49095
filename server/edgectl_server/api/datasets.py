"""Datasets: immutable snapshots of samples and their labels."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import StreamingResponse

from edgectl_datasets.checks import Bounds
from edgectl_server.api.access import Operator, get_services, operator, viewer
from edgectl_server.api.paging import Paging
from edgectl_server.api.problems import responses
from edgectl_server.audit import describe
from edgectl_server.schemas import (
    DataCheckReport,
    DatasetDetail,
    DatasetInfo,
    DatasetRequest,
    ModelNameStr,
    Page,
)

__all__ = ["router"]

router = APIRouter(tags=["datasets"])

DatasetPath = Annotated[str, Path(pattern=r"^([a-z0-9][a-z0-9._-]{0,63}|sha256:[0-9a-f]{64})$")]
_TAR = "application/x-tar"


@router.get(
    "/datasets",
    operation_id="list_datasets",
    dependencies=[viewer],
    responses=responses(401, 422),
)
def list_datasets(
    request: Request,
    paging: Paging,
    *,
    model: Annotated[ModelNameStr | None, Query(description="Of this model.")] = None,
) -> Page[DatasetInfo]:
    """List datasets, the newest first."""
    return get_services(request).datasets.page(paging, model)


@router.post(
    "/datasets",
    operation_id="create_dataset",
    status_code=201,
    responses=responses(401, 403, 404, 409, 422),
)
def create_dataset(request: Request, principal: Operator, body: DatasetRequest) -> DatasetInfo:
    """Make a dataset of samples; the same once more is the same one."""
    return get_services(request).datasets.create(body, principal.user)


@router.get(
    "/datasets/{dataset}",
    operation_id="get_dataset",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def get_dataset(request: Request, dataset: DatasetPath) -> DatasetDetail:
    """Show a dataset, by its name or id, with its document."""
    return get_services(request).datasets.get(dataset)


@router.delete(
    "/datasets/{dataset}",
    operation_id="delete_dataset",
    status_code=204,
    dependencies=[operator],
    responses=responses(401, 403, 404, 422),
)
def delete_dataset(request: Request, dataset: DatasetPath) -> None:
    """Delete a dataset; samples that nothing else holds go with it."""
    get_services(request).datasets.delete(dataset)


@router.get(
    "/datasets/{dataset}/archive",
    operation_id="get_dataset_archive",
    dependencies=[operator],
    response_class=StreamingResponse,
    responses={
        200: {"description": "The folder, as a tar file", "content": {_TAR: {}}},
        **responses(401, 403, 404, 422),
    },
)
def get_dataset_archive(request: Request, dataset: DatasetPath) -> StreamingResponse:
    """Send a dataset as a tar file; who has read it is in the audit log."""
    info, content = get_services(request).datasets.archive(dataset)
    describe(changes=True, object=info.name, model=info.model, id=info.id)
    return StreamingResponse(
        content,
        media_type=_TAR,
        headers={"Content-Disposition": f'attachment; filename="{info.name}.tar"'},
    )


@router.get(
    "/datasets/{dataset}/checks",
    operation_id="check_dataset",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def check_dataset(
    request: Request,
    dataset: DatasetPath,
    *,
    min_rows: Annotated[
        int, Query(ge=0, le=20_000, description="Of each class in train, at least.")
    ] = 10,
) -> DataCheckReport:
    """Show what the rules of data find in a dataset."""
    bounds = Bounds(class_rows_min=min_rows)
    return get_services(request).dataset_checks.check(dataset, bounds)
