"""Loops: policies and runs by model, moved on by a tick.

Rules:

1. What a run does is decided by `edgectl_server.domain.learning_loop.decide`, which is pure. A tick
   claims one policy whose time has come, by writing when it is due again; observes, decides, acts,
   and writes state, facts and event in one transaction.
2. Building a dataset or starting a rollout takes transactions of its own, so that an action may
   have been done without its state being written: by a server that was killed, or by another one
   after the claim. Every action is therefore harmless to do twice: names and contents are those of
   the run, a training begins in the very transaction that writes the state, and who comes second
   finds another state than it has seen, and writes nothing.
3. What the model's policy on samples was before is written down before it is changed.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from edgectl_server.audit import describe
from edgectl_server.datasets import Datasets
from edgectl_server.domain.learning_loop import (
    ENDS,
    Action,
    Decision,
    LoopState,
    Trigger,
    decide,
)
from edgectl_server.errors import Conflict, NotFound, ServerError, Unavailable
from edgectl_server.loop_facts import (
    FAILED,
    Claimed,
    approval_of,
    claimed_of,
    current_run,
    last_run,
    loop_info,
    observe,
    policy_of,
)
from edgectl_server.loop_story import event_info
from edgectl_server.policy_documents import replace_document
from edgectl_server.retraining import Retrainings
from edgectl_server.rollout_selection import meant_by
from edgectl_server.rollouts import Rollouts
from edgectl_server.sample_policies import SamplePolicies
from edgectl_server.schemas import (
    DatasetRequest,
    LoopAction,
    LoopEventInfo,
    LoopInfo,
    LoopPolicySpec,
    Page,
    RetrainRequest,
    RolloutRequest,
    SamplePolicyChange,
)
from edgectl_server.storage.database import Database
from edgectl_server.storage.paging import PageQuery, fetch_page, match
from edgectl_server.storage.tables import LoopEventRow, LoopPolicyRow, LoopRunRow, RetrainingRow
from edgectl_server.version_rows import version_in_service

__all__ = ["LOOP", "Loops"]

logger = logging.getLogger(__name__)

LOOP = "loop"
"""Who acts, in audit log and rows."""
_CLAIM = timedelta(seconds=60)
_TICKS_MAX = 32
_NOTE_MAX = 1024


class Loops:
    """All loops. Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        database: Database,
        datasets: Datasets,
        retrainings: Retrainings,
        rollouts: Rollouts,
        sample_policies: SamplePolicies,
        period_s: float,
        now: Callable[[], datetime],
    ) -> None:
        """Take what it needs.

        Args:
            database: of the rows.
            datasets: made for a run.
            retrainings: begun for a run.
            rollouts: started for a run.
            sample_policies: raised while a run collects.
            period_s: how often each loop is looked at.
            now: the clock.
        """
        self._database = database
        self._datasets = datasets
        self._retrainings = retrainings
        self._rollouts = rollouts
        self._sample_policies = sample_policies
        self._period = timedelta(seconds=period_s)
        self._now = now

    # ------------------------------------------------------------ what people do

    def put(self, model: str, spec: LoopPolicySpec, user: str) -> LoopInfo:
        """Replace the policy of a model's loop; raise `Conflict` ``policy.changed``."""
        document = spec.model_dump(mode="json", exclude={"revision"})
        with self._database.write() as session:
            row = replace_document(
                session,
                LoopPolicyRow,
                model,
                document,
                revision=spec.revision,
                by=(user, self._now()),
                named=(f"the loop of {model}", f"edgectl loop status {model}"),
            )
            row.paused = bool(row.paused)
            row.due_at = self._now()
            _log(session, None, (model, user, "policy"), {"revision": row.revision}, self._now())
        return self.get(model)

    def act(self, model: str, action: str, user: str, asked: LoopAction) -> LoopInfo:
        """Do what a person asks for: run, pause, resume, approve or stop.

        Raises:
            NotFound: ``loop.unknown``.
            Conflict: ``loop.state``, ``loop.approval``.
        """
        now, reason = self._now(), asked.reason
        with self._database.write() as session:
            policy = _find(session, model, lock=True)
            run = current_run(session, model, lock=True)
            describe(object=model, run=None if run is None else run.id)
            if action in {"pause", "resume"}:
                policy.paused = action == "pause"
            elif action == "run":
                if run is not None:
                    raise _wrong(model, f"is {run.state} already", "look at `edgectl loop status`")
                run = self._begin(session, model, Trigger("hand", reason or f"asked by {user}"))
            elif run is None:
                raise _wrong(model, "has no run under way", "begin one: `edgectl loop run`")
            elif action == "approve":
                _check_approval(policy, run, asked)
                run.approved = run.state
            else:
                self._end(run, LoopState.REJECTED, f"stopped by {user}: {reason}".rstrip(": "))
            policy.due_at = now
            data = {"reason": reason}
            if action == "approve":
                data["approval"] = asked.approval or ""
            _log(session, run, (model, user, action), data, now)
        if action == "stop" and run is not None:
            self._restore_sampling(run)
        return self.get(model)

    def get(self, model: str) -> LoopInfo:
        """Return the loop of a model, with why it does nothing now; also where there is none."""
        with self._database.read() as session:
            row = session.get(LoopPolicyRow, model)
            run = current_run(session, model)
            last = run or last_run(session, model)
            if row is None:
                return loop_info(model, None, last, "it has no policy: `edgectl loop set`")
            claimed = claimed_of(row, run)
            now = self._now()
            observed = observe(session, claimed, now)
            decision = decide(policy_of(claimed.spec), observed, now)
            return loop_info(
                model, row, last, decision.why, active=run is not None, trouble=observed.refused
            )

    def page(self, paging: PageQuery) -> Page[LoopInfo]:
        """Return one page of the loops, by model."""
        wanted = select(LoopPolicyRow).order_by(LoopPolicyRow.model)
        if paging.q:
            wanted = wanted.where(match(paging.q, (LoopPolicyRow.model,)))
        with self._database.read() as session:
            rows, total = fetch_page(session, wanted, paging)
        return Page(items=[self.get(row.model) for row in rows], total=total)

    def events(self, model: str, paging: PageQuery) -> Page[LoopEventInfo]:
        """Return one page of a loop's steps, the newest first."""
        wanted = select(LoopEventRow).where(LoopEventRow.model == model)
        if paging.q:
            wanted = wanted.where(match(paging.q, (LoopEventRow.kind, LoopEventRow.run)))
        with self._database.read() as session:
            rows, total = fetch_page(session, wanted.order_by(LoopEventRow.id.desc()), paging)
        return Page(items=[event_info(row) for row in rows], total=total)

    # ------------------------------------------------------------ the tick

    def tick(self) -> int:
        """Move on the loops whose time has come; return how many were looked at."""
        for count in range(_TICKS_MAX):
            claimed = self._claim()
            if claimed is None:
                return count
            try:
                again = self._move(claimed)
            except Unavailable:
                raise
            except ServerError as error:  # it stays where it is, and says why
                again = False
                self._note(claimed, f"{error.code}: {error.detail}")
            self._release(claimed.model, self._now() + (timedelta(0) if again else self._period))
        return _TICKS_MAX

    def _claim(self) -> Claimed | None:
        now = self._now()
        due = LoopPolicyRow.due_at <= now
        with self._database.read() as session:  # most ticks find nothing, and lock nothing
            if session.scalar(select(LoopPolicyRow.model).where(due).limit(1)) is None:
                return None
        with self._database.write() as session:
            wanted = select(LoopPolicyRow).where(due).order_by(LoopPolicyRow.due_at).limit(1)
            row = session.scalars(wanted.with_for_update(skip_locked=True)).one_or_none()
            if row is None:
                return None
            row.due_at = now + _CLAIM
            return claimed_of(row, current_run(session, row.model))

    def _release(self, model: str, due_at: datetime) -> None:
        with self._database.write() as session:
            _find(session, model, lock=True).due_at = due_at

    def _move(self, claimed: Claimed) -> bool:
        """Observe, decide and act; say whether the state has changed."""
        with self._database.read() as session:
            now = self._now()
            observed = observe(session, claimed, now)
        decision = decide(policy_of(claimed.spec), observed, now)
        if decision.action is Action.BEGIN:
            return self._set_off(claimed, decision)
        if claimed.run is None:
            return False
        facts = self._perform(claimed, decision)
        return self._write(claimed, decision, facts)

    def _set_off(self, claimed: Claimed, decision: Decision) -> bool:
        kind: Any = decision.data["trigger"]
        with self._database.write() as session:
            _find(session, claimed.model, lock=True)
            if current_run(session, claimed.model) is not None:
                return False  # another replica was first
            trigger = Trigger(kind, decision.data["detail"])
            run = self._begin(session, claimed.model, trigger)
            data = {"state": run.state, "why": decision.why}
            _log(session, run, (claimed.model, LOOP, "began"), data, self._now())
        return True

    def _perform(self, claimed: Claimed, decision: Decision) -> dict[str, Any]:
        """Do the action, as far as it has transactions of its own; return what it has made."""
        run = claimed.run
        assert run is not None
        match_ = decision.action
        if match_ is Action.COLLECT:
            return self._raise_sampling(claimed.spec, run)
        if match_ in {Action.MAKE_DATASET, Action.STOP_COLLECTING}:
            made = self._make_dataset(claimed.spec, run) if match_ is Action.MAKE_DATASET else {}
            self._restore_sampling(run)
            return made
        if match_ is Action.START_ROLLOUT:
            request = RolloutRequest(
                model=run.model,
                version=run.facts["version"],
                selector=claimed.spec.selector,
                policy=claimed.spec.rollout,
            )
            applied = self._rollouts.apply(request, LOOP, dry_run=False)
            assert applied.rollout is not None
            return {"rollout": applied.rollout.id}
        if match_ is Action.REVERT:
            self._rollouts.abort(run.facts["rollout"], LOOP, decision.why, revert=True)
        return {}

    def _write(self, claimed: Claimed, decision: Decision, facts: dict[str, Any]) -> bool:
        """Write state, facts and event, if the run is still where it was seen."""
        seen = claimed.run
        assert seen is not None
        now, trains = self._now(), decision.action is Action.TRAIN
        with self._database.write() as session:
            run = session.get_one(LoopRunRow, seen.id, with_for_update=True)
            if run.state != seen.state or run.ended_at is not None:
                return False
            if trains:
                facts = {"retraining": self._train(session, claimed.spec, run)}
            if decision.state is LoopState.GATED and run.facts.get("version") is None:
                row = session.get_one(RetrainingRow, run.facts["retraining"])
                facts = {**facts, "version": row.version}
            run.facts = {**run.facts, **facts}
            run.note = decision.why[:_NOTE_MAX]
            changed = decision.state.value != run.state
            if decision.state in ENDS:
                self._end(run, decision.state, decision.why)
            elif changed:
                run.state, run.since = decision.state.value, now
            if changed or facts:
                data = {"state": run.state, "why": decision.why, **facts}
                _log(session, run, (run.model, LOOP, decision.state.value), data, now)
        if trains:
            self._retrainings.notify()
        return changed

    def _note(self, claimed: Claimed, note: str) -> None:
        logger.warning("the loop of %s: %s", claimed.model, note)
        if claimed.run is None:
            return
        with self._database.write() as session:
            run = session.get_one(LoopRunRow, claimed.run.id, with_for_update=True)
            if run.note != note[:_NOTE_MAX]:
                run.note = note[:_NOTE_MAX]
                _log(session, run, (run.model, LOOP, FAILED), {"why": run.note}, self._now())

    # ------------------------------------------------------------ actions

    def _begin(self, session: Session, model: str, trigger: Trigger) -> LoopRunRow:
        now = self._now()
        run = LoopRunRow(
            id=secrets.token_hex(8),
            model=model,
            state=LoopState.COLLECTING.value,
            since=now,
            trigger={"kind": trigger.kind, "detail": trigger.detail},
            facts={},
            note="",
            approved="",
            began_at=now,
            ended_at=None,
        )
        session.add(run)
        session.flush()
        return run

    def _end(self, run: LoopRunRow, state: LoopState, why: str) -> None:
        run.state, run.since, run.ended_at = state.value, self._now(), self._now()
        run.note = why[:_NOTE_MAX]

    def _raise_sampling(self, spec: LoopPolicySpec, run: LoopRunRow) -> dict[str, Any]:
        """Have devices send what the loop wants; what was before is written down first."""
        if not spec.sampling.bytes_per_day:
            return {"sampling": "as it is"}
        before = self._sample_policies.get(run.model)
        kept = before.model_dump(mode="json", include={"bytes_per_day", "reasons", "random_share"})
        with self._database.write() as session:
            row = session.get_one(LoopRunRow, run.id, with_for_update=True)
            if "sampling_before" not in row.facts:
                row.facts = {**row.facts, "sampling_before": kept}
        wanted = SamplePolicyChange.model_validate(spec.sampling.model_dump())
        self._sample_policies.put(run.model, wanted, LOOP)
        return {"sampling": "raised"}

    def _restore_sampling(self, run: LoopRunRow) -> None:
        with self._database.read() as session:
            before = session.get_one(LoopRunRow, run.id).facts.get("sampling_before")
        if before is not None:
            change = SamplePolicyChange.model_validate(before)
            self._sample_policies.put(run.model, change, LOOP)

    def _make_dataset(self, spec: LoopPolicySpec, run: LoopRunRow) -> dict[str, Any]:
        asked = DatasetRequest(
            name=f"loop-{run.model.lower()[:40]}-{run.id}",
            model=run.model,
            since=run.began_at - timedelta(seconds=spec.look_back_s),
            ratios=spec.ratios,
        )
        try:
            made = self._datasets.create(asked, LOOP)
        except Conflict as error:
            if error.code not in {"dataset.exists", "dataset.name"}:
                raise
            made = self._datasets.get(error.data["id"]).info
        return {"dataset": made.id, "rows": made.rows}

    def _train(self, session: Session, spec: LoopPolicySpec, run: LoopRunRow) -> str:
        serves = version_in_service(session, run.model, meant_by(session, spec.selector))
        request = RetrainRequest(
            dataset=run.facts["dataset"],
            trainer=spec.trainer,
            parent=None if serves is None else serves.version,
            gain_points_min=spec.gain_points_min,
            old_drop_points_max=spec.old_drop_points_max,
            rows_min=spec.rows_min,
            update_budget_points=spec.update_budget_points,
        )
        dataset = run.facts["dataset"]
        row = self._retrainings.add(
            session, run.model, request, dataset, user=LOOP, role="operator"
        )
        return row.id


