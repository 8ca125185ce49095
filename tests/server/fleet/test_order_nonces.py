"""What a device says about an order is believed with the order's nonce, and not without."""

from edgectl_protocol.messages import ReportedState
from edgectl_protocol.update import UpdateState
from edgectl_server.ordering import NONCES_MAX, knows_order
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
