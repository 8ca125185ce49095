"""What a device says about an order is believed with the order's nonce, and not without."""

from edgectl_protocol.messages import ReportedState
from edgectl_protocol.update import UpdateState
from edgectl_server.order_answers import knows_order
from edgectl_server.ordering import NONCES_MAX
from edgectl_server.storage.tables import Device
from server.fleet.test_rollout_service import Fleet, fleet  # noqa: F401  # fixture


def test_success_is_believed_only_with_the_nonce_of_the_order(fleet: Fleet) -> None:  # noqa: F811
    fleet.add("pi-1")
    rollout = fleet.start()
    fleet.rollouts.tick()
    for state in (UpdateState.COMMITTED, UpdateState.ROLLED_BACK, UpdateState.REJECTED):
        fleet.report("pi-1", state, nonce="0" * 32)
        fleet.rollouts.tick()
        assert fleet.states(rollout) == {"pi-1": "in_progress"}
    fleet.report("pi-1", UpdateState.COMMITTED)
    fleet.rollouts.tick()
    assert fleet.states(rollout) == {"pi-1": "committed"}


def test_every_order_has_another_nonce_and_the_newest_are_known(fleet: Fleet) -> None:  # noqa: F811
    fleet.add("pi-1")
    nonces: dict[int, str] = {}
    for _ in range(NONCES_MAX + 5):
        with fleet.database.write() as session:
            fleet.ordering.issue(session, "pi-1")
        order = fleet.order("pi-1")
        assert order is not None
        nonces[order.counter] = order.nonce
    assert len(set(nonces.values())) == NONCES_MAX + 5
    with fleet.database.read() as session:
        device = session.get_one(Device, "pi-1")
    assert len(device.order_nonces) == NONCES_MAX
    newest = max(nonces)
    for counter, nonce in nonces.items():
        known = counter > newest - NONCES_MAX
        assert knows_order(device, counter, nonce) is (True if known else None)
        assert knows_order(device, counter, "0" * 32) is (False if known else None)
    assert knows_order(device, newest + 1, nonces[newest]) is False
    assert knows_order(device, newest, None) is False


def test_a_nonce_of_too_long_ago_is_no_proof(fleet: Fleet) -> None:  # noqa: F811
    """Before a backup was restored, perhaps: what cannot be checked is not believed."""
    fleet.add("pi-1")
    rollout = fleet.start()
    fleet.rollouts.tick()
    fleet.report("pi-1", UpdateState.COMMITTED)
    with fleet.database.write() as session:
        device = session.get_one(Device, "pi-1")
        assert ReportedState(**{**device.reported, "slots": {}}).order_counter == 1
        device.order_nonces = {"7": "7" * 32}
    fleet.rollouts.tick()
    assert fleet.states(rollout) == {"pi-1": "in_progress"}


def test_an_order_that_passes_for_a_replay_is_numbered_anew(fleet: Fleet) -> None:  # noqa: F811
    """After a restored backup a device may report the order that it has only when ours is out."""
    fleet.add("pi-1")
    rollout = fleet.start()
    fleet.rollouts.tick()
    ours = fleet.order("pi-1")
    assert ours is not None
    fleet.report("pi-1", UpdateState.COMMITTED, nonce="0" * 32)  # of another order, the same number
    fleet.rollouts.tick()
    anew = fleet.order("pi-1")
    assert anew is not None
    assert (anew.counter, anew.slots) == (ours.counter + 1, ours.slots)
    assert fleet.states(rollout) == {"pi-1": "in_progress"}
    fleet.rollouts.touch(["pi-1"])
    fleet.rollouts.tick()
    assert fleet.order("pi-1") == anew  # once is enough
    fleet.report("pi-1", UpdateState.COMMITTED)
    fleet.rollouts.tick()
    assert fleet.states(rollout) == {"pi-1": "committed"}


def test_a_number_that_leaves_no_room_is_not_followed(fleet: Fleet) -> None:  # noqa: F811
    fleet.add("pi-1")
    fleet.start()
    fleet.rollouts.tick()
    order = fleet.order("pi-1")
    fleet.report("pi-1", UpdateState.COMMITTED)
    with fleet.database.write() as session:
        device = session.get_one(Device, "pi-1")
        device.reported = {**device.reported, "order_counter": 2**63 - 1, "order_nonce": "0" * 32}
    fleet.rollouts.touch(["pi-1"])
    fleet.rollouts.tick()
    assert fleet.order("pi-1") == order