def _find(session: Session, model: str, *, lock: bool = False) -> LoopPolicyRow:
    row = session.get(LoopPolicyRow, model, with_for_update=lock)
    if row is None:
        raise NotFound(
            "loop.unknown",
            f"{model} has no loop",
            hint="`edgectl loop set MODEL` gives it a policy",
        )
    return row


def _wrong(model: str, what: str, hint: str) -> Conflict:
    return Conflict("loop.state", f"the loop of {model} {what}", hint=hint)


def _check_approval(policy: LoopPolicyRow, run: LoopRunRow, asked: LoopAction) -> None:
    """Refuse what is not of the run and the stage that wait now: nobody has looked at those."""
    waits = approval_of(LoopPolicySpec.model_validate(policy.document), run)
    if waits is not None and (asked.run, asked.approval) == (run.id, waits):
        return
    of = f"the {asked.approval} of run {asked.run}" if asked.run and asked.approval else "nothing"
    now = f"its {waits} waits" if waits else "nothing waits"
    raise Conflict(
        "loop.approval",
        f"the approval is of {of}; of run {run.id}, which is under way, {now} for a person",
        hint=f"look at it, `edgectl loop explain {run.model}`, and name what is to be approved",
    )


def _log(
    session: Session,
    run: LoopRunRow | None,
    act: tuple[str, str, str],
    data: dict[str, Any],
    at: datetime,
) -> None:
    """Add an event; `act` is the model, who acts, and what."""
    model, actor, kind = act
    name = None if run is None else run.id
    session.add(LoopEventRow(run=name, model=model, at=at, actor=actor, kind=kind, data=data))
