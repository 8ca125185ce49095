"""Bundles and orders made by hand: the bytes that a server would have signed and published."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import msgspec

from edgectl_protocol import topics
from edgectl_protocol.chunks import CHUNK_BYTES, INDEX_ANNOTATION, chunk_count, make_index
from edgectl_protocol.manifest import (
    ARTIFACT_TYPE,
    CARD_FILE,
    CONFIG_FILE,
    CONFIG_MEDIA_TYPE,
    GOLDEN_FILE,
    LAYER_CONFIG,
    LAYER_DATASET,
    LAYER_DOC,
    LAYER_WEIGHT,
    MANIFEST_MEDIA_TYPE,
    MODEL_FILES,
    TITLE_ANNOTATION,
    BundleConfig,
    Descriptor,
    Golden,
    Lineage,
    Manifest,
    Quantization,
    TensorSpec,
    Tolerance,
    decode_manifest,
    model_layer,
)
from edgectl_protocol.messages import Candidate, Order, SlotOrder, UpdatePolicy
from edgectl_protocol.metadata import target_path
from edgectl_protocol.names import digest_of
from edgectl_protocol.rests import join_base, join_target, missing_layers, rest_layers
from edgectl_protocol.transfers import DeltaBlob, DeltaOffer, RestOffer
from edgectl_server.deltas.encoder import encode

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@dataclass
class MadeBundle:
    """A bundle as bytes, and the retained messages that carry it."""

    config: BundleConfig
    manifest: bytes
    blobs: dict[str, bytes]
    retained: dict[str, bytes] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)

    @property
    def candidate(self) -> Candidate:
        config = self.config
        return Candidate(
            variant=config.variant,
            target=target_path(config.model, config.version, config.variant),
            manifest=self.digest,
        )


@dataclass
class _Made:
    content: bytes
    offer: DeltaBlob

    @property
    def retained(self) -> dict[str, bytes]:
        digest, chunks = self.offer.delta, _chunks(self.content)
        numbered = {topics.chunk(digest, number): one for number, one in enumerate(chunks)}
        index = {topics.chunk_index(digest): make_index(chunks)} if len(chunks) > 1 else {}
        return numbered | index


@dataclass
class MadeDelta(_Made):
    """A delta between the models of two bundles, and the retained messages that carry it."""

    offer: DeltaOffer
    manifest: str
    """Of the bundle that it leads to."""


@dataclass
class MadeRest(_Made):
    """A delta between the rest of two bundles, and the retained messages that carry it."""

    offer: RestOffer
    manifest: str
    """Of the bundle that it leads to."""


def make_delta(base: MadeBundle, target: MadeBundle, content: bytes = b"") -> MadeDelta:
    """The delta between the models as the server makes it, or `content` in its place."""
    before, after = (one.blobs[model_layer(decode_manifest(one.manifest)).digest]
                     for one in (base, target))  # fmt: skip
    content = content or encode(before, after).content
    chunks = _chunks(content)
    offer = DeltaOffer(
        base=digest_of(before),
        target=digest_of(after),
        delta=digest_of(content),
        size=len(content),
        chunk_index=digest_of(make_index(chunks)) if len(chunks) > 1 else None,
    )
    return MadeDelta(content, offer, target.digest)


def make_rest(
    base: MadeBundle, target: MadeBundle, content: bytes = b"", *, made: bytes = b""
) -> MadeRest:
    """The delta between the rest of two bundles as the server makes it, or `content` in its place.

    Where `made` is given, it leads to that.
    """
    before, after = decode_manifest(base.manifest), decode_manifest(target.manifest)
    old = join_base(base.manifest, [base.blobs[one.digest] for one in rest_layers(before)])
    layers = [target.blobs[one.digest] for one in missing_layers(after, before)]
    new = made or join_target(target.manifest, layers)
    content = content or encode(old, new).content
    chunks = _chunks(content)
    offer = RestOffer(
        base=base.digest,
        target=digest_of(new),
        target_bytes=len(new),
        delta=digest_of(content),
        size=len(content),
        chunk_index=digest_of(make_index(chunks)) if len(chunks) > 1 else None,
    )
    return MadeRest(content, offer, target.digest)


def _chunks(content: bytes) -> list[bytes]:
    return [content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES)]


def describe(model: str, version: str, variant: str) -> BundleConfig:
    """A description that says enough for the store; the runtime never sees it."""
    return BundleConfig(
        model=model,
        version=version,
        variant=variant,
        runtime="onnxruntime",
        format="onnx",
        precision="fp32",
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 4)),),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, 2)),),
        golden=Golden(cases=1, tolerances={"y": Tolerance(atol=0.0, rtol=0.0)}),
        quantization=Quantization(recipe="fp32"),
        lineage=Lineage(source=digest_of(f"{model} {version}".encode())),
    )


def make_bundle(config: BundleConfig, model: bytes, golden: bytes) -> MadeBundle:
    """Pack the files as the server does, with chunk indexes where a layer has several chunks."""
    files = (
        (MODEL_FILES[config.format], LAYER_WEIGHT, model),
        (CONFIG_FILE, LAYER_CONFIG, msgspec.json.encode(config)),
        (GOLDEN_FILE, LAYER_DATASET, golden),
        (CARD_FILE, LAYER_DOC, b"{}"),
    )
    layers, blobs, retained = [], {}, {}
    for file, media_type, content in files:
        digest = digest_of(content)
        chunks = [content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES)]
        annotations = {TITLE_ANNOTATION: file}
        if chunk_count(len(content)) > 1:
            index = make_index(chunks)
            annotations[INDEX_ANNOTATION] = digest_of(index)
            retained[topics.chunk_index(digest)] = index
        layers.append(
            Descriptor(
                media_type=media_type, digest=digest, size=len(content), annotations=annotations
            )
        )
        if media_type != LAYER_DOC:
            blobs[digest] = content
            for number, chunk in enumerate(chunks):
                retained[topics.chunk(digest, number)] = chunk
    manifest = msgspec.json.encode(
        Manifest(
            schema_version=2,
            media_type=MANIFEST_MEDIA_TYPE,
            artifact_type=ARTIFACT_TYPE,
            config=Descriptor(media_type=CONFIG_MEDIA_TYPE, digest=digest_of(b"{}"), size=2),
            layers=tuple(layers),
        )
    )
    blobs[digest_of(manifest)] = manifest
    retained[topics.chunk(digest_of(manifest), 0)] = manifest
    return MadeBundle(config, manifest, blobs, retained)


def simple_bundle(
    version: str, *, variant: str = "fp32", model: str = "activity", length: int = 200_000
) -> MadeBundle:
    """A bundle whose model file is bytes that tell versions and variants apart."""
    text = f"{model} {version} {variant} ".encode()
    content = (text * (length // len(text) + 1))[:length]
    return make_bundle(describe(model, version, variant), content, b"golden " + text)


def retrained_bundles(length: int = 200_000) -> tuple[MadeBundle, MadeBundle]:
    """Two versions of one model: half of the second one's bytes are those of the first."""
    made = random.Random(length)
    old, new = made.randbytes(length), made.randbytes(length // 2)
    return tuple(make_bundle(describe("activity", version, "fp32"), model, b"golden")
                 for version, model in (("1", old), ("2", old[: length // 2] + new)))  # fmt: skip


def make_order(
    counter: int,
    bundles: Sequence[MadeBundle],
    *,
    device: str = "pi-1",
    slot: str = "activity",
    at: datetime = START,
    valid: timedelta = timedelta(days=7),
    policy: UpdatePolicy | None = None,
    forgive: Sequence[str] = (),
    rollout: str | None = None,
    more: dict[str, SlotOrder] | None = None,
    withdrawn: Sequence[str] = (),
    coupled: Sequence[tuple[str, ...]] = (),
    deltas: Sequence[MadeDelta] = (),
    rests: Sequence[MadeRest] = (),
) -> Order:
    """An order of one slot (and `more`); the bundles are its candidates, best first."""
    slots = dict(more or {})
    if bundles:
        slots[slot] = slot_order(bundles, rollout=rollout)
    return Order(
        device=device,
        counter=counter,
        nonce=f"{counter:032x}",
        issued_at=at,
        expires_at=at + valid,
        slots=slots,
        policy=policy or UpdatePolicy(observe_s=2.0, retry_delay_s_max=10.0),
        forgive=tuple(forgive),
        withdrawn=tuple(withdrawn),
        coupled=tuple(coupled),
        deltas={one.manifest: one.offer for one in deltas},
        rests={one.manifest: one.offer for one in rests},
    )


def slot_order(bundles: Sequence[MadeBundle], *, rollout: str | None = None) -> SlotOrder:
    """What one slot shall run."""
    first = bundles[0].config
    return SlotOrder(
        model=first.model,
        version=first.version,
        candidates=tuple(bundle.candidate for bundle in bundles),
        rollout=rollout,
    )
