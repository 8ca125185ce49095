"""The device of the simulation on a real file system, in a process of its own that is killed.

The process is a fork: real machine, journal, store, downloader, serving and engine, with real
writes and real fsync; broker, trial and inference process are the simulation's imitations, so that
a life takes milliseconds. It tells through a pipe what must not be forgotten from then on, after it
is durable: what a SIGKILL leaves in the pipe is what a server would have heard. The next life knows
all of it (`Ledger`) and checks the same things as the simulation at each load, trial and boot.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from agent.core.made import make_order, slot_order
from agent.core.random_worlds import ACTIVITY, GEARBOX
from agent.core.simulation import World
from edgectl_agent.core import steps
from edgectl_agent.core.timing import Moment
from edgectl_agent.durable import RealDisk
from edgectl_protocol.messages import Order, Reason, UpdatePolicy
from edgectl_protocol.update import ENDED, UpdateEvent, UpdateState

FAILING, ERRING, UNLOADABLE = ACTIVITY[1], ACTIVITY[3], GEARBOX[1]
LIFE_S_MAX = 0.3
"""Longest life; about as long as two updates take."""
_STOP_S = 20.0


class Files(RealDisk):
    """The real disk, for the simulation's checks."""

    damaged = False
    operations = 0

    def read_located(self, path: str) -> bytes:
        return Path(path).read_bytes()


@dataclass
class Ledger:
    """What the device has told, and must not forget."""

    accepted: int = 0
    committed: dict[str, str] = field(default_factory=dict)
    blamed: set[str] = field(default_factory=set)
    state: str = "boot"
    kills: Counter[str] = field(default_factory=Counter)
    lives: int = 0
    updates: int = 0


class RealWorld(World):
    """One life."""

    def __init__(self, state: Path, ledger: Ledger, pipe: int) -> None:
        super().__init__(
            seed=ledger.lives,
            disk=Files(state),  # type: ignore[arg-type]
            committed=dict(ledger.committed),
            blamed=set(ledger.blamed),
            accepted=ledger.accepted,
        )
        self._pipe = pipe
        self.publish(*ACTIVITY, *GEARBOX)
        self.failing_trial = {FAILING.digest}
        self.erring = {ERRING.digest}
        self.unloadable = {UNLOADABLE.digest}

    def tell(self, **line: Any) -> None:
        os.write(self._pipe, json.dumps(line).encode() + b"\n")

    def live(self) -> None:
        """Obey one order after another until killed."""
        self.boot()
        self.tell(state="idle", accepted=self.machine.record.counter)
        while True:
            self.deliver(next_order(self.machine.record.counter + 1, self.moment()))
            self.tell(accepted=self.accepted)
            self.settle()

    def _learn(self) -> None:
        """What the life before has written and had no time to tell."""
        super()._learn()
        self.tell(known=[self.committed, sorted(self.blamed)])

    def announce(self, told: steps.Announce, moment: Moment) -> None:
        super().announce(told, moment)
        update = told.update
        line: dict[str, Any] = {"state": str(update.state)}
        if update.state is UpdateState.COMMITTED:
            line["committed"] = [update.slot, update.manifest]
        elif told.before is UpdateState.COMMITTED and told.event is UpdateEvent.ABORTED:
            line["withdrawn"] = update.slot
        if update.manifest in self.machine.record.rejected:
            line["blamed"] = update.manifest
        if update.state in ENDED:
            line["ended"] = True
        self.tell(**line)

    def _wait_for_disk(self, error: OSError) -> bool:
        raise AssertionError("the journal cannot be written") from error

    def refuse(self, reason: Reason, counter: int | None, moment: Moment) -> None:
        raise AssertionError(f"an order of the server was refused: {reason}")


def next_order(counter: int, moment: Moment) -> Order:
    """The same for everybody who knows the number; one of nine takes a model back."""
    chooser = random.Random(counter)
    more = {}
    if chooser.random() < 0.4:
        more["gearbox"] = slot_order([chooser.choice(GEARBOX)])
    bundles = [] if chooser.random() < 0.1 else [chooser.choice(ACTIVITY)]
    return make_order(
        counter,
        bundles,
        more=more,
        at=moment.wall,
        withdrawn=() if bundles else ("activity",),
        policy=UpdatePolicy(observe_s=2.0, retry_delay_s_max=10.0),
    )


def live_and_die(state: Path, ledger: Ledger, kill_after_s: float) -> None:
    """Fork a life, kill it after `kill_after_s`, and note what it told.

    Raises:
        AssertionError: it found that something must not be as it is, or ended by itself.
    """
    ours, theirs = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(ours)
        _child(state, ledger, theirs)
    os.close(theirs)
    ledger.lives += 1
    ledger.state = "boot"
    try:
        with _killed_at_the_end(process):
            _listen(ours, ledger, kill_after_s)
        _listen(ours, ledger, _STOP_S)
    finally:
        os.close(ours)
    ledger.kills[ledger.state] += 1


def _child(state: Path, ledger: Ledger, pipe: int) -> None:
    world = None
    try:
        world = RealWorld(state, ledger, pipe)
        world.live()
    except BaseException:  # noqa: BLE001 - told, and it ends at once
        text = traceback.format_exc(limit=-6)
        os.write(pipe, json.dumps({"broken": text[-3000:]}).encode() + b"\n")
    finally:
        os._exit(3)


@contextmanager
def _killed_at_the_end(process: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def _listen(pipe: int, ledger: Ledger, bound_s: float) -> None:
    """Take in what is told until the bound or the end of the pipe."""
    end, rest = monotonic() + bound_s, b""
    while (left_s := end - monotonic()) > 0:
        if not select.select([pipe], [], [], left_s)[0]:
            break
        content = os.read(pipe, 65536)
        if not content:
            break
        *lines, rest = (rest + content).split(b"\n")
        for line in lines:
            _note(ledger, json.loads(line))
    # A line is written at once, so that there is no half of one.
    assert not rest, rest


def _note(ledger: Ledger, told: dict[str, Any]) -> None:
    if "broken" in told:
        raise AssertionError(f"life {ledger.lives}, {ledger.state}:\n{told['broken']}")
    ledger.state = told.get("state", ledger.state)
    ledger.accepted = max(ledger.accepted, told.get("accepted", 0))
    ledger.updates += "ended" in told
    if "known" in told:
        ledger.committed, ledger.blamed = told["known"][0], set(told["known"][1])
    if "blamed" in told:
        ledger.blamed.add(told["blamed"])
    if "committed" in told:
        slot, manifest = told["committed"]
        ledger.committed[slot] = manifest
    if "withdrawn" in told:
        ledger.committed.pop(told["withdrawn"], None)


def kill_many(state: Path, kills: int, seed: int, ledger: Ledger | None = None) -> Ledger:
    """Kill so many lives on one state directory, each at a random microsecond of its life."""
    chooser = random.Random(seed)
    ledger = ledger or Ledger()
    for _ in range(kills):
        # Short lives are the boots, longer ones come to the middle and the end of updates.
        live_and_die(state, ledger, chooser.random() ** 2 * LIFE_S_MAX)
    return ledger
