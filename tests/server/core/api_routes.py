"""Every operation of the API, as the OpenAPI document tells of it."""

import json
from typing import NamedTuple

from edgectl_server.api.app import create_app

OPEN = "open"
PASSWORD = "correct horse battery"
PATHS = {
    "sha256": "0" * 64,
    "job_id": "0" * 16,
    "name": "har",
    "version": "1",
    "token_id": "0" * 16,
    "action": "pause",
    "retraining": "0" * 16,
    "sample": "0" * 16,
    "follow": "0" * 16,
}
"""For every parameter in a path something that has its form."""


class Route(NamedTuple):
    operation: str
    method: str
    path: str
    role: str
    scope: str


DOCUMENT = create_app(None).openapi()


def documented_routes():
    """Yield every operation of the OpenAPI document."""
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            role, scope = operation["x-edgectl-role"], operation.get("x-edgectl-scope", "")
            assert bool(operation.get("security")) == (role != OPEN) == bool(scope), operation
            yield Route(operation["operationId"], method.upper(), path, role, scope)


ROUTES = sorted(documented_routes())


def fill(path: str) -> str:
    filled = path
    while "{" in filled:
        name = filled.split("{", 1)[1].split("}", 1)[0]
        filled = filled.replace("{" + name + "}", PATHS.get(name, "x1"))
    return filled


def login(client, name="admin", password=PASSWORD):
    body = json.dumps({"username": name, "password": password})  # in ASCII, also half a character
    return client.post(
        "/api/v1/session", content=body, headers={"Content-Type": "application/json"}
    )
