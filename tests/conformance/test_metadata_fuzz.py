"""Signed metadata with anything in it, through the whole path: believed, or a declared refusal.

Twice: bytes that a broker may send in place of a file, and payloads that the holder of a role's key
has signed, with a field replaced by any value. Whatever comes, the verifier raises `StepFailed` or
`StepRejected`, and believes nothing that the floor or another role's key forbids.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from securesystemslib.formats import encode_canonical

from conformance.attacked import V1
from conformance.repository import BASE_URL, Files, SignedRepository, name_of
from conformance.test_decoders import NASTY, VALUES
from edgectl_agent.core.record import Floor
from edgectl_agent.errors import StepError
from edgectl_agent.trust.verifier import VERSION_MAX, Verifier

LIMITS = settings(
    max_examples=200,
    deadline=timedelta(seconds=5),
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
ROLES = ("root", "timestamp", "snapshot", "targets", "team")
HONEST = SignedRepository()
HONEST.delegate("team", ["models/*/*/*"])
HONEST.add(V1, "team")
HONEST.publish("team", "targets")
HONEST.publish_root()
FILES = dict(HONEST.files)
FLOOR = Floor(root=2, timestamp=HONEST.timestamp.version, snapshot=HONEST.snapshot.version)


def believed() -> Floor | None:
    """Let a new device look at what is served; None if it refuses."""
    cache = Path(tempfile.mkdtemp(prefix="edgectl-fuzz-"))
    try:
        verifier = Verifier(cache, FILES["1.root.json"], Files(HONEST), base_url=BASE_URL)
        return verifier.find(V1.candidate.target, V1.digest, Floor())
    except StepError:
        return None
    finally:
        shutil.rmtree(cache)


def file_of(role: str) -> str:
    return name_of(role, HONEST.payload(role).version)


def test_the_honest_set_is_believed() -> None:
    HONEST.files = dict(FILES)
    assert believed() == FLOOR


@LIMITS
@given(st.sampled_from(ROLES), st.data())
def test_bytes_without_a_signature(role: str, data: st.DataObject) -> None:
    content = FILES[file_of(role)]
    for _ in range(data.draw(st.integers(1, 3))):
        begin = data.draw(st.integers(0, len(content)))
        end = min(len(content), begin + data.draw(st.integers(0, 60)))
        piece = data.draw(NASTY | st.binary(max_size=8) | st.just(content[begin:end] * 2))
        content = content[:begin] + piece + content[end:]
    HONEST.files = FILES | {file_of(role): content}
    assert believed() in {None, FLOOR}


@st.composite
def replaced(draw: st.DrawFn, signed: dict[str, Any]) -> dict[str, Any]:
    """The payload with a value somewhere replaced, a field taken out, or one added."""
    document = json.loads(json.dumps(signed))
    holder, key = {"": document}, ""
    while isinstance(holder[key], dict) and holder[key] and draw(st.integers(0, 3)):
        inner = holder[key]
        holder, key = inner, draw(st.sampled_from(sorted(inner)))
    if draw(st.booleans()) and key:
        del holder[key]
    else:
        holder[draw(st.just(key) | st.text(max_size=5)) or "x"] = draw(VALUES)
    changed: dict[str, Any] = document
    return changed


@LIMITS
@given(st.sampled_from(ROLES), st.data())
def test_payloads_that_the_roles_own_key_has_signed(role: str, data: st.DataObject) -> None:
    HONEST.files = dict(FILES)
    signed = data.draw(replaced(json.loads(FILES[file_of(role)])["signed"]))
    try:
        canonical = encode_canonical(signed)
    except Exception:  # noqa: BLE001 - floats and lone surrogates cannot be signed
        return
    assert canonical is not None
    try:
        signatures = [one.sign(canonical.encode()).to_dict() for one in HONEST.signers[role]]
    except UnicodeEncodeError:
        return
    document = {"signatures": signatures, "signed": signed}
    HONEST.files[file_of(role)] = json.dumps(document).encode()
    seen = believed()
    if seen is not None:
        assert max(seen.root, seen.timestamp, seen.snapshot) <= VERSION_MAX
        assert seen.snapshot == FLOOR.snapshot, "nobody else has signed another snapshot"
