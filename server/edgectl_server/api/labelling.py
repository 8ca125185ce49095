"""Annotations: what people and the field say of samples, and what to label next."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request

from edgectl_server.annotations import AnnotationFilter, QueueQuery
from edgectl_server.api.access import Operator, get_services, operator, viewer
from edgectl_server.api.paging import Paging
from edgectl_server.api.problems import responses
from edgectl_server.audit import describe
from edgectl_server.schemas import (
    AnnotationImport,
    AnnotationImportResult,
    AnnotationInfo,
    AnnotationRequest,
    LabelledSample,
    LabellingQueue,
    LabellingSummary,
    ModelNameStr,
    Page,
    SampleContent,
    SampleReasonStr,
)

__all__ = ["router"]

router = APIRouter(tags=["samples"])

ModelPath = Annotated[ModelNameStr, Path()]
SamplePath = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]


@router.get(
    "/annotations",
    operation_id="list_annotations",
    dependencies=[viewer],
    responses=responses(401, 422),
)
def list_annotations(
    request: Request,
    paging: Paging,
    *,
    model: Annotated[ModelNameStr | None, Query(description="Of its samples.")] = None,
    sample: Annotated[
        str | None, Query(pattern=r"^[0-9a-f]{16}$", description="Of this sample.")
    ] = None,
    labeller: Annotated[str | None, Query(max_length=128, description="By this one.")] = None,
    source: Annotated[
        Literal["person", "import", "field"] | None, Query(description="From there.")
    ] = None,
) -> Page[AnnotationInfo]:
    """List what is said of samples, the newest first."""
    asked = AnnotationFilter(model, sample, labeller, source)
    return get_services(request).annotations.page(paging, asked)


@router.post(
    "/annotations",
    operation_id="import_annotations",
    responses=responses(401, 403, 422),
)
def import_annotations(
    request: Request, principal: Operator, body: AnnotationImport
) -> AnnotationImportResult:
    """Take in what others have said, or what has turned out to be true; twice is once.

    Items are judged one by one: those that are refused are told by their place, the rest is kept.
    """
    return get_services(request).annotations.take_in(body, principal.user)


@router.get(
    "/samples/{sample}/annotations",
    operation_id="get_annotations",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def get_annotations(request: Request, sample: SamplePath) -> LabelledSample:
    """Show a sample with all that is said of it."""
    return get_services(request).annotations.of_sample(sample)


@router.put(
    "/samples/{sample}/annotation",
    operation_id="put_annotation",
    responses=responses(401, 403, 404, 422),
)
def put_annotation(
    request: Request, principal: Operator, sample: SamplePath, body: AnnotationRequest
) -> LabelledSample:
    """Say what a sample is, or that you cannot tell; it replaces what you have said before."""
    return get_services(request).annotations.put(sample, body.label, principal.user)


@router.delete(
    "/samples/{sample}/annotation",
    operation_id="delete_annotation",
    responses=responses(401, 403, 404, 422),
)
def delete_annotation(request: Request, principal: Operator, sample: SamplePath) -> LabelledSample:
    """Take back what you have said of a sample."""
    return get_services(request).annotations.remove(sample, principal.user)


@router.get(
    "/samples/{sample}/content",
    operation_id="get_sample_content",
    dependencies=[operator],
    responses=responses(401, 403, 404, 422),
)
def get_sample_content(request: Request, sample: SamplePath) -> SampleContent:
    """Show what is in a sample, ready for a page; who has seen it is in the audit log."""
    content = get_services(request).annotations.content(sample)
    info = content.sample
    describe(changes=True, device=info.device, model=info.model, digest=info.digest)
    return content


@router.get(
    "/models/{name}/labelling",
    operation_id="get_labelling",
    dependencies=[viewer],
    responses=responses(401, 422),
)
def get_labelling(request: Request, name: ModelPath) -> LabellingSummary:
    """Show how far the labelling of a model's samples is, and how well labellers agree."""
    return get_services(request).annotations.summary(name)


@router.get(
    "/models/{name}/labelling/queue",
    operation_id="get_labelling_queue",
    responses=responses(401, 403, 422),
)
def get_labelling_queue(
    request: Request,
    principal: Operator,
    name: ModelPath,
    *,
    reason: Annotated[SampleReasonStr | None, Query(description="Taken for this reason.")] = None,
    first: Annotated[
        Literal["uncertain", "newest", "conflict"],
        Query(description="The least confident answers, the newest, or those in conflict."),
    ] = "uncertain",
    labellers: Annotated[
        int, Query(ge=1, le=10, description="How many shall label each sample.")
    ] = 1,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> LabellingQueue:
    """List what you should label next: not yet by you, and by too few others."""
    asked = QueueQuery(reason, first, labellers, limit)
    return get_services(request).annotations.queue(name, asked, principal.user)
