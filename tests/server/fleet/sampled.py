"""A device of a server's that runs har, whose policy asks for samples."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from sqlalchemy import select

from agent.core.made import describe
from edgectl_protocol.samples import (
    SAMPLE_MEDIA_TYPE,
    SampleNote,
    SampleTensor,
    encode_sample,
)
from edgectl_server.clock import now
from edgectl_server.sample_policies import SamplePolicies
from edgectl_server.samples import SampleFilter
from edgectl_server.schemas import SamplePolicyChange
from edgectl_server.storage.tables import DeviceUpload, ModelVersion
from server.fleet.conftest import Site
from server.fleet.fleet_helpers import PAGE_ALL
from server.fleet.uploader import Uploader

CONFIG = msgspec.json.encode(describe("har", "1", "int8"))
"""Input x of FP32 (-1, 4), output y of FP32 (-1, 2)."""
ASKED = SamplePolicyChange(bytes_per_day=10_000, reasons=["uncertain", "random"], seal="none")


class Sampled:
    """A device that runs har, whose policy asks for samples."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.manifests = site.version(config=CONFIG)
        self.policies = SamplePolicies(site.database, now)
        self.policies.put("har", ASKED, "anna")
        self.uploader = Uploader(site)
        self.desire("pi-1")

    def desire(self, device: str) -> int:
        with self.site.database.write() as session:
            version = session.scalars(select(ModelVersion.id)).first()
            ordering = self.site.plane.ordering
            return ordering.desire(session, device, "har", version, rollout=None)

    def note(self, **changes: Any) -> SampleNote:
        note = SampleNote(
            model="har",
            version="1",
            manifest=self.manifests["int8"],
            reason="uncertain",
            taken_at=now().replace(microsecond=0),
        )
        return msgspec.structs.replace(note, **changes)

    def offer(self, content: bytes, note: SampleNote | None, **lies: Any) -> None:
        lies = {"kind": "sample", "media_type": SAMPLE_MEDIA_TYPE, "sample": note} | lies
        self.uploader.offer(content, None, **lies)

    def samples(self, **asked: Any) -> list[Any]:
        return self.site.plane.samples.page(PAGE_ALL, SampleFilter(**asked)).items

    def rows(self) -> list[DeviceUpload]:
        with self.site.database.read() as session:
            return list(session.scalars(select(DeviceUpload).order_by(DeviceUpload.id)))


def file_of(note: SampleNote, *, rows: int = 1, seed: int = 0, **other: Any) -> bytes:
    """A sample as the contract says, unless it says otherwise."""
    inputs = np.full((rows, 4), seed, "<f4")
    outputs = np.zeros((rows, 2), "<f4")
    names = {"input": "input.x", "output": "output.y", "datatype": "F32"} | other
    return encode_sample(
        note,
        [
            (SampleTensor(names["input"], "F32", inputs.shape), inputs.tobytes()),
            (SampleTensor(names["output"], names["datatype"], outputs.shape), outputs.tobytes()),
        ],
    )
