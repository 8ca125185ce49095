"""The web application: routes, errors, limits, headers and the web UI's files.

Order, outermost first: headers, request id and bugs, audit log, size of bodies, then FastAPI.
Everything that goes wrong inside is answered as problem details. What is not under ``/api``
belongs to the web UI.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import BaseRoute
from starlette.staticfiles import StaticFiles

import edgectl_protocol
from edgectl_server.api import (
    accuracy,
    alert_routes,
    alerts,
    audit,
    benchmarks,
    datasets,
    device_uploads,
    devices,
    drift,
    enrol,
    enrolment,
    events,
    imports,
    jobs,
    labelling,
    labels,
    loops,
    metrics,
    models,
    oci,
    openid,
    problems,
    retraining,
    revocations,
    rollouts,
    samples,
    security,
    session,
    system,
    telemetry,
    trust,
    uploads,
    users,
    webhooks,
)
from edgectl_server.api.access import RoleCheck, scope_of
from edgectl_server.api.auditing import Auditing, name_act
from edgectl_server.api.limits import BodyLimit, PageHeaders
from edgectl_server.schemas import Problem
from edgectl_server.services import Services

__all__ = ["API_PREFIX", "WEB_DIRECTORY", "create_app", "make_openapi", "openapi_text"]

API_PREFIX = "/api/v1"
WEB_DIRECTORY = Path(__file__).parent.parent / "web"
_ROUTERS = (
    session.router,
    users.router,
    openid.router,
    uploads.router,
    models.router,
    imports.router,
    jobs.router,
    devices.router,
    benchmarks.router,
    device_uploads.router,
    security.router,
    enrol.router,
    enrolment.router,
    drift.router,
    accuracy.router,
    samples.router,
    alerts.router,
    alert_routes.router,
    labelling.router,
    datasets.router,
    retraining.router,
    loops.router,
    labels.router,
    rollouts.router,
    trust.router,
    telemetry.router,
    events.router,
    audit.router,
    webhooks.router,
    system.router,
    revocations.router,
)


def create_app(services: Services | None, *, web: Path = WEB_DIRECTORY) -> FastAPI:
    """Return the application.

    Args:
        services: what the routes use; None only to look at the routes.
        web: folder of the built web UI; without ``index.html`` in it there is no UI.
    """
    app = FastAPI(
        title="edgectl",
        version=edgectl_protocol.__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=f"{API_PREFIX}/openapi.json",
        dependencies=_DEPENDENCIES,
        routes=_api_routes(),
    )
    app.state.services = services
    app.state.has_ui = (web / "index.html").is_file()
    problems.install(app)
    app.add_api_route(  # after FastAPI's own, that of the OpenAPI document
        "/api/{rest:path}", _unknown, methods=_METHODS, include_in_schema=False, response_model=None
    )
    app.mount(oci.OCI_PREFIX, oci.make_oci_application(services))
    if app.state.has_ui:  # FastAPI refuses to start without the file
        # Scripts and styles are a third as long in gzip; answers of the API, with secrets in them
        # and live streams among them, are not compressed.
        files = StaticFiles(directory=web / "assets", check_dir=False)
        app.mount("/assets", GZipMiddleware(files, minimum_size=1024, compresslevel=6))
        app.frontend("/", directory=web, fallback="index.html")
    app.add_middleware(BodyLimit)
    app.add_middleware(Auditing, services=services)
    app.add_middleware(problems.RequestIds)
    app.add_middleware(PageHeaders)
    app.openapi = lambda: make_openapi(app)  # type: ignore[method-assign]
    return app


_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


async def _unknown(request: Request) -> None:
    # Without this route, an unknown address under /api would get the web UI, with status 200; and
    # because of it, wrong methods come here too.
    allowed: set[str] = set()
    for route in iter_route_contexts(request.app.routes):
        path = route.path or ""
        if path.startswith(f"{API_PREFIX}/") and route.path_regex.match(request.url.path):
            allowed |= route.methods or set()
    if allowed:
        raise HTTPException(405, headers={"Allow": ", ".join(sorted(allowed))})
    raise HTTPException(404)


async def refuse_unknown_parameters(request: Request) -> None:
    """Dependency of every route: a misspelt query parameter is an error, not a default."""
    dependant = getattr(request.scope.get("route"), "dependant", None)
    if dependant is None or not request.query_params:
        return
    if request.url.path == openid.CALLBACK:  # RFC 6749, 4.1.2: what we do not know is ignored
        return
    if dependant.call is _unknown:  # the address is what is unknown
        return
    known = set(_query_names(dependant))
    unknown = sorted(set(request.query_params) - known)
    if unknown:
        raise RequestValidationError(
            [
                {
                    "loc": ("query", name[:64]),
                    "msg": f"unknown parameter; known: {', '.join(sorted(known)) or 'none'}",
                    "type": "extra_forbidden",
                }
                for name in unknown
            ]
        )


_DEPENDENCIES = [Depends(name_act), Depends(refuse_unknown_parameters)]


@cache
def _api_routes() -> list[BaseRoute]:
    """Return the routes of the API: once, for what FastAPI derives of them costs 0.1 s."""
    api = APIRouter(dependencies=_DEPENDENCIES)
    for router in _ROUTERS:
        api.include_router(router, prefix=API_PREFIX)
    api.include_router(metrics.router)  # where Prometheus looks for it
    return api.routes


def _query_names(dependant: Dependant) -> Iterable[str]:
    for parameter in dependant.query_params:
        yield parameter.alias
    for inner in dependant.dependencies:
        yield from _query_names(inner)


def openapi_text() -> str:
    """Return the OpenAPI document as it is kept in the repository for the web UI."""
    return json.dumps(create_app(None).openapi(), indent=2, sort_keys=True) + "\n"


def make_openapi(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document; errors are `Problem` everywhere."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            summary="Push a machine-learning model to a fleet of small devices.",
            routes=app.routes,
        )
        schemas = document["components"]["schemas"]
        schemas["Problem"] = Problem.model_json_schema(
            ref_template="#/components/schemas/{model}", mode="serialization"
        )
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        roles = dict(_roles(app))
        for path in document["paths"].values():
            for method, operation in path.items():
                role = roles.get(operation["operationId"])
                operation["x-edgectl-role"] = role or "open"
                if role:
                    operation["x-edgectl-scope"] = scope_of(
                        operation["tags"], method.upper(), operation["operationId"]
                    )
                found = {str(code): content for code, content in operation["responses"].items()}
                if "422" in found:  # FastAPI describes its own form
                    found["422"] = problems.responses(422)[422]
                operation["responses"] = dict(sorted(found.items()))
        app.openapi_schema = document
    return app.openapi_schema


def _roles(app: FastAPI) -> Iterable[tuple[str, str]]:
    """Yield each guarded operation with its least role."""
    for route in iter_route_contexts(app.routes):
        operation = getattr(route, "operation_id", None)
        if operation is None:
            continue
        for dependency in route.dependant.dependencies:
            if isinstance(dependency.call, RoleCheck):
                yield operation, dependency.call.role
