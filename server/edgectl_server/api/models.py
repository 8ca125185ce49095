"""Models, their versions, and pushing one."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import HTMLResponse, StreamingResponse

from edgectl_protocol.offline import OFFLINE_MEDIA_TYPE
from edgectl_server.api.access import Admin, Operator, get_services, viewer
from edgectl_server.api.paging import Paging
from edgectl_server.api.problems import responses
from edgectl_server.bundle_documents import DocumentFile
from edgectl_server.report_page.page import CONTENT_SECURITY_POLICY, render
from edgectl_server.schemas import (
    LineageInfo,
    ModelNameStr,
    ModelPolicy,
    ModelSummary,
    Page,
    PolicyInfo,
    PushAccepted,
    PushRequest,
    RunningInfo,
    VersionComparison,
    VersionDetail,
    VersionStr,
    VersionSummary,
)

__all__ = ["router"]

router = APIRouter(tags=["models"])

NamePath = Annotated[ModelNameStr, Path()]
VersionPath = Annotated[VersionStr, Path()]
_PAGE_POLICY = f"{CONTENT_SECURITY_POLICY}; frame-ancestors 'none'; sandbox"
"""The page is of no origin and runs nothing, whatever is in it."""
_MEDIA_TYPES: dict[DocumentFile, str] = {
    "model-card.md": "text/markdown; charset=utf-8",
    "sbom.cdx.json": "application/vnd.cyclonedx+json; version=1.6",
}
_DOCUMENT_CONTENT: dict[str, Any] = {kind: {} for kind in _MEDIA_TYPES.values()}


@router.get("/models", operation_id="list_models", dependencies=[viewer], responses=responses(401))
def list_models(request: Request, paging: Paging) -> Page[ModelSummary]:
    """List the models."""
    return get_services(request).registry.models(paging)


@router.get(
    "/models/{name}",
    operation_id="get_model",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def get_model(request: Request, name: NamePath) -> ModelSummary:
    """Show a model."""
    return get_services(request).registry.model(name)


@router.get(
    "/models/{name}/running",
    operation_id="model_running",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def model_running(request: Request, name: NamePath) -> list[RunningInfo]:
    """Count the devices that run a model, by version and digest."""
    return get_services(request).registry.running(name)


@router.get(
    "/models/{name}/compare",
    operation_id="compare_versions",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def compare_versions(
    request: Request,
    name: NamePath,
    left: Annotated[VersionStr, Query(description="Usually the older one.")],
    right: Annotated[VersionStr, Query(description="Of the same model.")],
) -> VersionComparison:
    """Show two versions of a model side by side."""
    return get_services(request).registry.compare(name, left, right)


@router.get(
    "/models/{name}/versions",
    operation_id="list_versions",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def list_versions(request: Request, name: NamePath, paging: Paging) -> Page[VersionSummary]:
    """List a model's versions, newest first."""
    return get_services(request).registry.versions(name, paging)


@router.get(
    "/models/{name}/versions/{version}",
    operation_id="get_version",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def get_version(request: Request, name: NamePath, version: VersionPath) -> VersionDetail:
    """Show a version with what was tried."""
    return get_services(request).registry.version(name, version)


@router.get(
    "/models/{name}/versions/{version}/report.html",
    operation_id="get_report_page",
    dependencies=[viewer],
    response_class=HTMLResponse,
    responses=responses(401, 404, 422),
)
def get_report_page(request: Request, name: NamePath, version: VersionPath) -> HTMLResponse:
    """Return the report of a version as a page that needs nothing else."""
    detail = get_services(request).registry.version(name, version)
    page = render(detail.model_dump(mode="json"))
    return HTMLResponse(page, headers={"Content-Security-Policy": _PAGE_POLICY})


@router.get(
    "/models/{name}/versions/{version}/lineage",
    operation_id="get_lineage",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def get_lineage(request: Request, name: NamePath, version: VersionPath) -> LineageInfo:
    """Say where a version comes from: files, recipes, tools, ancestors."""
    return get_services(request).documents.lineage(name, version)


@router.get(
    "/models/{name}/versions/{version}/variants/{variant}/documents/{file}",
    operation_id="get_document",
    dependencies=[viewer],
    response_class=Response,
    responses={
        200: {"description": "The document", "content": _DOCUMENT_CONTENT},
        **responses(401, 404, 422),
    },
)
def get_document(
    request: Request,
    name: NamePath,
    version: VersionPath,
    variant: Annotated[str, Path(max_length=64)],
    file: Annotated[DocumentFile, Path()],
) -> Response:
    """Return a document of a bundle: its model card, or its bill of materials (CycloneDX)."""
    content = get_services(request).documents.read(name, version, variant, file)
    return Response(content, media_type=_MEDIA_TYPES[file])


@router.get(
    "/models/{name}/versions/{version}/export",
    operation_id="export_version",
    dependencies=[viewer],
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "A tar that is an OCI image layout, with the signed metadata",
            "content": {OFFLINE_MEDIA_TYPE: {}},
        },
        **responses(401, 404, 409, 422),
    },
)
def export_version(
    request: Request,
    name: NamePath,
    version: VersionPath,
    variant: Annotated[str | None, Query(max_length=64)] = None,
    device_class: Annotated[str | None, Query(max_length=64)] = None,
) -> StreamingResponse:
    """Send a version as one file, which devices install without a network."""
    exports = get_services(request).exports
    export = exports.prepare(name, version, variant=variant, device_class=device_class)
    return StreamingResponse(
        exports.write(export),
        media_type=OFFLINE_MEDIA_TYPE,
        headers={
            "Content-Length": str(export.length),
            "Content-Disposition": f'attachment; filename="{export.filename}"',
        },
    )


@router.post(
    "/models/{name}/versions",
    operation_id="push_version",
    status_code=202,
    responses={
        200: {"model": PushAccepted, "description": "This very content is there already"},
        **responses(401, 403, 409, 422),
    },
)
def push_version(
    request: Request, response: Response, principal: Operator, name: NamePath, body: PushRequest
) -> PushAccepted:
    """Make a version of files that have been uploaded: a job begins."""
    accepted = get_services(request).registry.push(name, body, principal.user, principal.role)
    if not accepted.created:
        response.status_code = 200
    return accepted


@router.get(
    "/models/{name}/policy",
    operation_id="get_policy",
    dependencies=[viewer],
    responses=responses(401, 422),
)
def get_policy(request: Request, name: NamePath) -> PolicyInfo:
    """Show what every push of a model must keep."""
    return get_services(request).policies.get(name)


@router.put(
    "/models/{name}/policy",
    operation_id="put_policy",
    responses=responses(401, 403, 409, 422),
)
def put_policy(request: Request, principal: Admin, name: NamePath, body: ModelPolicy) -> PolicyInfo:
    """Replace what every push of a model must keep, from the next push on."""
    return get_services(request).policies.put(name, body, principal.user)
