"""Deltas from what the fleet runs: made, waited for, named in orders, and told what they save."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sqlalchemy import select

from edgectl_delta.decoder import apply_bytes
from edgectl_protocol.manifest import bundle_bytes, decode_manifest, model_layer
from edgectl_protocol.messages import Installed, ReportedState, SlotReport, UpdateReport
from edgectl_protocol.names import hex_of
from edgectl_protocol.rests import join_base, join_target, missing_layers, rest_layers
from edgectl_protocol.transfers import TransferReport
from edgectl_protocol.update import UpdateState
from edgectl_server.delta_making import DELTAS, KEPT, DeltasHandler
from edgectl_server.delta_rows import expected_transfer
from edgectl_server.jobs import Jobs
from edgectl_server.oci_registry import OciRegistry
from edgectl_server.schemas import RolloutRequest, Selector
from edgectl_server.settings import Settings
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import (
    BundleVariant,
    Delta,
    Device,
    Job,
    ModelVersion,
    ReportedSlot,
    RolloutDevice,
)
from server.deltas.pairs import model, retrained, weights
from server.fleet.test_rollout_service import PAGE, Fleet
from waiting import wait_for

SETTINGS = Settings(delta_bases_max=3)
RNG = np.random.default_rng(7)
LAYERS = {f"l{n}": weights(RNG, "f32", (40, 60)) for n in range(3)}
V1 = model(LAYERS)
V2 = model({name: retrained(RNG, array) for name, array in LAYERS.items()})
STRANGE = RNG.bytes(30_000)
"""Nothing leads to this."""


@pytest.fixture
def fleet(tmp_path: Path, database: Database) -> Fleet:
    return Fleet(tmp_path, database, SETTINGS)


def run(fleet: Fleet, name: str, version: str, variant: str = "fp32") -> None:
    """Have a device that runs a version, as it reports."""
    manifest = fleet.manifests[version][variant]
    running = Installed(version=version, variant=variant, manifest=manifest, since=fleet.clock())
    fleet.amend(name, slots={"har": SlotReport(running=running)})
    with fleet.database.write() as session:
        session.merge(ReportedSlot(device=name, slot="har", version=version, manifest=manifest))


def make(fleet: Fleet, folder: Path, settings: Settings = SETTINGS) -> None:
    """Do the jobs that wait."""
    jobs = Jobs(fleet.database, fleet.clock, worker="deltas")
    handler = DeltasHandler(
        folder / "work",
        settings=settings,
        database=fleet.database,
        blobs=fleet.blobs,
        now=fleet.clock,
        made=lambda: None,
    )
    jobs.register(DELTAS, handler)
    jobs.start()
    try:
        wait_for(lambda: all(one.finished_at for one in job_rows(fleet)), "the end of the jobs")
    finally:
        jobs.close()
    assert list((folder / "work").iterdir()) == []


def job_rows(fleet: Fleet) -> list[Job]:
    with fleet.database.read() as session:
        return list(session.scalars(select(Job).where(Job.kind == DELTAS).order_by(Job.created_at)))


def rows(fleet: Fleet) -> list[Delta]:
    with fleet.database.read() as session:
        return list(session.scalars(select(Delta).order_by(Delta.id)))


def plan(fleet: Fleet, version: str) -> bool:
    with fleet.database.write() as session:
        wanted = select(ModelVersion).where(ModelVersion.version == version)
        return fleet.deltas.plan(session, session.scalars(wanted).one())


def test_made_from_what_runs_applied_and_of_use(fleet: Fleet, tmp_path: Path) -> None:
    fleet.version("1", models={"fp32": V1, "int8": STRANGE, "fp16": V1[:5000]})
    fleet.version("2", models={"fp32": V2, "int8": RNG.bytes(30_000), "fp16": V1[:5000]})
    fleet.add("a", "b", "c", "d")
    run(fleet, "a", "1", "fp32")
    run(fleet, "b", "1", "int8")
    run(fleet, "c", "1", "fp16")
    assert plan(fleet, "2")
    assert not plan(fleet, "2"), "what is written down is not written down again"
    make(fleet, tmp_path)
    found = {row.variant: row for row in rows(fleet)}
    assert {name: row.state for name, row in found.items()} == {
        "fp32": "ready",
        "int8": "useless",
        "fp16": "same",
    }
    ready = found["fp32"]
    assert ready.digest is not None
    content = fleet.blobs.read(ready.digest)
    assert apply_bytes(content, V1, hashlib.sha256(V2).digest()) == V2
    assert (ready.bytes, ready.target_bytes) == (len(content), len(V2))
    assert ready.bytes < 0.9 * ready.target_bytes
    asked = RolloutRequest(model="har", version="2", selector=Selector(devices=["a", "d"]))
    expected = fleet.rollouts.forecast(asked)
    with fleet.database.read() as session:
        sizes = {
            row.manifest: row.bundle_bytes for row in session.scalars(select(BundleVariant)).all()
        }
        a_fetches = expected_transfer(session, ready.base_manifest, ready.manifest)
    assert a_fetches is not None
    whole = sizes[ready.manifest]
    assert a_fetches.predicted_bytes < whole
    assert expected.whole_bytes == 2 * whole, "both are offered the same variant"
    assert expected.fetches_bytes == a_fetches.predicted_bytes + whole
    run(fleet, "a", "2", "fp32")
    assert fleet.rollouts.forecast(asked).fetches_bytes == whole, "it has it already"
    (job,) = job_rows(fleet)
    assert job.state == "succeeded"
    assert job.result is not None
    assert [one["state"] for one in job.result["deltas"]].count("ready") == 1
    assert not plan(fleet, "2"), "nor what is of no use tried again"


def test_from_what_most_devices_run_and_no_more(fleet: Fleet) -> None:
    for version in "12345":
        fleet.version(version, models={"fp32": V1 + version.encode()})
    names = [f"d{n}" for n in range(9)]
    fleet.add(*names)
    for name, version in zip(names, "111222334", strict=True):
        run(fleet, name, version)
    with fleet.database.write() as session:
        session.get_one(Device, "d8").state = "decommissioned"
    assert plan(fleet, "5")
    assert {row.base_version for row in rows(fleet)} == {"1", "2", "3"}


def test_of_encrypted_bundles_there_are_none(fleet: Fleet) -> None:
    fleet.version("1", models={"fp32": V1})
    fleet.version("2", models={"fp32": V2})
    fleet.add("a")
    run(fleet, "a", "1")
    with fleet.database.write() as session:
        wanted = select(BundleVariant).where(BundleVariant.manifest == fleet.manifests["2"]["fp32"])
        session.scalars(wanted).one().content_key = "sealed"
    assert not plan(fleet, "2")


def test_what_cannot_be_made_is_said_and_the_rest_is_made(fleet: Fleet, tmp_path: Path) -> None:
    fleet.version("1", models={"fp32": V1})
    fleet.version("2", models={"fp32": V2})
    fleet.add("a")
    run(fleet, "a", "1")
    assert plan(fleet, "2")
    small = msgspec.structs.replace(SETTINGS, delta_memory_bytes_max=64 * 1024**2)
    make(fleet, tmp_path, small)
    (row,) = rows(fleet)
    assert row.state == "failed"
    assert row.reason is not None
    assert row.reason["code"] in {"delta.memory", "delta.crashed"}
    assert job_rows(fleet)[0].state == "succeeded"


def test_a_cancelled_job_leaves_nothing_that_is_waited_for(fleet: Fleet, tmp_path: Path) -> None:
    fleet.version("1", models={"fp32": V1})
    fleet.version("2", models={"fp32": V2})
    fleet.add("a")
    run(fleet, "a", "1")
    rollout = fleet.start("2")
    jobs = Jobs(fleet.database, fleet.clock)
    handler = DeltasHandler(
        tmp_path / "work",
        settings=SETTINGS,
        database=fleet.database,
        blobs=fleet.blobs,
        now=fleet.clock,
        made=lambda: None,
    )
    jobs.register(DELTAS, handler)
    jobs.cancel(job_rows(fleet)[0].id)
    (row,) = rows(fleet)
    assert (row.state, (row.reason or {})["code"]) == ("failed", "job.cancelled")
    fleet.rollouts.tick()
    assert fleet.states(rollout) == {"a": "in_progress"}


def test_a_rollout_waits_for_them_and_its_orders_name_them(fleet: Fleet, tmp_path: Path) -> None:
    fleet.version("1", models={"fp32": V1})
    fleet.version("2", models={"fp32": V2})
    fleet.add("a", "b")
    run(fleet, "a", "1")
    rollout = fleet.start("2")
    fleet.rollouts.tick()
    assert fleet.states(rollout) == {"a": "pending", "b": "pending"}
    assert fleet.show(rollout).note == "waiting for deltas that are being made"
    make(fleet, tmp_path)
    fleet.rollouts.tick()
    assert fleet.states(rollout) == {"a": "in_progress", "b": "in_progress"}
    manifest = fleet.manifests["2"]["fp32"]
    (row,) = rows(fleet)
    first, second = fleet.order("a"), fleet.order("b")
    assert first is not None
    assert second is not None
    offer = first.deltas[manifest]
    target = model_layer(decode_manifest(fleet.blobs.read(manifest)))
    assert (offer.target, offer.delta, offer.size) == (target.digest, row.digest, row.bytes)
    assert offer.consistent
    rest = first.rests[manifest]
    assert (rest.base, rest.target) == (fleet.manifests["1"]["fp32"], row.rest_target)
    assert (rest.delta, rest.size) == (row.rest_digest, row.rest_bytes)
    assert rest.consistent
    # Manifest and description by one delta, the model by the other one: nothing else is fetched.
    assert first.slots["har"].predicted_bytes == offer.size + rest.size
    assert second.deltas == second.rests == {}, "it runs nothing that this could be made from"
    assert second.slots["har"].predicted_bytes == whole_of(fleet, "2")


def whole_of(fleet: Fleet, version: str) -> int:
    """The bytes of the whole bundle."""
    content = fleet.blobs.read(fleet.manifests[version]["fp32"])
    return bundle_bytes(content, decode_manifest(content))


def test_the_rest_is_made_where_the_model_cannot_be(fleet: Fleet, tmp_path: Path) -> None:
    fleet.version("1", models={"fp32": STRANGE})
    fleet.version("2", models={"fp32": RNG.bytes(30_000)})
    fleet.version("3", models={"fp32": STRANGE})
    fleet.add("a")
    run(fleet, "a", "1")
    for version in "23":
        assert plan(fleet, version)
    make(fleet, tmp_path)
    assert [row.state for row in rows(fleet)] == ["useless", "same"]
    for row in rows(fleet):
        assert row.rest_digest is not None
        before, after = (fleet.blobs.read(one) for one in (row.base_manifest, row.manifest))
        bundles = [decode_manifest(one) for one in (before, after)]
        base = join_base(before, [fleet.blobs.read(one.digest) for one in rest_layers(bundles[0])])
        made = apply_bytes(
            fleet.blobs.read(row.rest_digest), base, bytes.fromhex(hex_of(row.rest_target or ""))
        )
        layers = missing_layers(bundles[1], bundles[0])
        assert made == join_target(after, [fleet.blobs.read(one.digest) for one in layers])
        assert row.rest_bytes is not None
        assert row.rest_bytes < 0.5 * row.rest_target_bytes
        with fleet.database.read() as session:
            found = expected_transfer(session, row.base_manifest, row.manifest)
        model = 0 if row.state == "same" else model_layer(bundles[1]).size
        assert found is not None
        assert found.predicted_bytes == model + row.rest_bytes
        registry = OciRegistry(fleet.database, fleet.blobs)
        assert registry.blob("models/har", row.rest_digest).size == row.rest_bytes


def test_it_does_not_wait_for_ever(fleet: Fleet) -> None:
    fleet.version("1", models={"fp32": V1})
    fleet.version("2", models={"fp32": V2})
    fleet.add("a")
    run(fleet, "a", "1")
    rollout = fleet.start("2")
    fleet.rollouts.tick()
    assert fleet.states(rollout) == {"a": "pending"}
    fleet.clock.advance(seconds=SETTINGS.delta_wait_s)
    fleet.rollouts.tick()
    assert fleet.states(rollout) == {"a": "in_progress"}
    order = fleet.order("a")
    assert order is not None
    assert order.deltas == {}


def test_the_newest_version_has_them_before_anybody_rolls_it_out(
    fleet: Fleet, tmp_path: Path
) -> None:
    fleet.version("1", models={"fp32": V1})
    fleet.add("a")
    run(fleet, "a", "1")
    fleet.deltas.look()
    assert rows(fleet) == []
    fleet.version("2", models={"fp32": V2})
    fleet.deltas.look()
    assert [(row.base_version, row.state) for row in rows(fleet)] == [("1", "waiting")]
    make(fleet, tmp_path)
    fleet.version("3", models={"fp32": V2 + b"3"})
    fleet.clock.advance(seconds=KEPT.total_seconds() + 1)
    fleet.deltas.look()
    (kept,) = rows(fleet)
    assert (kept.base_version, kept.state) == ("1", "waiting"), "to the newest version alone"
    assert not list((tmp_path / "blobs").glob(f"**/{hex_of(digest_before(fleet, tmp_path))}"))


def digest_before(fleet: Fleet, tmp_path: Path) -> str:
    """The digest of the delta from 1 to 2: made again, it is the same."""
    from edgectl_protocol.names import digest_of
    from edgectl_server.deltas.encoder import encode

    return digest_of(encode(V1, V2).content)


def test_what_a_download_has_cost_is_kept(fleet: Fleet, tmp_path: Path) -> None:
    fleet.version("1", models={"fp32": V1})
    fleet.version("2", models={"fp32": V2})
    fleet.add("a")
    run(fleet, "a", "1")
    rollout = fleet.start("2")
    make(fleet, tmp_path)
    fleet.rollouts.tick()
    tell(fleet, "a", rollout, TransferReport(whole_bytes=len(V2), fetched_bytes=1234))
    fleet.rollouts.tick()
    with fleet.database.read() as session:
        row = session.get_one(RolloutDevice, (rollout, "a"))
        assert (row.whole_bytes, row.fetched_bytes) == (len(V2), 1234)
        (made,) = rows(fleet)
        assert row.predicted_bytes == (made.bytes or 0) + (made.rest_bytes or 0)
    tell(fleet, "a", rollout, TransferReport(whole_bytes=2**63 - 1, fetched_bytes=2**63 - 1))
    fleet.rollouts.tick()
    assert fleet.rollouts.devices(rollout, PAGE).items[0].device == "a"


def tell(fleet: Fleet, name: str, rollout: str, transfer: TransferReport) -> None:
    order = fleet.order(name)
    assert order is not None
    wanted = order.slots["har"]
    update = UpdateReport(
        order=order.counter,
        version=wanted.version,
        variant=wanted.candidates[0].variant,
        manifest=wanted.candidates[0].manifest,
        state=UpdateState.VERIFYING,
        rollout=rollout,
        transfer=transfer,
    )
    with fleet.database.read() as session:
        reported = msgspec.convert(session.get_one(Device, name).reported, ReportedState)
    slot = msgspec.structs.replace(reported.slots["har"], update=update)
    fleet.amend(name, order_counter=order.counter, order_nonce=order.nonce, slots={"har": slot})
    fleet.rollouts.touch([name])


def test_the_registry_has_them_and_their_indexes(fleet: Fleet, tmp_path: Path) -> None:
    old = RNG.bytes(300_000)
    fleet.version("1", models={"fp32": old})
    fleet.version("2", models={"fp32": old[:150_000] + RNG.bytes(100_000)})
    fleet.version("1", model="gearbox", models={"fp32": V1})
    fleet.add("a")
    fleet.manifests["1"] = fleet_manifests(fleet, "har", "1")
    run(fleet, "a", "1")
    assert plan_of(fleet, "har", "2")
    make(fleet, tmp_path)
    (row,) = rows(fleet)
    assert row.digest is not None
    assert row.chunk_index is not None
    registry = OciRegistry(fleet.database, fleet.blobs)
    assert registry.blob("models/har", row.digest).size == row.bytes
    index = registry.blob("models/har", row.chunk_index)
    assert index.content is not None
    assert len(index.content) == index.size == 64
    with pytest.raises(Exception, match="has no blob"):
        registry.blob("models/gearbox", row.digest)


def fleet_manifests(fleet: Fleet, name: str, version: str) -> dict[str, str]:
    with fleet.database.read() as session:
        found = session.execute(
            select(BundleVariant.variant, BundleVariant.manifest)
            .join(ModelVersion, ModelVersion.id == BundleVariant.version_id)
            .where(ModelVersion.model == name, ModelVersion.version == version)
        )
        return {variant: manifest for variant, manifest in found}  # noqa: C416 - rows


def plan_of(fleet: Fleet, name: str, version: str) -> bool:
    with fleet.database.write() as session:
        wanted = select(ModelVersion).where(
            ModelVersion.model == name, ModelVersion.version == version
        )
        return fleet.deltas.plan(session, session.scalars(wanted).one())
