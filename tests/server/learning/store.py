"""A server's samples, put where devices' uploads would have put them."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy import select
from sqlalchemy.orm import Session

from agent.core.made import describe, make_bundle
from edgectl_protocol.manifest import BundleConfig, Scores, TensorSpec
from edgectl_protocol.names import digest_of
from edgectl_protocol.samples import SampleNote, SampleTensor, encode_sample
from edgectl_protocol.sealed_samples import sample_key_id, seal_sample
from edgectl_server.annotations import Annotations
from edgectl_server.clock import now
from edgectl_server.contracts import Contracts
from edgectl_server.datasets import Datasets
from edgectl_server.device_uploads import DeviceUploads, Limits
from edgectl_server.ground_truth import GroundTruth
from edgectl_server.sample_keys import SampleKeys
from edgectl_server.samples import SampleLimits, Samples
from edgectl_server.schemas import AnnotationImport, AnnotationItem
from edgectl_server.signing.sealed_secrets import SealedSecrets
from edgectl_server.signing.sealing_key import SUITE
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import Device, DeviceUpload, SampleRow

_RECIPIENT = X25519PrivateKey.generate().public_key()
KEY = _RECIPIENT.public_bytes_raw()
"""Of which nobody has the private half."""
CLASSES = ("sit", "walk", "run")
START = datetime.combine(now().date(), time.min, UTC) - timedelta(days=2)
"""Of the samples: lately, as bounds of the server go by the time of day."""


def _encrypt(plain: bytes, info: bytes) -> bytes:
    return SUITE.encrypt(plain, _RECIPIENT, info)


def contract(version: str = "1", **changes: Any) -> BundleConfig:
    config = msgspec.structs.replace(
        describe("har", version, "int8"),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, 3)),),
        scores=Scores(output="y", kind="probabilities"),
        labels=CLASSES,
    )
    return msgspec.structs.replace(config, **changes)


class Store:
    """Samples, annotations and datasets of one database, without devices."""

    def __init__(
        self, database: Database, folder: Path, *, bundles: str = "", uploads: str = ""
    ) -> None:
        """Work in `folder`, or with the blobs of a server that runs."""
        self.database, self.folder = database, folder
        self.bundles = BlobStore(bundles or str(folder / "b"))
        self.uploads = BlobStore(uploads or str(folder / "u"))
        self.contracts = Contracts(self.bundles)
        self.now = now()
        self.ground_truth = GroundTruth(
            database=database, contracts=self.contracts, now=lambda: self.now
        )
        secrets = SealedSecrets.open(folder / "keys")
        self.keys = SampleKeys(database, secrets, lambda: self.now)
        self.keys.ensure()
        self.samples = Samples(
            database=database,
            keys=self.keys,
            contracts=self.contracts,
            uploads=self.uploads,
            limits=SampleLimits(timedelta(days=30), 2**32),
            ground_truth=self.ground_truth,
            now=lambda: self.now,
        )
        self.annotations = Annotations(
            database=database,
            contracts=self.contracts,
            samples=self.samples,
            now=lambda: self.now,
        )
        self.datasets = self.open_datasets()
        self.device_uploads = DeviceUploads(
            database=database,
            blobs=self.uploads,
            directory=folder / "parts",
            limits=Limits(2**32, 1, timedelta(days=1)),
            owners={"sample": self.samples},
            now=lambda: self.now,
            wake=lambda: None,
        )
        self.manifest = self.publish(contract())

    def open_datasets(self, bytes_max: int = 2**40) -> Datasets:
        return Datasets(
            database=self.database,
            contracts=self.contracts,
            uploads=self.uploads,
            bytes_max=bytes_max,
            now=lambda: self.now,
        )

    def publish(self, config: BundleConfig) -> str:
        made = make_bundle(config, b"model", b"golden")
        for content in made.blobs.values():
            self.bundles.add_bytes(content)
        return self.bundles.add_bytes(made.manifest)

    def sample(self, device: str = "pi-1", **options: Any) -> str:
        """Put a sample there and return its id."""
        with self.database.write() as session:
            return self._add(session, device, **options)

    def _add(
        self,
        session: Session,
        device: str,
        *,
        minute: int = 0,
        values: Any = (0.0, 1.0, 2.0, 3.0),
        scores: Any = (0.2, 0.7, 0.1),
        site: str = "",
        manifest: str = "",
        came: str = "plain",
        **note: Any,
    ) -> str:
        if session.get(Device, device) is None:
            session.add(device_row(device, site, self.now))
        at = START + timedelta(minutes=minute)
        fields = {"model": "har", "version": "1", "reason": "random", "taken_at": at}
        told = SampleNote(manifest=manifest or self.manifest, **(fields | note))
        inputs, outputs = np.asarray([values], "<f4"), np.asarray([scores], "<f4")
        content = encode_sample(
            told,
            [
                (SampleTensor("input.x", "F32", inputs.shape), inputs.tobytes()),
                (SampleTensor("output.y", "F32", outputs.shape), outputs.tobytes()),
            ],
        )
        sealed = seal_sample(content, device=device, key=KEY, encrypt=_encrypt)
        if came == "closed":
            content = sealed
        self.uploads.add_bytes(content)
        upload = upload_row(device, digest_of(content), len(content), self.now)
        if came != "plain":
            upload.sealed_to = sample_key_id(KEY)
        if came == "sealed":  # to the server, which has opened it
            upload.digest, upload.kept_as = digest_of(sealed), digest_of(content)
        session.add(upload)
        session.flush()
        self.samples.ended(session, upload)
        session.flush()
        return session.scalars(select(SampleRow.id).where(SampleRow.upload == upload.id)).one()

    def labelled(self, device: str, label: str, **options: Any) -> str:
        sample = self.sample(device, **options)
        self.annotations.put(sample, label, "anna")
        return sample

    def fill(self, devices: int = 6, each: int = 6) -> None:
        """Labelled samples of several devices, every class on each."""
        items = []
        with self.database.write() as session:
            for count in range(devices * each):
                sample = self._add(
                    session,
                    f"pi-{count % devices}",
                    minute=count,
                    values=np.full(4, count),
                    site=f"site-{count % 2}",
                )
                label = CLASSES[count // devices % 3]
                items.append(AnnotationItem(sample=sample, label=label))
        self.annotations.take_in(AnnotationImport(items=items), "anna")


def upload_row(device: str, digest: str, length: int, at: datetime) -> DeviceUpload:
    return DeviceUpload(
        device=device, digest=digest, kind="sample", model="har", media_type="x", length=length,
        state="complete", bitmap=b"", asked=[], window=1, stalls=0, refusals=0, job="", made_at=at,
        created_at=at, moved_at=at, ended_at=at, expires_at=at, chunk_index=None,
    )  # fmt: skip


def device_row(name: str, site: str, at: datetime) -> Device:
    return Device(
        id=name, state="enrolled", public_key_sha256="", certificate_serial="1",
        certificate_expires_at=at, certificate_pem="", earlier_serials=[], enrol_token="",
        enrolled_at=at, online=False, boot=0, seq=0, order_counter=0, reported={},
        agent_version="", labels={"site": site} if site else {},
    )  # fmt: skip
