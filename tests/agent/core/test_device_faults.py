"""What a device does when the world misbehaves: one fault a test, on the simulated device."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from msgspec import structs

from agent.core.made import START, MadeBundle, make_order, simple_bundle, slot_order
from agent.core.simulation import World, damage_model
from edgectl_agent.core import steps
from edgectl_agent.serving import UNREADABLE_MAX
from edgectl_protocol import topics
from edgectl_protocol.manifest import MODEL_FILES, decode_manifest, layer_by_file
from edgectl_protocol.messages import Reason, SeedRequest, UpdatePolicy
from edgectl_protocol.samples import SamplePolicy

V1 = simple_bundle("1")
V2 = simple_bundle("2")
V3 = simple_bundle("3")
V2_EXACT = simple_bundle("2", variant="fp32-exact")
OTHER = simple_bundle("1", model="gearbox", length=1000)
DIED = Reason(code="inference.died", detail="killed by SIGSEGV")
INSTALL = ["refreshing", "downloading", "verifying", "trial", "activating", "observing"]


def world_with(*bundles: MadeBundle) -> World:
    world = World()
    world.publish(V1, V2, V3, V2_EXACT, OTHER, *bundles)
    world.boot()
    return world


def obey(world: World, counter: int, *bundles: MadeBundle, **order: object) -> None:
    world.deliver(make_order(counter, bundles, at=world.moment().wall, **order))  # type: ignore[arg-type]
    world.settle()


def committed_v1() -> World:
    world = world_with()
    obey(world, 1, V1)
    assert world.running() == V1.digest
    assert world.states() == [*INSTALL, "committed"]
    world.announced.clear()
    world.reasons.clear()
    return world


def model_digest(bundle: MadeBundle) -> str:
    return layer_by_file(decode_manifest(bundle.manifest), MODEL_FILES["onnx"]).digest


# ---------------------------------------------------------------- the disk


def test_a_full_disk_is_a_failure_that_is_tried_again_and_the_old_model_serves() -> None:
    world = committed_v1()
    world.disk.capacity = world.disk.capacity - world.disk.free_bytes() + 50_000
    obey(world, 2, V2, policy=UpdatePolicy(attempts_max=3, observe_s=1))
    assert world.reasons == ["disk.full"] * 3
    assert world.states()[-1] == "failed"
    assert world.running() == V1.digest
    assert "activity" in world.inference.serving
    world.disk.capacity = 1 << 40
    obey(world, 3, V2)
    assert world.running() == V2.digest
    assert V2.digest not in world.machine.record.rejected


def test_a_disk_that_fills_up_under_the_journal_makes_updates_wait() -> None:
    world = committed_v1()
    world.disk.capacity -= world.disk.free_bytes()  # until somebody makes room
    obey(world, 2, V2)
    assert world.running() == V2.digest


def test_a_flipped_bit_is_found_before_use_and_the_file_is_fetched_again() -> None:
    world = committed_v1()
    path = damage_model(world)
    world.boot()
    assert world.inference.serving == {}  # there is no previous model to fall back to
    world.settle()
    assert world.running() == V1.digest
    assert world.disk.size(path) == 200_000
    assert "downloading" in world.states()


def test_a_flipped_bit_falls_back_to_the_previous_model_meanwhile() -> None:
    world = committed_v1()
    obey(world, 2, V2)
    blob = model_digest(V2).removeprefix("sha256:")
    world.disk.flip(f"blobs/sha256/{blob}", 150_000)
    world.broker.up = False
    world.boot()
    assert world.inference.serving["activity"].manifest == V1.digest
    world.broker.up = True
    world.settle()
    assert world.running() == V2.digest


def test_a_file_that_cannot_be_read_for_long_is_fetched_again() -> None:
    """A worn-out sector does not heal: waiting for it would be for ever."""
    world = committed_v1()
    path = f"blobs/sha256/{model_digest(V1).removeprefix('sha256:')}"
    world.disk.wear_out(path)
    world.boot()
    assert world.serving.silent["activity"].code == "disk.error"
    for _ in range(UNREADABLE_MAX - 2):
        assert world.serving.restore(fresh=False) == []
    assert world.running() == V1.digest, "it may be a moment's trouble"
    world.settle()
    assert "downloading" in world.states()
    assert world.running() == V1.digest
    assert world.disk.size(path) == 200_000
    assert world.inference.serving["activity"].manifest == V1.digest
    assert world.serving.silent == {}


def test_a_file_that_can_be_read_again_stays() -> None:
    world = committed_v1()
    path = f"blobs/sha256/{V1.digest.removeprefix('sha256:')}"
    for _ in range(3):
        world.disk.wear_out(path)
        for _ in range(UNREADABLE_MAX - 1):
            assert world.serving.restore(fresh=False) == []
            assert set(world.serving.silent) == {"activity"}
        world.disk.heal(path)
        assert world.serving.restore(fresh=False) == []
        assert world.serving.silent == {}


def test_a_bit_flipped_between_download_and_use_is_found_in_verifying() -> None:
    world = committed_v1()
    world.deliver(make_order(2, [V2]))
    flipped = False
    while world.jobs:
        if isinstance(world.jobs[0], steps.Verify) and not flipped:
            blob = model_digest(V2).removeprefix("sha256:")
            world.disk.flip(f"blobs/sha256/{blob}")
            flipped = True
        world._run_job()
    assert flipped
    assert world.reasons == ["store.damaged"]
    world.settle()
    assert world.running() == V2.digest


def test_garbage_is_collected_and_what_is_needed_is_kept() -> None:
    world = committed_v1()
    obey(world, 2, V2)
    obey(world, 3, V3)
    names = {path.rpartition("/")[2] for path in world.disk.paths() if path.startswith("blobs/")}
    kept = {digest.removeprefix("sha256:") for one in (V2, V3) for digest in one.blobs}
    assert names == kept
    assert not [path for path in world.disk.paths() if path.startswith("partial/")]


# ---------------------------------------------------------------- the broker


def alter_chunk(world: World, bundle: MadeBundle, number: int) -> str:
    topic = topics.chunk(model_digest(bundle), number)
    world.broker.retained[topic] = b"x" + world.broker.retained[topic][1:]
    return topic


def test_an_altered_chunk_is_refused_and_named_and_the_old_model_serves() -> None:
    world = committed_v1()
    alter_chunk(world, V2, 2)
    obey(world, 2, V2, policy=UpdatePolicy(attempts_max=2, observe_s=1))
    assert world.reasons == ["transfer.chunk_altered"] * 2
    reason = world.machine.record.updates["activity"].reason
    assert reason is not None
    assert f"chunk 2 of {model_digest(V2)}" in reason.detail
    assert world.running() == V1.digest
    # The transport is at fault and not the model: another order may succeed.
    assert V2.digest not in world.machine.record.rejected
    requests = [msgspec.json.decode(one, type=SeedRequest) for one in world.broker.seeds]
    assert requests
    assert all(one.refused == (2,) and one.chunks == (2,) for one in requests)
    world.publish(V2)
    obey(world, 3, V2)
    assert world.running() == V2.digest


def test_a_chunk_that_the_server_puts_right_is_taken() -> None:
    world = committed_v1()
    topic = alter_chunk(world, V2, 1)
    right = V2.retained[topic]
    world.broker.on_seed = lambda _payload: world.broker.retained.update({topic: right})
    obey(world, 2, V2)
    assert world.running() == V2.digest
    assert world.reasons == []


def test_missing_chunks_are_asked_for() -> None:
    world = committed_v1()
    gone = {topic: world.broker.retained.pop(topic) for topic in list(V2.retained)}
    world.broker.on_seed = lambda _payload: world.broker.retained.update(gone)
    obey(world, 2, V2)
    assert world.running() == V2.digest


def test_chunks_that_never_come_are_a_failure() -> None:
    world = committed_v1()
    world.broker.retained.clear()
    obey(world, 2, V2, policy=UpdatePolicy(attempts_max=1, observe_s=1))
    assert world.reasons == ["transfer.stalled"]
    assert world.running() == V1.digest


def test_a_cleared_topic_is_no_chunk() -> None:
    world = committed_v1()
    world.broker.disturb = lambda _topic, payload: [b"", payload, b""]
    obey(world, 2, V2)
    assert world.running() == V2.digest


def test_metadata_that_cannot_be_fetched_is_tried_again() -> None:
    world = committed_v1()
    world.metadata_failures = 2
    obey(world, 2, V2)
    assert world.running() == V2.digest
    assert world.reasons.count("trust.unreachable") >= 2
    attempts = world.machine.record.updates["activity"].attempt
    assert attempts == 3


# ---------------------------------------------------------------- the model


def test_a_rejected_digest_is_remembered_and_the_next_candidate_is_tried() -> None:
    world = committed_v1()
    world.failing_trial = {V2.digest}
    obey(world, 2, V2, V2_EXACT)
    assert world.running() == V2_EXACT.digest
    assert world.machine.record.rejected == (V2.digest,)
    world.trials.clear()
    obey(world, 3, V1)
    obey(world, 4, V2, V2_EXACT)
    assert V2.digest not in world.trials


def test_all_candidates_rejected_is_an_answer_and_forgiving_asks_again() -> None:
    world = committed_v1()
    world.failing_trial = {V2.digest, V2_EXACT.digest}
    obey(world, 2, V2, V2_EXACT)
    assert world.states()[-1] == "rejected"
    assert world.running() == V1.digest
    tried = len(world.trials)
    obey(world, 3, V2, V2_EXACT, rollout="again")
    assert len(world.trials) == tried
    update = world.machine.slots()["activity"].update
    assert update is not None
    assert (update.order, update.rollout, str(update.state)) == (3, "again", "rejected")
    world.failing_trial = set()
    obey(world, 4, V2, V2_EXACT, forgive=[V2.digest])
    assert world.running() == V2.digest
    assert world.machine.record.rejected == (V2_EXACT.digest,)


def test_an_order_of_a_remembered_digest_is_answered_without_fetching() -> None:
    world = committed_v1()
    world.failing_trial = {V2.digest}
    obey(world, 2, V2)
    obey(world, 3, V3)
    world.announced.clear()
    world.broker.retained.clear()
    obey(world, 4, V2)
    assert world.running() == V3.digest
    assert world.states() == ["refreshing", "rejected"]
    assert world.reasons[-1] == "update.remembered"


def test_a_model_that_errs_under_observation_is_rolled_back_and_remembered() -> None:
    world = committed_v1()
    world.erring = {V2.digest}
    obey(world, 2, V2)
    assert world.states()[-2:] == ["rolling-back", "rolled-back"]
    assert world.running() == V1.digest
    assert world.inference.serving["activity"].manifest == V1.digest
    assert "observe.error_rate" in world.reasons
    assert world.machine.record.rejected == (V2.digest,)


def test_the_inference_process_dying_under_observation_rolls_back() -> None:
    world = committed_v1()
    world.deliver(make_order(2, [V2], policy=UpdatePolicy(observe_s=60)))
    world.settle(idle=False)
    assert world.states()[-1] == "observing"
    world.feed(steps.InferenceDied(reason=DIED))
    world.settle()
    assert world.running() == V1.digest
    assert "inference.died" in world.reasons
    assert world.machine.record.rejected == (V2.digest,)


@pytest.mark.parametrize(("suspect", "ends"), [(V2, "rolled-back"), (OTHER, "committed")])
def test_only_who_was_computing_is_blamed_for_a_death(suspect: MadeBundle, ends: str) -> None:
    world = committed_v1()
    world.deliver(make_order(2, [V2], policy=UpdatePolicy(observe_s=60)))
    world.settle(idle=False)
    world.feed(steps.InferenceDied(reason=DIED, suspects=(suspect.digest,)))
    world.settle()
    assert world.states()[-1] == ends


def test_a_bundle_that_is_something_else_than_ordered_is_rejected() -> None:
    world = committed_v1()
    order = make_order(2, [V2])
    order.slots["activity"] = msgspec.structs.replace(order.slots["activity"], version="9")
    world.deliver(order)
    world.settle()
    assert "bundle.mismatch" in world.reasons
    assert world.running() == V1.digest


# ---------------------------------------------------------------- orders


@pytest.mark.parametrize(
    ("order", "code"),
    [
        (make_order(2, [V2], device="pi-2"), "order.device"),
        (make_order(1, [V2]), "order.replayed"),
        (make_order(0, [V2]), "order.replayed"),
        (make_order(2, [V2], at=START - timedelta(days=8)), "order.expired"),
        (make_order(2, [V2], at=START + timedelta(days=3)), "order.clock"),
    ],
    ids=["device", "same number", "older", "expired", "from the future"],
)
def test_an_order_that_is_not_obeyed(order: object, code: str) -> None:
    world = committed_v1()
    world.feed(steps.OrderArrived(order=order))  # type: ignore[arg-type]
    world.settle()
    assert [one.code for one in world.refused] == [code]
    assert world.refusal == (code, order.counter)  # type: ignore[attr-defined]
    assert world.running() == V1.digest
    assert world.machine.record.counter == 1
    assert world.announced == []


def test_an_order_of_which_an_older_agent_has_read_less_is_no_other() -> None:
    """It knew nothing of sampling, and has kept the order without; it comes again as it is."""
    world = committed_v1()
    known = world.machine.record.order
    assert known is not None
    whole = structs.replace(known, samples={"activity": SamplePolicy(bytes_per_day=1000)})
    before = world.machine.record.updates
    world.feed(steps.OrderArrived(order=whole))
    world.settle()
    assert world.refused == []
    assert world.machine.record.order == whole
    assert world.machine.record.updates == before, "nothing begins anew"
    assert world.running() == V1.digest
    other = structs.replace(whole, nonce="f" * 32)
    world.feed(steps.OrderArrived(order=structs.replace(other, samples={})))
    world.settle()
    assert [one.code for one in world.refused] == ["order.replayed"]
    assert world.machine.record.order == whole


def test_numbers_count_as_long_as_the_key_of_the_newest_order() -> None:
    """Who had the key may have numbered as far as numbers go; that ends when it is taken out."""
    world = committed_v1()
    world.feed(steps.OrderArrived(order=make_order(2**63 - 1, [V2]), key="old", keys=("old",)))
    world.settle()
    assert world.running() == V2.digest
    both = steps.OrderArrived(order=make_order(3, [V1]), key="new", keys=("new", "old"))
    world.feed(both)
    world.settle()
    assert [one.code for one in world.refused] == ["order.replayed"]
    assert world.running() == V2.digest
    world.feed(structs.replace(both, keys=("new",)))
    world.settle()
    assert world.running() == V1.digest
    assert (world.machine.record.counter, world.machine.record.order_key) == (3, "new")
    world.accepted = 3  # the world believes that numbers only grow
    world.boot()
    world.feed(steps.OrderArrived(order=make_order(2, [V2]), key="new", keys=("new",)))
    world.settle()
    assert [one.code for one in world.refused][-1] == "order.replayed"
    assert world.running() == V1.digest


@pytest.mark.parametrize("again", [1, 2], ids=["the same once more", "a newer one"])
def test_an_accepted_order_ends_a_refusal(again: int) -> None:
    world = committed_v1()
    accepted = world.machine.record.order
    assert accepted is not None
    world.feed(steps.OrderRefused(reason=Reason(code="order.signature", detail="a stranger's")))
    assert world.refusal == ("order.signature", None)
    world.deliver(accepted if again == 1 else make_order(2, [V1], at=world.moment().wall))
    assert world.refusal is None


def test_the_same_order_once_more_says_and_does_nothing() -> None:
    world = committed_v1()
    assert world.machine.record.order is not None
    before = world.disk.operations
    world.deliver(world.machine.record.order)
    world.settle()
    assert world.refused == []
    assert world.disk.operations == before


def test_a_slot_that_is_not_named_keeps_what_is_committed() -> None:
    world = committed_v1()
    obey(world, 2)
    assert world.running() == V1.digest
    assert world.announced == []


def test_a_withdrawn_slot_goes_back_once_and_can_be_filled_again() -> None:
    world = committed_v1()
    obey(world, 2, V2)
    obey(world, 3, withdrawn=["activity"])
    assert world.states()[-3:] == ["committed", "rolling-back", "rolled-back"]
    assert world.running() == V1.digest
    assert world.reasons[-1] == "update.withdrawn"
    assert world.machine.record.rejected == ()
    # It stays said, and is done.
    obey(world, 4, OTHER, slot="gearbox", withdrawn=["activity"])
    assert world.running() == V1.digest
    assert world.running("gearbox") == OTHER.digest
    obey(world, 5, V2, withdrawn=["activity"])
    assert world.running() == V2.digest, "what is ordered counts"


def test_a_withdrawn_first_version_leaves_the_slot_empty() -> None:
    world = committed_v1()
    obey(world, 2, withdrawn=["activity", "never-seen"])
    assert world.running() is None
    assert "activity" not in world.inference.serving
    obey(world, 3, V1)
    assert world.running() == V1.digest


def test_a_slot_is_withdrawn_after_what_another_slot_does() -> None:
    world = committed_v1()
    slots = {"gearbox": slot_order([OTHER])}
    world.deliver(make_order(2, [], more=slots, at=world.moment().wall))
    world.settle(idle=False)
    assert world.states("gearbox")[-1] == "observing"
    obey(world, 3, more=slots, withdrawn=["activity"])
    assert world.running() is None
    assert world.running("gearbox") == OTHER.digest
    assert world.states("gearbox")[-1] == "committed"


def test_an_order_of_what_runs_is_accepted_and_does_nothing() -> None:
    world = committed_v1()
    obey(world, 2, V1)
    assert world.announced == []
    assert world.machine.record.counter == 2


def test_an_order_that_expires_while_the_update_waits_installs_nothing() -> None:
    world = committed_v1()
    world.metadata_failures = 1
    order = make_order(2, [V2], valid=timedelta(seconds=world.elapsed_s + 0.5))
    world.deliver(order)
    world.settle()
    assert world.states()[-1] == "failed"
    assert world.reasons[-1] == "order.expired"
    assert world.running() == V1.digest


@pytest.mark.parametrize("turns", range(8))
def test_a_newer_order_takes_an_update_back_at_every_state(turns: int) -> None:
    world = committed_v1()
    world.deliver(make_order(2, [V2], policy=UpdatePolicy(observe_s=60)))
    for _ in range(turns):
        if world.jobs:
            world._run_job()
    world.deliver(make_order(3, [V1]))
    world.settle()
    assert world.running() == V1.digest
    assert V2.digest not in world.machine.record.rejected
    assert world.machine.idle
    world.deliver(make_order(4, [V2]))
    world.settle()
    assert world.running() == V2.digest


def test_two_slots_are_taken_one_after_another() -> None:
    world = world_with()
    order = make_order(1, [V1], more={"gearbox": slot_order([OTHER])})
    world.deliver(order)
    world.settle()
    assert world.running("activity") == V1.digest
    assert world.running("gearbox") == OTHER.digest
    slots = [slot for slot, *_ in world.announced]
    assert slots == sorted(slots)


def test_a_slot_that_waits_does_not_hold_up_the_other() -> None:
    world = world_with()
    chunk = topics.chunk(V1.digest, 0)
    del world.broker.retained[chunk]
    world.deliver(make_order(1, [V1], more={"gearbox": slot_order([OTHER])}))
    world.settle()
    assert world.running("gearbox") == OTHER.digest
    assert world.running("activity") is None
    world.broker.retained[chunk] = V1.retained[chunk]
    obey(world, 2, V1, more={"gearbox": slot_order([OTHER])})
    assert world.running("activity") == V1.digest


def test_a_stop_in_good_order_is_no_resume() -> None:
    world = committed_v1()
    world.deliver(make_order(2, [V2]))
    for _ in range(12):
        world.engine.stop(world.moment())
        world.boot()
        assert world.machine.record.updates["activity"].resumes == 0
    world.settle()
    assert world.running() == V2.digest


def test_an_update_that_kills_the_agent_is_given_up() -> None:
    world = committed_v1()
    world.deliver(make_order(2, [V2]))
    while not isinstance(world.jobs[0], steps.Trial):
        world._run_job()
    for _ in range(7):
        world.boot()  # dies in the trial, each time
    world.settle()
    assert "update.resumes" in world.reasons
    assert world.running() == V1.digest
    assert world.machine.record.rejected == (V2.digest,)
