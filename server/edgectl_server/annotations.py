"""Annotations: what people, imports and the field say of samples, and what that amounts to.

Rules:

1. One labeller says one thing of a sample; saying another replaces it. What an import or the field
   says is kept beside what people say on the page, never in its place.
2. A label is the name of a class of the bundle that answered; "cannot tell" is one too. An unknown
   sample, an unknown class and a model without classes are refused, each by its code.
3. What all of it amounts to (`edgectl_server.domain.agreement`) is written to the sample in the
   same transaction, so that lists and datasets go by one column.
4. An import is judged item by item: what is wrong is named by its place, the rest is kept. The
   same once more changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, func, select
from sqlalchemy.orm import Session

from edgectl_datasets.samples import read_sample
from edgectl_server.annotation_rows import annotations_of, keep_vote, remove_vote
from edgectl_server.audit import describe
from edgectl_server.contracts import Contracts, classes_of
from edgectl_server.domain.agreement import Vote, fleiss, pairs
from edgectl_server.errors import NotFound, Refused, ServerError
from edgectl_server.sample_content import contents_of
from edgectl_server.samples import Samples, live_samples, sample_info
from edgectl_server.schemas import (
    AnnotationImport,
    AnnotationImportResult,
    AnnotationInfo,
    AnnotationItem,
    AnnotationRefusal,
    LabelledSample,
    LabellerAgreement,
    LabellingQueue,
    LabellingSummary,
    Page,
    SampleContent,
)
from edgectl_server.storage.database import Database
from edgectl_server.storage.paging import PageQuery, fetch_page, order
from edgectl_server.storage.tables import AnnotationRow, SampleRow

__all__ = ["AnnotationFilter", "Annotations", "QueueQuery"]

_SORT = {"made_at": AnnotationRow.made_at}
_COMPARED_MAX = 20_000
"""Annotations that agreement is computed from: the newest."""
_LABELLERS_SHOWN = 20
_PAIRED_MAX = 8
_TWO = 2


class AnnotationFilter(NamedTuple):
    """What is asked of annotations; None: nothing."""

    model: str | None = None
    sample: str | None = None
    labeller: str | None = None
    source: str | None = None


class QueueQuery(NamedTuple):
    """What somebody wants to label next."""

    reason: str | None = None
    first: str = "uncertain"
    """``uncertain``: the least confident answers; ``newest``; ``conflict``: where two disagree."""
    labellers: int = 1
    """How many shall label each sample."""
    limit: int = 20


class Annotations:
    """Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        database: Database,
        contracts: Contracts,
        samples: Samples,
        now: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._contracts = contracts
        self._samples = samples
        self._now = now

    # ------------------------------------------------------------ what people say

    def put(self, sample: str, label: str | None, user: str) -> LabelledSample:
        """Note what `user` says of a sample; None: they cannot tell.

        Raises:
            NotFound: ``sample.unknown``.
            Refused: ``annotation.class``, ``annotation.classes``.
        """
        with self._database.write() as session:
            row = self._find(session, sample)
            number = self._number(row, label)
            keep_vote(session, row, Vote("person", user, label, number), user, self._now())
            describe(model=row.model, label=label)
            return self._labelled(session, row)

    def remove(self, sample: str, user: str) -> LabelledSample:
        """Take back what `user` has said of a sample; nothing is no error.

        Raises:
            NotFound: ``sample.unknown``.
        """
        with self._database.write() as session:
            row = self._find(session, sample)
            remove_vote(session, row, "person", user)
            describe(model=row.model)
            return self._labelled(session, row)

    def take_in(self, asked: AnnotationImport, user: str) -> AnnotationImportResult:
        """Note what is said elsewhere, item by item."""
        refused: list[AnnotationRefusal] = []
        changed = unchanged = 0
        with self._database.write() as session:
            for index, item in enumerate(asked.items):
                try:
                    row = self._meant(session, item, asked.model)
                    number = self._number(row, item.label)
                except ServerError as error:
                    told = AnnotationRefusal(index=index, code=error.code, detail=error.detail)
                    refused.append(told)
                    continue
                source = "field" if asked.truth else "import"
                vote = Vote(source, item.labeller or user, item.label, number)
                if keep_vote(session, row, vote, user, self._now(), check=asked.check):
                    changed += 1
                else:
                    unchanged += 1
            describe(items=len(asked.items), kept=changed, refused=len(refused), truth=asked.truth)
        return AnnotationImportResult(changed=changed, unchanged=unchanged, refused=refused)

    # ------------------------------------------------------------ what is shown

    def page(self, paging: PageQuery, asked: AnnotationFilter) -> Page[AnnotationInfo]:
        """Return one page of annotations, the newest first."""
        wanted = select(AnnotationRow).join(SampleRow, AnnotationRow.sample == SampleRow.id)
        for column, value in (
            (SampleRow.model, asked.model),
            (AnnotationRow.sample, asked.sample),
            (AnnotationRow.labeller, asked.labeller),
            (AnnotationRow.source, asked.source),
        ):
            if value is not None:
                wanted = wanted.where(column == value)
        by = order(paging.sort, _SORT, default="-made_at", last=AnnotationRow.id)
        with self._database.read() as session:
            rows, total = fetch_page(session, wanted.order_by(*by), paging)
            models = _models(session, {row.sample for row in rows})
            return Page(items=[_info(row, models[row.sample]) for row in rows], total=total)

    def of_sample(self, sample: str) -> LabelledSample:
        """Return a sample with all that is said of it; raise `NotFound` ``sample.unknown``."""
        with self._database.read() as session:
            return self._labelled(session, self._find(session, sample, lock=False))

    def content(self, sample: str) -> SampleContent:
        """Return what is in a sample, ready to be shown.

        Raises:
            NotFound: ``sample.unknown``, ``blob.missing``.
            Refused: ``sample.contract``: its bundle is gone; ``sample.sealed``: it is sealed to a
                key that this server does not have.
        """
        info, pieces = self._samples.read(sample)
        if info.sealed:
            raise Refused(
                "sample.sealed",
                f"the sample {sample} is sealed to the key {info.key}, which this server does not "
                "have",
                hint=f"who has the key opens it: `edgectl samples get {sample} --key FILE`",
            )
        config = self._contracts.find(info.manifest)
        if config is None:
            detail = f"the bundle {info.manifest} cannot be read, which says what the sample is"
            raise Refused("sample.contract", detail)
        _, arrays = read_sample(b"".join(pieces))
        inputs, outputs = contents_of(arrays, config)
        classes = list(classes_of(config))
        return SampleContent(sample=info, inputs=inputs, outputs=outputs, classes=classes)

    def queue(self, model: str, asked: QueueQuery, user: str) -> LabellingQueue:
        """Return what `user` should label next: what they have not, and too few others have."""
        mine = select(AnnotationRow.id).where(
            AnnotationRow.sample == SampleRow.id,
            AnnotationRow.source == "person",
            AnnotationRow.labeller == user,
        )
        told = select(func.count()).where(
            AnnotationRow.sample == SampleRow.id, AnnotationRow.label.is_not(None)
        )
        conditions = [~mine.exists(), ~SampleRow.sealed]
        by: tuple[ColumnElement[Any], ...] = (SampleRow.confidence.asc().nulls_last(),)
        if asked.first == "conflict":
            conditions.append(SampleRow.label_state == "conflict")
        else:
            conditions.append(told.scalar_subquery() < asked.labellers)
        if asked.first == "newest":
            by = (SampleRow.taken_at.desc(),)
        if asked.reason is not None:
            conditions.append(SampleRow.reason == asked.reason)
        with self._database.read() as session:
            live = live_samples(model, self._now()).where(*conditions)
            closed = live_samples(model, self._now()).where(SampleRow.sealed)
            sealed = session.scalar(select(func.count()).select_from(closed.subquery())) or 0
            waiting = session.scalar(select(func.count()).select_from(live.subquery())) or 0
            rows = session.scalars(live.order_by(*by, SampleRow.id).limit(asked.limit)).all()
            return LabellingQueue(
                classes=list(self._classes(session, model)),
                items=[sample_info(session, row) for row in rows],
                waiting=waiting,
                sealed=sealed,
            )

    def summary(self, model: str) -> LabellingSummary:
        """Return how far the labelling of a model's samples is, and how well labellers agree."""
        with self._database.read() as session:
            live = live_samples(model, self._now()).subquery()
            states = _counts(session, live.c.label_state)
            by_class = _counts(session, live.c.label, live.c.label_state == "labelled")
            by_reason = _counts(session, live.c.reason, live.c.label_state == "")
            both = and_(live.c.label_state == "labelled", live.c.answer >= 0)
            answered = _counts(session, live.c.reason, both)
            right = _counts(
                session, live.c.reason, and_(both, live.c.answer == live.c.label_number)
            )
            newest = session.execute(
                select(AnnotationRow.sample, AnnotationRow.labeller, AnnotationRow.number)
                .join(SampleRow, AnnotationRow.sample == SampleRow.id)
                .where(SampleRow.model == model, AnnotationRow.source != "field")
                .order_by(AnnotationRow.id.desc())
                .limit(_COMPARED_MAX)
            ).all()
            classes = self._classes(session, model)
        told: dict[str, dict[str, int]] = {}
        for sample, labeller, number in newest:
            if number >= 0:
                told.setdefault(sample, {})[labeller] = number
        busy = Counter(labeller for _, labeller, _ in newest).most_common(_LABELLERS_SHOWN)
        shared = {sample: votes for sample, votes in told.items() if len(votes) >= _TWO}
        return LabellingSummary(
            model=model,
            classes=list(classes),
            states={state or "unlabelled": count for state, count in states.items()},
            by_class=by_class,
            by_reason=by_reason,
            labellers=dict(busy),
            agreement=fleiss(list(votes.values()) for votes in shared.values()),
            pairs=[
                LabellerAgreement(**pair._asdict())
                for pair in pairs(shared, labellers_max=_PAIRED_MAX)
            ],
            right={reason: (right.get(reason, 0), count) for reason, count in answered.items()},
        )

    # ------------------------------------------------------------ steps

    def _find(self, session: Session, sample: str, *, lock: bool = True) -> SampleRow:
        row = session.get(SampleRow, sample, with_for_update=lock)
        if row is None:
            raise NotFound(
                "sample.unknown",
                f"there is no sample {sample}",
                hint="`edgectl samples list` shows those that are here",
            )
        return row

    def _meant(self, session: Session, item: AnnotationItem, model: str | None) -> SampleRow:
        """Return the sample that an item of an import is about."""
        if (item.sample is None) == (item.request is None):
            raise Refused("annotation.item", "name the sample or the request, one of them")
        if item.sample is not None:
            row = self._find(session, item.sample)
        else:
            wanted = select(SampleRow).where(SampleRow.request == item.request)
            if item.device is not None:
                wanted = wanted.where(SampleRow.device == item.device)
            if model is not None:
                wanted = wanted.where(SampleRow.model == model)
            newest = wanted.order_by(SampleRow.taken_at.desc(), SampleRow.id)
            found = session.scalars(newest.limit(_TWO).with_for_update()).all()
            if not found:
                detail = f"no sample is of a request {item.request}"
                raise NotFound("annotation.request", detail)
            if len(found) == _TWO:
                detail = f"more than one sample is of a request {item.request}: name device and "
                raise Refused("annotation.ambiguous", f"{detail}model")
            row = found[0]
        if model not in {None, row.model}:
            detail = f"the sample {row.id} is of {row.model}, not of {model}"
            raise Refused("annotation.model", detail)
        return row

    def _number(self, row: SampleRow, label: str | None) -> int:
        """Return the number of a class of the bundle that answered; -1: cannot tell."""
        if label is None:
            return -1
        config = self._contracts.find(row.manifest)
        classes = () if config is None else classes_of(config)
        if not classes:
            raise Refused(
                "annotation.classes",
                f"{row.model} {row.version} has no classes that a sample could be of",
                hint="push it with labels: `edgectl push --labels`",
            )
        if label not in classes:
            known = ", ".join(classes[:20])
            raise Refused(
                "annotation.class",
                f"{label[:80]!r} is no class of {row.model} {row.version}; it has: {known}"[:1000],
            )
        return classes.index(label)

    def _classes(self, session: Session, model: str) -> Sequence[str]:
        newest = live_samples(model, self._now()).order_by(SampleRow.taken_at.desc()).limit(1)
        row = session.scalars(newest).first()
        config = None if row is None else self._contracts.find(row.manifest)
        return () if config is None else classes_of(config)

    @staticmethod
    def _labelled(session: Session, row: SampleRow) -> LabelledSample:
        return LabelledSample(
            sample=sample_info(session, row),
            annotations=[_info(one, row.model) for one in annotations_of(session, row.id)],
        )


def _models(session: Session, samples: Iterable[str]) -> dict[str, str]:
    found = session.execute(
        select(SampleRow.id, SampleRow.model).where(SampleRow.id.in_(list(samples)))
    )
    return {row.id: row.model for row in found}


def _counts(
    session: Session, column: ColumnElement[str], *conditions: ColumnElement[bool]
) -> dict[str, int]:
    counted = select(column, func.count()).where(*conditions).group_by(column)
    return {name: int(count) for name, count in session.execute(counted)}


def _info(row: AnnotationRow, model: str) -> AnnotationInfo:
    return AnnotationInfo(
        sample=row.sample,
        model=model,
        source=row.source,  # type: ignore[arg-type]  # only these are written
        labeller=row.labeller,
        label=row.label,
        made_at=row.made_at,
        entered_by=row.entered_by,
    )
