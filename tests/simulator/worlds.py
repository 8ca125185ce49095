"""Orders and devices for tests of the simulator."""

from datetime import UTC, datetime, timedelta

from edgectl_protocol.messages import Candidate, Order, SlotOrder, UpdatePolicy
from edgectl_simulator.course import Course
from edgectl_simulator.draws import Draws
from edgectl_simulator.memory import Memory
from edgectl_simulator.profiles import Profile, Traits

AT = datetime(2026, 1, 2, tzinfo=UTC)


def digest(number):
    return f"sha256:{number:064x}"


def wanted(version, candidates=1):
    return SlotOrder(
        model="har",
        version=str(version),
        candidates=tuple(
            Candidate(
                variant=f"v{number}",
                target=f"models/har/{version}/v{number}",
                manifest=digest(version * 10 + number),
            )
            for number in range(candidates)
        ),
    )


def make_order(counter, slots, *, withdrawn=(), forgive=(), device="sim-00001", **policy):
    return Order(
        device=device,
        counter=counter,
        nonce=f"{counter:032x}",
        issued_at=AT,
        expires_at=AT + timedelta(days=30),
        slots=slots,
        withdrawn=withdrawn,
        forgive=forgive,
        policy=UpdatePolicy(**{"observe_s": 0.1, "attempts_max": 3, **policy}),
    )


def make_course(memory=None, *, seed=1, **traits):
    memory = Memory() if memory is None else memory
    return memory, Course(memory, Profile(), Traits(**traits), Draws(seed, "sim-00001"))
