"""One device in one process: the real machine, journal, store, transfer, serving and engine on a
simulated disk, in simulated time; only broker, trial and inference process are imitations.

`World` outlives the power cuts and knows what the device must not forget. It checks, at each load,
trial and boot:

1. what is loaded or tried is, byte for byte, what was signed;
2. what was found bad is neither loaded nor tried again, unless it was forgiven;
3. a device on which a model was committed serves one after every boot;
4. what was committed is what runs, until another update goes further;
5. an accepted order's number is never forgotten;
6. slots that are coupled run one version, or nothing;
7. nothing is begun to be switched in a hold, or outside of the windows.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from agent.core.imitations import Broker, FakeDeltaProcess, FakeInference, FakeTransport
from agent.core.made import START, MadeBundle
from agent.core.simulated_disk import PowerCut, SimulatedDisk, Survival
from edgectl_agent.bundle import Bundle
from edgectl_agent.core import steps, windows
from edgectl_agent.core.machine import Machine
from edgectl_agent.core.record import Floor, Update
from edgectl_agent.core.timing import Moment
from edgectl_agent.core.transfer import TransferLimits
from edgectl_agent.downloader import Downloader
from edgectl_agent.errors import StepFailed
from edgectl_agent.journal import Journal
from edgectl_agent.keeper import RESTORE_AGAIN_S
from edgectl_agent.patching import Patcher
from edgectl_agent.performer import Engine, Performer
from edgectl_agent.serving import Serving
from edgectl_agent.store import Store
from edgectl_agent.trial import TrialResult, Verdict
from edgectl_protocol.manifest import (
    CONFIG_FILE,
    GOLDEN_FILE,
    MODEL_FILES,
    decode_manifest,
    layer_by_file,
)
from edgectl_protocol.messages import Order, Reason, TrialReport, encode
from edgectl_protocol.transfers import TransferReport
from edgectl_protocol.update import ENDED, UpdateEvent, UpdateState

TURNS_MAX = 3000
KEPT_MAX = 10
"""How often what does not serve is tried again before it is left."""
BACK = frozenset({UpdateState.ROLLING_BACK, UpdateState.ROLLED_BACK})


@dataclass
class World:
    """Everything around the device, and the device's lives one after another."""

    seed: int = 0
    disk: SimulatedDisk = field(default_factory=SimulatedDisk)
    broker: Broker = field(default_factory=Broker)
    bundles: dict[str, MadeBundle] = field(default_factory=dict)
    transfers: list[TransferReport] = field(default_factory=list)
    failing_trial: set[str] = field(default_factory=set)
    unloadable: set[str] = field(default_factory=set)
    erring: set[str] = field(default_factory=set)
    differing: set[str] = field(default_factory=set)
    """Whose answers to copies are others than those of what serves."""
    roomy: bool = True
    """Whether memory holds two models of a slot."""
    metadata_failures: int = 0
    elapsed_s: float = 0.0
    boots: int = 0
    blamed: set[str] = field(default_factory=set)
    committed: dict[str, str] = field(default_factory=dict)
    accepted: int = 0
    transitions: set[tuple[UpdateState, UpdateEvent, UpdateState]] = field(default_factory=set)
    announced: list[tuple[str, str, UpdateState, UpdateEvent]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    refused: list[Reason] = field(default_factory=list)
    refusal: tuple[str, int | None] | None = None
    """Code and counter of what is refused now."""
    trials: list[str] = field(default_factory=list)
    answers: list[Reason | None] = field(default_factory=list)
    limits: TransferLimits | None = None
    cancellations: int = 0
    held: Reason | None = None
    coupled: tuple[str, ...] = ()
    """Slots that every order couples, and asks the same version of."""
    skew_s: float = 0.0
    """By how much the device's clock is ahead."""

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def publish(self, *bundles: MadeBundle) -> None:
        for bundle in bundles:
            self.bundles[bundle.digest] = bundle
            self.broker.retained.update(bundle.retained)

    # ------------------------------------------------------------ the device's lives

    def boot(self) -> None:
        """Assemble the device as the supervisor does, and bring it up."""
        self.boots += 1
        self.jobs: deque[steps.Step | steps.Collect | steps.Release] = deque()
        self.cancelled: set[int] = set()
        self.inference = FakeInference(self)
        store = Store(self.disk)
        self.store = store
        journal = Journal(self.disk)
        machine = Machine("pi-1", journal.load(), store.pointers(), held=self.held)
        self.machine = machine
        self.serving = Serving(store, self.inference)
        assert machine.record.counter >= self.accepted, "an accepted order was forgotten"
        assert self.blamed <= set(machine.record.rejected), "a bad digest was forgotten"
        self._learn()
        self.patcher = Patcher(
            Downloader(
                "pi-1",
                store,
                FakeTransport(self.broker, self),
                seal=encode,
                elapsed=lambda: self.elapsed_s,
                limits=self.limits,
                checkpoint_chunks=2,
            ),
            store,
            process=lambda: FakeDeltaProcess(self.disk),
        )
        performer = Performer(
            metadata=self,
            patcher=self.patcher,
            store=store,
            serving=self.serving,
            trial=self._try,
            progress=lambda _slot, _progress: None,
        )
        self.performer = performer
        self.engine = Engine(
            machine,
            journal,
            outlet=self,
            submit=self.jobs.append,
            cancel=self._cancel,
            give_up=self._give_up,
            answer=lambda _request, reason: self.answers.append(reason),
            wait_for_disk=self._wait_for_disk,
        )
        changes = self.serving.restore(fresh=True, leave=machine.unsettled)
        self._check_boot()
        self.engine.start(self.moment(), self.random.random())
        for change in changes:
            self.feed(change)

    def _learn(self) -> None:
        """What reached the disk holds, also where the power went before anybody was told."""
        self.blamed.update(self.machine.record.rejected)
        for slot, update in self.machine.record.updates.items():
            if update.state is UpdateState.COMMITTED:
                self.committed[slot] = update.manifest
            elif update.aborted or (
                update.state in BACK and self.committed.get(slot) == update.manifest
            ):
                self.committed.pop(slot, None)

    def feed(self, event: steps.Event) -> None:
        self.engine.feed(event, self.moment(), self.random.random())
        self.accepted = max(self.accepted, self.machine.record.counter)

    def deliver(self, order: Order) -> None:
        """The order's topic is retained: it comes after every boot."""
        self.blamed -= set(order.forgive) if order.counter > self.accepted else set()
        self.feed(steps.OrderArrived(order=order))

    def hold(self, held: Reason | None) -> None:
        self.held = held
        self.feed(steps.HoldChanged(held=held))

    def settle(self, *, idle: bool = True) -> None:
        """Let everything happen that is going to; with `idle` False only what needs no waiting."""
        for _ in range(TURNS_MAX):
            if not self.turn(idle=idle) and not (idle and self._keep()):
                break
        else:
            raise AssertionError(f"seed {self.seed}: it does not settle: {self.announced[-8:]}")
        self._check_serving()

    def turn(self, *, idle: bool = True) -> bool:
        """Let the next thing happen, if one is left; with `idle` also what must be waited for."""
        if self.jobs:
            self._run_job()
            return True
        for slot in (*self.machine.observed, *self.machine.shadowed):
            seen = self.serving.health(slot)
            if seen is not None:
                self.feed(seen)
        due_s = self.machine.due_s
        if self.jobs:
            return True
        if due_s is None or not idle:
            return False
        self.elapsed_s = max(self.elapsed_s + 0.01, due_s)
        self.feed(steps.Ticked())
        return True

    def _keep(self) -> bool:
        """Try again what does not serve, as the keeper does; say whether more serves now."""
        silent = set(self.serving.silent)
        for _ in range(KEPT_MAX):
            if not self.serving.silent:
                break
            self.elapsed_s += RESTORE_AGAIN_S
            for change in self.serving.restore(fresh=False, leave=self.machine.unsettled):
                self.feed(change)
        return set(self.serving.silent) != silent

    def play(self, orders: Sequence[Order], *, survival: Survival = "lost") -> None:
        """Deliver the orders one after another, through whatever power cuts `disk` has planned."""
        done = 0
        up = False
        while done < len(orders):
            try:
                if not up:
                    self.boot()
                    up = True
                self.deliver(orders[done])
                self.settle()
                done += 1
            except PowerCut:
                up = False
                self.disk.reboot(survival, self.random)
                self.after_cut()

    def after_cut(self) -> None:
        """For worlds that plan the next cut."""

    def moment(self) -> Moment:
        wall = START + timedelta(seconds=self.elapsed_s + self.skew_s)
        return Moment(wall, self.elapsed_s, offset_s=3600.0)

    # ------------------------------------------------------------ imitations

    def find(
        self, target: str, manifest: str, floor: Floor, cancelled: Callable[[], bool]
    ) -> Floor:
        """The signed metadata: knows every published bundle."""
        if self.metadata_failures > 0:
            self.metadata_failures -= 1
            raise StepFailed("trust.unreachable", "not now")
        bundle = self.bundles[manifest]
        assert bundle.candidate.target == target
        return floor.raised_to(Floor(root=1, timestamp=floor.timestamp + 1))

    def _try(self, bundle: Bundle) -> TrialResult:
        self.check_files(bundle)
        self.trials.append(bundle.manifest)
        report = TrialReport(
            golden_passed=1,
            golden_total=1,
            load_ms=1,
            latency_p50_us=1,
            latency_p95_us=1,
            rss_bytes=1,
            max_abs_diff=0,
        )
        if bundle.manifest in self.failing_trial:
            reason = Reason(code="trial.golden", detail="wrong outputs")
            return TrialResult(verdict=Verdict.REJECTED, reason=reason, report=report)
        return TrialResult(verdict=Verdict.OK, report=report)

    def _cancel(self) -> None:
        out = [one.step for one in self.jobs if not isinstance(one, steps.Collect | steps.Release)]
        self.cancelled.update(out)
        self.cancellations += 1

    def _give_up(self, reason: Reason) -> None:
        raise AssertionError(f"nothing hangs here: {reason}")

    def _wait_for_disk(self, _error: OSError) -> bool:
        self.disk.capacity = 1 << 40  # somebody made room
        return True

    def announce(self, told: steps.Announce, _moment: Moment) -> None:
        update = told.update
        self.announced.append((update.slot, update.manifest, update.state, told.event))
        self.transitions.add((told.before, told.event, update.state))
        if update.state is UpdateState.ACTIVATING:
            self._check_gate(update)
        if update.state is UpdateState.VERIFYING and update.transfer is not None:
            self.transfers.append(update.transfer)
        if update.reason is not None:
            self.reasons.append(update.reason.code)
        if update.reason is not None and _blames(told.event, update.reason.code):
            self.blamed.add(update.manifest)
        if update.state is UpdateState.COMMITTED:
            self.committed[update.slot] = update.manifest
        elif told.before is UpdateState.COMMITTED and update.state is UpdateState.ROLLING_BACK:
            self.committed.pop(update.slot, None)  # withdrawn, or unwanted

    def accept(self) -> None:
        self.refusal = None

    def refuse(self, reason: Reason, counter: int | None, moment: Moment) -> None:
        self.refusal = (reason.code, counter)
        self.refused.append(reason)

    def report(self) -> None:
        self.machine.slots()

    # ------------------------------------------------------------ what must hold

    def check_files(self, bundle: Bundle) -> None:
        assert bundle.manifest not in self.blamed, "what was found bad is used again"
        made = self.bundles[bundle.manifest]
        manifest = decode_manifest(made.manifest)
        for file, path in ((MODEL_FILES["onnx"], bundle.model), (GOLDEN_FILE, bundle.golden)):
            signed = made.blobs[layer_by_file(manifest, file).digest]
            assert self.disk.read_located(path) == signed, f"{file} is not what was signed"
        assert bundle.config == made.config, CONFIG_FILE

    def _check_boot(self) -> None:
        self.check_coupled()
        committed = {} if self.disk.damaged else self.committed
        for slot, manifest in committed.items():
            pointer = self.machine.pointers.get(slot)
            assert pointer is not None, f"{slot} was committed and has no pointer"
            update = self.machine.record.updates[slot]
            further = {manifest, update.manifest}
            assert pointer.running is not None, slot
            assert pointer.running.manifest in further, "another model runs than was committed"
            if slot not in self.machine.unsettled:
                assert slot in self.inference.serving, f"{slot} serves nothing after a boot"

    def _check_gate(self, update: Update) -> None:
        assert self.held is None, "it switches in a hold"
        order = self.machine.record.order
        if order is not None and not update.wish:
            moment = self.moment()
            assert windows.is_open(order.policy.windows, moment), "it switches outside a window"
            if order.policy.windows:
                assert order.issued_at <= moment.wall, "a wrong clock has opened a window"

    def check_coupled(self) -> None:
        """Slots that are coupled never run two versions, whatever is loaded when."""
        pointers = self.store.pointers()
        running = [pointers[slot].running for slot in self.coupled if slot in pointers]
        versions = {one.version for one in running if one is not None}
        assert len(versions) <= 1, f"two halves: {pointers}"

    def _check_serving(self) -> None:
        self.check_coupled()
        for slot, pointer in self.store.pointers().items():
            serving = self.inference.serving.get(slot)
            running = pointer.running.manifest if pointer.running else None
            assert (serving.manifest if serving else None) == running, "pointer and process differ"
            assert self.machine.pointers[slot] == pointer, "machine and pointer differ"
            assert running not in self.blamed, "what was found bad runs"

    def check_ended(self) -> None:
        """Faults are off and everything has settled: it must have come to an end."""
        assert self.machine.idle
        for update in self.machine.record.updates.values():
            assert update.state in ENDED, update.state

    def running(self, slot: str = "activity") -> str | None:
        pointer = self.machine.pointers.get(slot)
        return pointer.running.manifest if pointer and pointer.running else None

    def states(self, slot: str = "activity") -> list[str]:
        return [str(state) for of, _, state, _ in self.announced if of == slot]

    def _run_job(self) -> None:
        job = self.jobs.popleft()
        if isinstance(job, steps.Collect):
            self.performer.collect(job.keep)
            return
        if isinstance(job, steps.Release):
            self.performer.release(job.slots)
            return
        result = self.performer.perform(job, lambda: job.step in self.cancelled)
        self.check_coupled()
        self.feed(result)


def _blames(event: UpdateEvent, code: str) -> bool:
    """Say whether what happened is the model's own fault; said apart from the machine's code."""
    if code == "observe.unseen":
        return False  # nobody has seen what it does
    return event in {UpdateEvent.REJECTED, UpdateEvent.BREACHED} and code.startswith(
        ("trial.", "observe.", "shadow.", "load.", "bundle.", "update.unwanted")
    )


def damage_model(world: World) -> str:
    """Flip a bit of the largest blob on the disk, and return its path."""
    blobs = [path for path in world.disk.paths() if path.startswith("blobs/")]
    biggest = max(blobs, key=lambda path: world.disk.size(path) or 0)
    world.disk.flip(biggest, 50_000)
    return biggest
