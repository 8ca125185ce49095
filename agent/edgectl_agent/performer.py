"""Does what the update machine wants done, and tells it what came of it.

`Performer` runs one step to its end, `Engine` keeps the order of things: persist first, then tell,
then act. Neither knows threads: the supervisor runs steps in a worker, the crash simulation runs
them at once, and both are this code.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from edgectl_agent.bundle import Bundle
from edgectl_agent.core import steps
from edgectl_agent.core.machine import Machine
from edgectl_agent.core.record import Floor, SlotPointer
from edgectl_agent.core.timing import Moment
from edgectl_agent.downloader import Progress
from edgectl_agent.errors import (
    AgentError,
    StepCancelled,
    StepError,
    StepFailed,
    StepRejected,
    make_reason,
)
from edgectl_agent.hooks import NO_HOOKS, Hooks
from edgectl_agent.journal import Journal
from edgectl_agent.patching import Patcher
from edgectl_agent.serving import Switched
from edgectl_agent.store import Store
from edgectl_agent.trial import TrialResult, Verdict
from edgectl_protocol.messages import Installed, Reason, SwapReport

__all__ = ["Engine", "Metadata", "Outlet", "Performer", "Result", "Slots"]

Result = steps.StepDone | steps.StepFailed | steps.StepRejected
Preparing = steps.Refresh | steps.Download | steps.Verify | steps.Trial | steps.Accompany
_NO_SHADOW = frozenset({"load.memory", "load.memory_low", "slot.empty"})
"""Why a candidate cannot be a shadow here that is no reason not to serve."""
_log = logging.getLogger(__name__)


class Metadata(Protocol):
    """The signed metadata."""

    def find(
        self, target: str, manifest: str, floor: Floor, cancelled: Callable[[], bool]
    ) -> Floor:
        """Refresh, and check that `target` is signed for as `manifest`; return what was believed.

        Raises:
            StepFailed: it cannot be fetched, or is not believed now.
            StepRejected: it is signed for as something else.
        """


class Slots(Protocol):
    """What serves: `edgectl_agent.serving.Serving`, or a board behind a gateway."""

    def activate(self, installed: Mapping[str, Installed]) -> Switched:
        """Have slots run bundles, all of them or none; by slot.

        Raises:
            StepFailed: it cannot be done now.
            StepRejected: one of them must not run; `slot` says which.
        """

    def roll_back(self, manifests: Mapping[str, str]) -> Switched:
        """Have slots run what they ran before these; raise `StepFailed` where that fails now."""

    def accompany(
        self, slot: str, installed: Installed, *, share: float, cpu_max: float
    ) -> SwapReport:
        """Have a candidate answer copies of requests; raises as `activate`."""

    def mirror(self, slot: str, *, share: float, cpu_max: float) -> bool:
        """Copy requests to what is beside what serves; say whether something is."""

    def release(self, slot: str) -> None:
        """Free what is beside what serves."""


class Performer:
    """Runs steps."""

    def __init__(
        self,
        *,
        metadata: Metadata,
        patcher: Patcher,
        store: Store,
        serving: Slots,
        trial: Callable[[Bundle], TrialResult],
        progress: Callable[[str, Progress], None],
        hooks: Hooks = NO_HOOKS,
        pinned: Callable[[], tuple[str, ...]] = tuple,
    ) -> None:
        """Take what the steps need.

        `progress` is called with the slot, from the step's thread; `pinned` are manifests that
        something else than an update needs.
        """
        self._hooks = hooks
        self._pinned = pinned
        self._metadata = metadata
        self._patcher = patcher
        self._store = store
        self._serving = serving
        self._trial = trial
        self._progress = progress

    def perform(self, step: steps.Step, cancelled: Callable[[], bool]) -> Result:
        """Run one step; never raises for anything that the world can do."""
        kind: type[steps.StepFailed | steps.StepRejected] = steps.StepFailed
        slots = slots_of(step)
        slot = slots[0] if len(slots) == 1 else ""
        try:
            if cancelled():
                raise StepCancelled  # before it has begun
            return self._perform(step, cancelled)
        except StepError as error:
            slot, reason = error.slot or slot, error.reason
            if isinstance(error, StepRejected) and slot:
                kind = steps.StepRejected
        except AgentError as error:
            reason = error.reason
        except OSError as error:
            reason = reason_of(error)
        return kind(step=step.step, slot=slot, reason=reason, pointers=self._pointers(step))

    def collect(self, keep: tuple[str, ...]) -> None:
        """Remove what is not needed; what cannot be removed now is removed another time."""
        try:
            self._store.collect((*keep, *self._pinned()))
        except OSError as error:
            _log.warning("cannot remove what is not needed: %s", error)

    def release(self, slots: tuple[str, ...]) -> None:
        """Free the models that are kept beside what serves."""
        for slot in slots:
            self._serving.release(slot)

    def _perform(self, step: steps.Step, cancelled: Callable[[], bool]) -> Result:
        match step:
            case steps.Activate():
                self._hooks.ask("pre-activate", step.updates, cancelled)
                switched = self._serving.activate(step.installed)
                self._hooks.judge("post-activate", step.updates, cancelled)
                for slot in step.installed:
                    self._serving.mirror(
                        slot, share=step.policy.mirror_share, cpu_max=step.policy.mirror_cpu_max
                    )
                return _switched(step, switched)
            case steps.RollBack():
                manifests = {update.slot: update.manifest for update in step.updates}
                self._hooks.tell("pre-rollback", step.updates, cancelled)
                switched = self._serving.roll_back(manifests)
                self._hooks.tell("post-rollback", step.updates, cancelled)
                return _switched(step, switched)
            case _:
                return self._prepare(step, cancelled)

    def _prepare(self, step: Preparing, cancelled: Callable[[], bool]) -> Result:
        """Run a step that switches nothing."""
        update = step.update
        done = steps.StepDone(step=step.step, slot=update.slot)
        match step:
            case steps.Refresh():
                floor = self._metadata.find(
                    update.candidate.target, update.manifest, step.floor, cancelled
                )
                return steps.StepDone(step=step.step, slot=update.slot, floor=floor)
            case steps.Download():
                self._hooks.ask("pre-download", (update,), cancelled)
                result = self._download(step, cancelled)
                self._hooks.tell("post-download", (update,), cancelled)
                return result
            case steps.Verify():
                bundle = self._bundle(step)
                bundle.forget_key()
                if bundle.config.model != update.wanted.model:
                    raise StepRejected(
                        "bundle.mismatch",
                        f"the bundle is of {bundle.config.model}, ordered was "
                        f"{update.wanted.model}",
                    )
                return done
            case steps.Trial():
                return self._try(step, cancelled)
            case steps.Accompany():
                return self._accompany(step)

    def _accompany(self, step: steps.Accompany) -> Result:
        update, policy = step.update, step.policy
        try:
            self._serving.accompany(
                update.slot,
                step.installed,
                share=policy.mirror_share,
                cpu_max=policy.mirror_cpu_max,
            )
        except StepFailed as error:
            if error.code not in _NO_SHADOW:
                raise
            _log.warning("slot %s has no shadow: %s", update.slot, error)
            return steps.StepDone(step=step.step, slot=update.slot, shadowless=True)
        return steps.StepDone(step=step.step, slot=update.slot)

    def _download(self, step: steps.Download, cancelled: Callable[[], bool]) -> Result:
        """Fetch; where the disk is too small, remove what nobody needs and begin again, once."""
        update = step.update
        for attempt in range(2):
            try:
                if step.key is not None:
                    self._store.keep_key(update.manifest, step.key)
                transfer = self._patcher.fetch(
                    step,
                    progress=lambda progress: self._progress(update.slot, progress),
                    cancelled=cancelled,
                )
                break
            except (StepFailed, OSError) as error:
                reason = reason_of(error) if isinstance(error, OSError) else error.reason
                if attempt or reason.code != "disk.full" or not self._make_room(step):
                    raise
                _log.warning("the disk is full; what is not needed was removed: %s", reason.detail)
        return steps.StepDone(step=step.step, slot=update.slot, transfer=transfer)

    def _make_room(self, step: steps.Download) -> int:
        """Remove what neither the update nor anybody else needs; return how many files went."""
        return self._store.collect((*step.keep, *self._pinned()))

    def _try(self, step: steps.Trial, cancelled: Callable[[], bool]) -> Result:
        bundle = self._bundle(step)
        try:
            if cancelled():
                raise StepCancelled
            result = self._trial(bundle)
        finally:
            bundle.forget_key()
        slot = step.update.slot
        if result.verdict is Verdict.OK:
            return steps.StepDone(step=step.step, slot=slot, trial=result.report)
        reason = result.reason or make_reason("trial.unknown", "the trial gave no reason")
        if result.verdict is Verdict.REJECTED:
            return steps.StepRejected(step=step.step, slot=slot, reason=reason, trial=result.report)
        return steps.StepFailed(step=step.step, slot=slot, reason=reason)

    def _bundle(self, step: steps.Verify | steps.Trial) -> Bundle:
        update = step.update
        return self._store.bundle(
            update.slot,
            manifest=update.manifest,
            version=update.version,
            variant=update.candidate.variant,
        )

    def _pointers(self, step: steps.Step) -> dict[str, SlotPointer]:
        """Return what the slots run after a step that may have changed it half-way."""
        if not isinstance(step, steps.Activate | steps.RollBack):
            return {}
        try:
            pointers = self._store.pointers()
        except OSError:
            return {}
        return {slot: pointers.get(slot, SlotPointer()) for slot in slots_of(step)}


def slots_of(step: steps.Step) -> tuple[str, ...]:
    """Return the slots that a step is about."""
    if isinstance(step, steps.Activate | steps.RollBack):
        return tuple(update.slot for update in step.updates)
    return (step.update.slot,)


def _switched(step: steps.Activate | steps.RollBack, switched: Switched) -> steps.StepDone:
    return steps.StepDone(
        step=step.step,
        slot=step.updates[0].slot,
        pointers=switched.pointers,
        swaps=switched.swaps,
    )


class Outlet(Protocol):
    """Where the machine's words go."""

    def announce(self, announcement: steps.Announce, moment: Moment) -> None:
        """Tell of a transition."""

    def accept(self) -> None:
        """Tell that what came last as an order is obeyed."""

    def refuse(self, reason: Reason, counter: int | None, moment: Moment) -> None:
        """Tell that an order is not obeyed; `counter` is its number, where that is known."""

    def report(self) -> None:
        """The reported state has changed."""


