"""The API's own description: current, complete, and saying how it fails."""

import json
import subprocess
import sys
from pathlib import Path

from edgectl_server.api.app import create_app, openapi_text

KEPT = Path(__file__).parents[3] / "server" / "ui" / "openapi.json"
COMMAND = "python -m edgectl_server openapi > server/ui/openapi.json"


def test_the_kept_document_is_current():
    """The web UI's types are made of it."""
    assert KEPT.read_text() == openapi_text(), f"the API has changed: {COMMAND}"


def test_the_command_prints_it():
    answer = subprocess.run(
        [sys.executable, "-P", "-m", "edgectl_server", "openapi"],
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert answer.stdout.decode() == openapi_text()


def operations():
    for path, methods in create_app(None).openapi()["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_operations_are_named_once():
    names = [operation["operationId"] for _, operation in operations()]
    assert len(set(names)) == len(names)


def test_every_error_is_a_problem():
    for name, operation in operations():
        for status, answer in operation["responses"].items():
            if status >= "400" and operation["operationId"] != "ready":
                assert set(answer["content"]) == {"application/problem+json"}, (name, status)


CHECKS_A_SECRET_ITSELF = {"login", "login_token", "enrol", "renew", "take_handover"}


def test_what_needs_a_login_says_so():
    for name, operation in operations():
        guarded = "security" in operation
        if operation["operationId"] not in CHECKS_A_SECRET_ITSELF:
            assert guarded == ("401" in operation["responses"]), name
        if guarded:
            assert {"token": []} in operation["security"]
            assert {"session": []} in operation["security"]


def test_references_lead_somewhere():
    document = create_app(None).openapi()
    text = json.dumps(document)
    named = {part.split('"')[0] for part in text.split('"$ref": "#/components/schemas/')[1:]}
    assert named <= set(document["components"]["schemas"])
    assert "Problem" in named
    assert "HTTPValidationError" not in document["components"]["schemas"]
