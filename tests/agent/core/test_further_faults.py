"""More of what a device does when the world misbehaves; see test_device_faults.py."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import structs

from agent.core.imitations import FakeInference
from agent.core.made import MadeBundle, describe, make_bundle, make_order, simple_bundle, slot_order
from agent.core.simulated_disk import PowerCut
from agent.core.simulation import World
from edgectl_agent.core import steps
from edgectl_agent.core.machine import Machine
from edgectl_agent.core.record import EMPTY
from edgectl_agent.errors import KeyUnavailable
from edgectl_agent.inference.process import SlotHealth
from edgectl_agent.store import Store
from edgectl_protocol import topics
from edgectl_protocol.manifest import MODEL_FILES, decode_manifest, layer_by_file
from edgectl_protocol.messages import UpdatePolicy
from edgectl_protocol.names import digest_of

V1, V2 = simple_bundle("1"), simple_bundle("2")
GEARBOX, GEARBOX_2 = (simple_bundle(one, model="gearbox", length=1000) for one in "12")


def committed_v1(*bundles: MadeBundle) -> World:
    world = World()
    world.publish(V1, V2, GEARBOX, *bundles)
    world.boot()
    obey(world, 1, V1)
    assert world.running() == V1.digest
    world.announced.clear()
    world.reasons.clear()
    return world


def obey(world: World, counter: int, *bundles: MadeBundle, **order: object) -> None:
    world.deliver(make_order(counter, bundles, at=world.moment().wall, **order))  # type: ignore[arg-type]
    world.settle()


def test_a_file_that_is_gone_is_fetched_again() -> None:
    world = committed_v1()
    model = layer_by_file(decode_manifest(V1.manifest), MODEL_FILES["onnx"]).digest
    world.disk.damaged = True
    world.disk.unlink("blobs/sha256/" + model.removeprefix("sha256:"))
    world.disk.sync_directory("blobs/sha256")
    world.boot()
    world.settle()
    assert world.running() == V1.digest
    assert world.store.has(model)


def test_taking_back_a_failed_slot_does_not_stop_another() -> None:
    """The step under way belongs to one slot; what another one is told does not overtake it."""
    world = committed_v1()
    gone = {topic: world.broker.retained.pop(topic) for topic in list(V2.retained)}
    slots = {"gearbox": slot_order([GEARBOX])}
    policy = UpdatePolicy(attempts_max=9, observe_s=1, retry_delay_s_max=3600)
    world.deliver(make_order(2, [V2], at=world.moment().wall, policy=policy))
    while world.states()[-1:] != ["failed"]:
        world._run_job()
    world.deliver(make_order(3, [V2], more=slots, at=world.moment().wall, policy=policy))
    while world.states("gearbox")[-1:] != ["downloading"]:
        if not world.jobs:
            break
        world._run_job()
    assert world.states("gearbox")[-1] == "downloading"
    world.deliver(make_order(4, [V1], more=slots, at=world.moment().wall))
    world.settle()
    assert world.running("gearbox") == GEARBOX.digest
    assert world.machine.idle
    assert gone


def test_a_signed_manifest_outside_the_contract_is_rejected() -> None:
    manifest = msgspec.json.decode(V2.manifest)
    manifest["layers"] = manifest["layers"][:1]
    content = msgspec.json.encode(manifest)
    bad = structs_like(V2, content)
    world = committed_v1(bad)
    obey(world, 2, bad)
    assert world.reasons == ["bundle.malformed"]
    assert world.states()[-1] == "rejected"
    assert world.running() == V1.digest
    assert world.machine.record.rejected == (bad.digest,)


def structs_like(bundle: MadeBundle, manifest: bytes) -> MadeBundle:
    retained = {**bundle.retained, topics.chunk(digest_of(manifest), 0): manifest}
    return MadeBundle(bundle.config, manifest, bundle.blobs, retained)


def test_a_model_that_answers_nan_while_observed_is_rolled_back() -> None:
    world = committed_v1()

    class Answering(FakeInference):
        def health(self, slot: str) -> SlotHealth:
            seen = super().health(slot)
            bad = seen.manifest == V2.digest
            return structs.replace(seen, non_finite=1) if bad else seen

    world.serving._inference = Answering(world)
    world.serving.restore(fresh=True)
    world.inference = world.serving._inference
    obey(world, 2, V2)
    assert "observe.non_finite" in world.reasons
    assert world.states()[-2:] == ["rolling-back", "rolled-back"]
    assert world.running() == V1.digest
    assert world.machine.record.rejected == (V2.digest,)


def test_an_encrypted_bundle_without_its_key_waits(monkeypatch: object) -> None:
    """It is not blamed: it is tried again, and goes on when an order has brought the key."""
    world = committed_v1()
    right = Store.bundle
    missing = {V2.digest}

    def bundle(self: Store, slot: str, **wanted: str) -> object:
        if wanted["manifest"] in missing:
            raise KeyUnavailable("key.missing", "no order has brought its key")
        return right(self, slot, **wanted)

    monkeypatch.setattr(Store, "bundle", bundle)  # type: ignore[attr-defined]
    obey(world, 2, V2, policy=UpdatePolicy(attempts_max=2, observe_s=1))
    assert world.reasons == ["key.missing"] * 2
    assert world.running() == V1.digest
    assert world.machine.record.rejected == ()
    missing.clear()
    obey(world, 3, V2)
    assert world.running() == V2.digest


def test_two_bundles_of_one_content_are_told_apart_by_their_description() -> None:
    """The same model file under two versions is stored once, and each version is itself."""
    same = make_bundle(describe("activity", "7", "fp32"), V1.blobs[model_of(V1)], b"golden")
    world = committed_v1(same)
    obey(world, 2, same)
    assert world.running() == same.digest
    assert world.serving is not None


def model_of(bundle: MadeBundle) -> str:
    return layer_by_file(decode_manifest(bundle.manifest), MODEL_FILES["onnx"]).digest


@pytest.mark.parametrize("comes_back", [True, False])
def test_what_nobody_has_seen_serving_is_not_committed(comes_back: bool) -> None:
    world = committed_v1()
    world.deliver(make_order(2, [V2], policy=UpdatePolicy(observe_s=10.0)))
    world.settle(idle=False)
    assert world.machine.observed == {"activity": V2.digest}
    loaded = world.inference.serving.pop("activity")  # such as a disk that cannot be read now
    companions = dict(world.inference.companions)
    world.inference.companions.clear()
    world.machine._seen.clear()
    world.elapsed_s += 60
    world.feed(steps.Ticked())
    assert world.machine.observed, "its time is over, and it is waited for"
    if comes_back:
        world.inference.serving["activity"] = loaded
        world.inference.companions.update(companions)
    world.settle()
    assert world.running() == (V2 if comes_back else V1).digest
    assert ("observe.unseen" in world.reasons) != comes_back
    assert world.machine.record.rejected == (), "that is no fault of the model"


# ---------------------------------------------------------------- what fell back, and a power loss


def observed_v2() -> World:
    world = committed_v1()
    policy = UpdatePolicy(observe_s=600, retry_delay_s_max=10)
    world.deliver(make_order(2, [V2], at=world.moment().wall, policy=policy))
    world.settle(idle=False)
    assert world.machine.observed == {"activity": V2.digest}
    return world


def damaged_and_cut(number: int) -> World | None:
    """Damage what is observed, cut the power at an operation of the start that finds it.

    Return the device when it has come to rest; None where that start has fewer operations.
    """
    world = observed_v2()
    model = layer_by_file(decode_manifest(V2.manifest), MODEL_FILES["onnx"]).digest
    world.disk.flip("blobs/sha256/" + model.removeprefix("sha256:"))
    world.disk.cut_at = world.disk.operations + number
    try:
        world.boot()
    except PowerCut:
        world.disk.reboot("lost", world.random)
        world.boot()
        world.settle()
        world.check_ended()
        return world
    return None


def ends_with_v2() -> list[bool]:
    """Say for every operation whether what was damaged is running in the end."""
    ends: list[bool] = []
    while (world := damaged_and_cut(len(ends) + 1)) is not None:
        assert world.machine.record.rejected == (), "that is no fault of the model"
        ends.append(world.running() == V2.digest)
    return ends


def test_what_fell_back_just_before_a_power_loss_is_fetched_again() -> None:
    ends = ends_with_v2()
    assert len(ends) > 10
    assert all(ends)


def test_what_fell_back_and_is_not_looked_for_would_be_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Machine, "_fallen", lambda _: "")
    assert not all(ends_with_v2())


# ---------------------------------------------------------------- without the journal


def lose_journal(world: World) -> None:
    world.disk.damaged = True
    world.accepted = 0
    world.disk.write("journal", b"\xff" * 100)
    world.disk.sync("journal")
    world.disk.sync_directory(".")
    world.disk.reboot("lost", world.random)
    world.announced.clear()
    world.boot()
    assert world.machine.record == EMPTY


def test_without_its_journal_a_good_model_serves_on_and_is_observed() -> None:
    world = committed_v1()
    lose_journal(world)
    assert world.inference.serving["activity"].manifest == V1.digest
    tried = list(world.trials)
    obey(world, 1, V1)
    assert world.states() == ["committed"]
    assert world.running() == V1.digest
    assert world.trials == tried, "it was proved when it was switched to"


def without_journal_while_observed(fault: str) -> World:
    world = observed_v2()
    getattr(world, fault).add(V2.digest)
    lose_journal(world)
    obey(world, 2, V2)
    return world


@pytest.mark.parametrize(
    ("fault", "code", "rejected"),
    [("erring", "observe.error_rate", (V2.digest,)), ("unloadable", "observe.unseen", ())],
)
def test_without_its_journal_a_model_that_was_not_proved_goes_back(
    fault: str, code: str, rejected: tuple[str, ...]
) -> None:
    world = without_journal_while_observed(fault)
    assert world.states() == ["rolling-back", "rolled-back"]
    assert world.reasons[-1] == code
    assert world.machine.record.rejected == rejected
    assert world.running() == V1.digest
    assert world.inference.serving["activity"].manifest == V1.digest


@pytest.mark.parametrize("fault", ["erring", "unloadable"])
def test_what_runs_without_a_record_and_is_believed_would_be_found(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgectl_agent.core.coupling.unknown", lambda *_: ())
    try:
        world = without_journal_while_observed(fault)
    except AssertionError:  # pointer and process differ
        return
    assert world.running() == V2.digest


@pytest.mark.parametrize("wanted", [("activity", "gearbox"), ("activity",)])
def test_without_the_journal_what_was_switched_together_goes_back_together(
    wanted: tuple[str, ...],
) -> None:
    """Where a half of it is not wanted any more, neither half is touched."""
    pair = ("activity", "gearbox")
    bundles = {"activity": (V1, V2), "gearbox": (GEARBOX, GEARBOX_2)}
    world = World(coupled=pair)
    world.publish(V1, V2, GEARBOX, GEARBOX_2)
    world.boot()
    for number, observe_s in ((1, 1.0), (2, 600.0)):
        slots = {slot: slot_order([bundles[slot][number - 1]]) for slot in pair}
        policy = UpdatePolicy(observe_s=observe_s)
        order = make_order(number, [], at=world.moment().wall, more=slots, policy=policy)
        world.deliver(structs.replace(order, coupled=(pair,)))
        world.settle(idle=number == 1)
    assert set(world.machine.observed) == set(pair)
    world.erring.add(V2.digest)
    lose_journal(world)
    slots = {slot: slot_order([bundles[slot][1]]) for slot in wanted}
    world.deliver(make_order(2, [], at=world.moment().wall, more=slots))
    world.settle()
    back = wanted == pair
    assert world.running("activity") == (V1 if back else V2).digest
    assert world.running("gearbox") == (GEARBOX if back else GEARBOX_2).digest
    assert world.machine.record.rejected == ((V2.digest,) if back else ())