class Engine:
    """Feeds the machine and does what it says, in the order in which it says it."""

    def __init__(
        self,
        machine: Machine,
        journal: Journal,
        *,
        outlet: Outlet,
        submit: Callable[[steps.Step | steps.Collect | steps.Release], None],
        cancel: Callable[[], None],
        give_up: Callable[[Reason], None],
        answer: Callable[[str, Reason | None], None] = lambda _request, _reason: None,
        wait_for_disk: Callable[[OSError], bool],
    ) -> None:
        """Take the machine and its surroundings.

        Args:
            machine: as it was made from the journal.
            journal: where its record goes.
            outlet: what it says.
            submit: runs steps, collections and releases one after another, and feeds the results
                back.
            cancel: asks the running step to end.
            give_up: ends the agent, because a step does not end.
            answer: tells who asked at the device whether it will be done, or why not.
            wait_for_disk: called when the record could not be written; True to try again.
        """
        self.machine = machine
        self._journal = journal
        self._outlet = outlet
        self._submit = submit
        self._cancel = cancel
        self._give_up = give_up
        self._answer = answer
        self._wait_for_disk = wait_for_disk

    def start(self, moment: Moment, jitter: float) -> None:
        """Take up where the journal ended."""
        self._do(self.machine.start(moment, jitter), moment)

    def feed(self, event: steps.Event, moment: Moment, jitter: float) -> None:
        """Let the machine decide about `event`, and do it."""
        self._do(self.machine.handle(event, moment, jitter), moment)

    def stop(self, moment: Moment) -> None:
        """Note that the agent ends in good order."""
        self._do(self.machine.stop(moment), moment)

    def _do(self, actions: list[steps.Action], moment: Moment) -> None:
        for action in actions:
            match action:
                case steps.Persist():
                    self._persist(action)
                case steps.Announce():
                    self._outlet.announce(action, moment)
                case steps.Refuse():
                    self._outlet.refuse(action.reason, action.counter, moment)
                case steps.Accept():
                    self._outlet.accept()
                case steps.Report():
                    self._outlet.report()
                case steps.Answer():
                    self._answer(action.request, action.reason)
                case steps.Cancel():
                    self._cancel()
                case steps.GiveUp():
                    self._give_up(action.reason)
                case _:
                    self._submit(action)

    def _persist(self, action: steps.Persist) -> None:
        """Save, then act: without the record on disk nothing else is done."""
        while True:
            try:
                self._journal.save(action.record)
            except OSError as error:
                if not self._wait_for_disk(error):
                    raise
            else:
                return


def reason_of(error: OSError) -> Reason:
    """Return the reason that is reported for an error of the disk."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return make_reason("disk.full", "no space left in the state directory's file system")
    return make_reason("disk.error", f"the state directory: {error}")
