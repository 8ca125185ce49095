"""Single inputs that devices have sent, of series, pictures and tables, and their labels."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from edgectl_protocol.chunks import Bitmap, chunk_count
from edgectl_protocol.samples import SAMPLE_MEDIA_TYPE, SampleNote, SampleTensor, encode_sample
from edgectl_protocol.sealed_samples import sample_key_id, seal_sample
from edgectl_server.signing.sealing_key import SUITE
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.tables import (
    AnnotationRow,
    Base,
    DeviceUpload,
    SamplePolicyRow,
    SampleRow,
)
from ui.bundle_files import contract_of

__all__ = [
    "CLOSED",
    "CONFLICT",
    "LABELLED",
    "PICTURES",
    "SEALED",
    "SERIES",
    "TABLES",
    "sample_rows",
]

SERIES, PICTURES, TABLES, CLOSED = 8, 4, 3, 1
LABELLED, CONFLICT = f"{0x5A00000000000000 + 0:016x}", f"{0x5A00000000000000 + 1:016x}"
SEALED = f"{0x5A00000000000000 + SERIES + PICTURES + TABLES:016x}"
"""Sealed to a key that the server does not have, and redacted."""
_KEY = X25519PrivateKey.generate().public_key()
_FIRST_UPLOAD = 90_000
_REASONS = ("uncertain", "random", "uncertain")


def sample_rows(
    uploads: BlobStore, now: datetime, *, bundles: dict[str, tuple[str, str]], devices: list[str]
) -> list[Base]:
    """Return rows, and put the content where they say.

    Args:
        uploads: of devices.
        now: the time.
        bundles: of each model version and manifest.
        devices: that have sent them.
    """
    random = np.random.default_rng(4)
    kinds = ["har"] * SERIES + ["door"] * PICTURES + ["kws"] * (TABLES + CLOSED)
    rows: list[Base] = []
    for number, model in enumerate(kinds):
        version, manifest = bundles[model]
        reason = _REASONS[number % len(_REASONS)]
        taken = now - timedelta(minutes=7 * number + 2)
        note = SampleNote(
            model=model, version=version, manifest=manifest, reason=reason, taken_at=taken
        )  # type: ignore[call-arg,arg-type,unused-ignore]
        inputs, scores = _input(random, model, number), _scores(random, model)
        content = encode_sample(note, [*_tensors("input", inputs), *_tensors("output", scores)])
        sealed = number == SERIES + PICTURES + TABLES
        key = _KEY.public_bytes_raw()
        if sealed:
            content = seal_sample(content, device="pi-1", key=key, encrypt=_encrypt)
        digest = uploads.add_bytes(content)
        (answers,) = scores.values()
        rows += [
            _upload(number, (devices[number % len(devices)], model, digest), len(content), now),
            SampleRow(
                id=f"{0x5A00000000000000 + number:016x}",
                upload=_FIRST_UPLOAD + number,
                device=devices[number % len(devices)],
                model=model,
                version=version,
                manifest=manifest,
                digest=digest,
                reason=reason,
                taken_at=taken,
                received_at=taken + timedelta(minutes=1),
                length=len(content),
                tensors=[
                    {"name": one.name, "datatype": one.datatype, "shape": list(one.shape)}
                    for one, _ in [*_tensors("input", inputs), *_tensors("output", scores)]
                ],
                answer=-1 if sealed else int(answers.argmax()),
                confidence=None if sealed else float(answers.max()),
                key=sample_key_id(key) if sealed else "",
                sealed=sealed,
                redacted=sealed,
                **_said(number),
            ),
        ]
    policy = {"bytes_per_day": 5_000_000, "reasons": ["random", "uncertain"], "random_share": 0.2}
    rows.append(
        SamplePolicyRow(
            model="har",
            document=policy,
            revision=2,
            changed_at=now - timedelta(days=3),
            changed_by="admin",
        )
    )
    return [*rows, *_annotations(now)]


def _encrypt(plain: bytes, info: bytes) -> bytes:
    return SUITE.encrypt(plain, _KEY, info)


def _said(number: int) -> dict[str, Any]:
    if number == 0:
        return {"label_state": "labelled", "label": contract_of("har")[2][0], "label_number": 0}
    return {"label_state": "conflict"} if number == 1 else {}


def _annotations(now: datetime) -> list[Base]:
    classes = contract_of("har")[2]
    said = [(LABELLED, "ann", 0), (LABELLED, "bob", 0), (CONFLICT, "ann", 1), (CONFLICT, "bob", 2)]
    return [
        AnnotationRow(
            sample=sample,
            source="person",
            labeller=who,
            label=classes[number],
            number=number,
            made_at=now - timedelta(minutes=1),
            entered_by=who,
        )
        for sample, who, number in said
    ]


def _input(random: Any, model: str, number: int) -> dict[str, np.ndarray[Any, Any]]:
    (spec,) = contract_of(model)[0]
    shape = (1, *spec.shape[1:])
    if model == "har":
        time = np.linspace(0, 6 * math.pi, shape[2])
        waves = [np.sin(time * (1 + channel / 4) + number) for channel in range(shape[1])]
        values = np.stack(waves) + random.normal(scale=0.12, size=shape[1:])
        return {spec.name: values[np.newaxis].astype(np.float32)}
    if model == "door":
        height, width = np.mgrid[0 : shape[2], 0 : shape[3]] / 64
        tone = 0.25 + 0.15 * number
        picture = np.stack([tone + 0.3 * width, 0.3 + 0.4 * height, 0.6 - 0.3 * width])
        picture[:, 14:, 20 + 4 * number : 40 + 4 * number] *= 0.45
        return {spec.name: np.clip(picture, 0, 1)[np.newaxis].astype(np.float32)}
    return {spec.name: random.normal(20, 6, size=shape).astype(np.float32)}


def _scores(random: Any, model: str) -> dict[str, np.ndarray[Any, Any]]:
    (spec,) = contract_of(model)[1]
    scores = random.dirichlet([1.0] * spec.shape[1])
    return {spec.name: scores[np.newaxis].astype(np.float32)}


def _tensors(kind: str, arrays: dict[str, Any]) -> list[tuple[SampleTensor, bytes]]:
    return [
        (SampleTensor(f"{kind}.{name}", "F32", array.shape), array.tobytes())
        for name, array in arrays.items()
    ]


def _upload(number: int, of: tuple[str, str, str], length: int, now: datetime) -> DeviceUpload:
    device, model, digest = of
    return DeviceUpload(
        id=_FIRST_UPLOAD + number,
        device=device,
        digest=digest,
        kind="sample",
        model=model,
        media_type=SAMPLE_MEDIA_TYPE,
        length=length,
        chunk_index=None,
        index=None,
        state="complete",
        bitmap=Bitmap(chunk_count(length)).to_bytes(),
        asked=[],
        asked_at=None,
        window=1,
        stalls=0,
        refusals=0,
        job="",
        made_at=now,
        created_at=now,
        began_at=now,
        moved_at=now,
        ended_at=now,
        expires_at=now + timedelta(days=30),
        reason=None,
    )
