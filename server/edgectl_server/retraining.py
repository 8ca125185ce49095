"""Retraining: from a dataset and the version in service to a pushed candidate, or to a refusal.

::

    train (a process of its own) → examine (another one) → gates → candidate kept ╗ transaction 1
    push through the registry → version and its job → job done                    ╝ transaction 2

Before transaction 1 nothing is known outside: a server that is killed trains again. After it the
candidate is a blob named in the row, and pushing the same content is answered with what is there:
so it is pushed once, though a trainer may not give the same model twice.

What does not pass its gates is written down with its figures and never pushed. The push decides for
itself as any push does: formats, quantization, gates of the model's policy.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from edgectl_protocol import __version__
from edgectl_protocol.names import hex_of
from edgectl_server.audit import describe
from edgectl_server.datasets import Datasets
from edgectl_server.domain.champions import Bounds, Pair, judge, passed
from edgectl_server.errors import NotFound, Refused, ServerError
from edgectl_server.job_rows import job_info
from edgectl_server.jobs import JobCancelled, JobContext, JobFailed, Jobs
from edgectl_server.pipeline.errors import PipelineCancelled, PipelineError
from edgectl_server.pipeline.spec import PipelineLimits, Progress
from edgectl_server.registry import Registry
from edgectl_server.schemas import (
    AccuracyPair,
    ChampionVerdict,
    Page,
    PushOptions,
    PushRequest,
    RetrainingDetail,
    RetrainingInfo,
    RetrainRequest,
    Role,
    TrackingInfo,
    TrainerInfo,
)
from edgectl_server.settings import Settings
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.storage.files import make_private_directory
from edgectl_server.storage.paging import PageQuery, fetch_page, match, order
from edgectl_server.storage.tables import Blob, Job, ModelVersion, RetrainingRow
from edgectl_server.training.own_trainer import held_back, run_own_trainer
from edgectl_server.training.runner import run_examination, run_head_trainer
from edgectl_server.training.said import Said
from edgectl_server.training.spec import (
    CALIBRATION,
    DATASET,
    EVALUATION,
    MODEL,
    OUT,
    SOURCE,
    Examined,
    HeadOptions,
    TrainSpec,
)
from edgectl_server.training.trainers import BUILT_IN, OwnTrainer
from edgectl_server.version_rows import get_version, version_in_service

__all__ = ["RETRAIN", "RetrainHandler", "Retrainings", "trained_by"]

logger = logging.getLogger(__name__)

RETRAIN = "retrain"
"""Kind of the jobs."""
_SORT = {"created_at": RetrainingRow.created_at, "model": RetrainingRow.model}
_HEAD = "the last layer of a classifier, fitted anew on features of the model in service"


class Retrainings:
    """What people ask for and look at. Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        database: Database,
        datasets: Datasets,
        jobs: Jobs,
        trainers: Mapping[str, OwnTrainer],
        now: Callable[[], datetime],
        tracked: bool = False,
    ) -> None:
        """Take what it needs.

        Args:
            database: of the rows.
            datasets: to learn from.
            jobs: the worker that has a handler for `RETRAIN`.
            trainers: of the operator's own, by name.
            now: the clock.
            tracked: a tracking server is to be told of them, see `tracking`.
        """
        self._database = database
        self._datasets = datasets
        self._jobs = jobs
        self._trainers = trainers
        self._now = now
        self._tracked = tracked

    def trainers(self) -> list[TrainerInfo]:
        """Return those that can be named."""
        own = [
            TrainerInfo(name=name, built_in=False, description=one.description)
            for name, one in sorted(self._trainers.items())
        ]
        return [TrainerInfo(name=BUILT_IN, built_in=True, description=_HEAD), *own]

    def start(
        self, model: str, request: RetrainRequest, user: str, role: Role = "operator"
    ) -> RetrainingInfo:
        """Begin to train.

        Raises:
            NotFound: ``version.unknown``, ``dataset.unknown``.
            Refused: ``training.trainer``, ``training.dataset``, ``training.source``.
        """
        dataset = self._datasets.get(request.dataset).info
        if dataset.model != model:
            detail = f"{dataset.name} is of {dataset.model}, not of {model}"
            raise Refused("training.dataset", detail, hint="`edgectl dataset list` shows which are")
        with self._database.write() as session:
            row = self.add(session, model, request, dataset.id, user=user, role=role)
            info = _info(row, session.get_one(Job, row.id))
        self._jobs.notify()
        return info

    def add(
        self,
        session: Session,
        model: str,
        request: RetrainRequest,
        dataset: str,
        *,
        user: str,
        role: Role,
    ) -> RetrainingRow:
        """Write a retraining and its job into the caller's transaction; `notify` after it.

        Raises:
            As of `start`.
        """
        if request.trainer != BUILT_IN and request.trainer not in self._trainers:
            raise Refused(
                "training.trainer",
                f"there is no trainer {request.trainer}",
                hint="`edgectl retrainings trainers` shows those that the server has",
            )
        parent = _parent(session, model, request.parent)
        payload = {"subject": {"model": model, "trainer": request.trainer}, "role": role}
        job = self._jobs.create(session, RETRAIN, payload, user)
        row = RetrainingRow(
            id=job,
            model=model,
            parent=parent.version,
            dataset=dataset,
            trainer=request.trainer,
            request=request.model_dump(mode="json"),
            metrics=None,
            accuracies=None,
            verdicts=None,
            candidate=None,
            calibration=None,
            evaluation=None,
            version=None,
            log="",
            created_at=self._now(),
            created_by=user,
            tracking={"state": "pending", "error": ""} if self._tracked else None,
            track_at=self._now() if self._tracked else None,
        )
        session.add(row)
        session.flush()
        describe(object=row.id, model=model, dataset=dataset, trainer=request.trainer)
        return row

    def notify(self) -> None:
        """Wake the worker: there is something to do."""
        self._jobs.notify()

    def page(self, paging: PageQuery, model: str | None) -> Page[RetrainingInfo]:
        """Return one page of them, the newest first."""
        wanted = select(RetrainingRow)
        if model is not None:
            wanted = wanted.where(RetrainingRow.model == model)
        if paging.q:
            wanted = wanted.where(match(paging.q, (RetrainingRow.model, RetrainingRow.trainer)))
        by = order(paging.sort, _SORT, default="-created_at", last=RetrainingRow.id)
        with self._database.read() as session:
            rows, total = fetch_page(session, wanted.order_by(*by), paging)
            items = [_info(row, session.get_one(Job, row.id)) for row in rows]
        return Page(items=items, total=total)

    def get(self, retraining: str) -> RetrainingDetail:
        """Return one with its figures; raise `NotFound` ``training.unknown``."""
        with self._database.read() as session:
            row = session.get(RetrainingRow, retraining)
            if row is None:
                raise NotFound(
                    "training.unknown",
                    f"there is no retraining {retraining[:40]}",
                    hint="`edgectl retrainings list` shows those that there are",
                )
            return _detail(row, session.get_one(Job, row.id))


def trained_by(trainers: Mapping[str, OwnTrainer]) -> ColumnElement[bool]:
    """Return the condition on `Job` that a machine with these trainers can do a retraining."""
    named = Job.payload["subject"]["trainer"].as_string()
    able: ColumnElement[bool] = named.in_([BUILT_IN, *trainers])
    return able


class RetrainHandler:
    """Handles jobs of kind ``retrain``."""

    def __init__(
        self,
        directory: Path,
        *,
        settings: Settings,
        database: Database,
        blobs: BlobStore,
        datasets: Datasets,
        registry: Registry,
        trainers: Mapping[str, OwnTrainer],
        now: Callable[[], datetime],
    ) -> None:
        """Take what it needs; `directory` holds one folder a job while it is worked on."""
        self._directory = make_private_directory(directory)
        for left in self._directory.iterdir():  # of a server that was killed
            shutil.rmtree(left, ignore_errors=True)
        self._settings = settings
        self._database = database
        self._blobs = blobs
        self._datasets = datasets
        self._registry = registry
        self._trainers = trainers
        self._now = now

    def run(self, context: JobContext) -> None:
        """Train, decide and push; see the module."""
        row = self._row(context)
        if row.candidate is None:
            self._make(context, row)
            row = self._row(context)
        context.check()
        context.progress("push", row.model)
        accepted = self._registry.push(
            row.model, self._push_request(row), row.created_by, context.payload["role"]
        )
        with self._database.write() as session:
            result = {"model": row.model, "version": accepted.version, "push_job": accepted.job}
            context.finish(session, result)
            session.get_one(RetrainingRow, row.id).version = accepted.version

    def ended(self, session: Session, job: Job, error: ServerError) -> None:
        """The job's row says it all."""

    # ------------------------------------------------------------ steps

    def _make(self, context: JobContext, row: RetrainingRow) -> None:
        """Train, examine and judge; keep the candidate where it has passed."""
        directory = make_private_directory(self._directory / context.id / str(context.fence))
        request = RetrainRequest.model_validate(row.request)
        said = Said(lambda values: self._note(context, values))
        try:
            try:
                self._fetch(context, row, directory)
                metrics = self._train(context, row, request, directory, said)
                context.progress("examine", row.trainer)
                spec = TrainSpec(task="examine", model=row.model, limits=self._limits())
                examined = run_examination(spec, directory, cancelled=context.cancelled)
            except PipelineCancelled as error:
                raise JobCancelled from error
            except PipelineError as error:
                self._note(context, {"log": said.text, "metrics": said.metrics})
                data = {name: value for name, value in error.data.items() if name != "report"}
                raise JobFailed(error.code, error.detail, hint=error.hint, data=data) from error
            figures = {"metrics": metrics, "log": said.text}
            self._judge(context, request, directory, figures=figures, examined=examined)
        finally:
            shutil.rmtree(directory.parent, ignore_errors=True)

    def _fetch(self, context: JobContext, row: RetrainingRow, directory: Path) -> None:
        context.progress("fetch", f"{row.model}@{row.parent}")
        with self._database.read() as session:
            parent = _parent(session, row.model, row.parent)
        self._blobs.copy_to(parent.source, directory / SOURCE)
        for digest, name in ((parent.calibration, CALIBRATION), (parent.evaluation, EVALUATION)):
            if digest is not None:
                self._blobs.copy_to(digest, directory / name)
        context.check()
        self._datasets.write_to(row.dataset, directory / DATASET)

    def _train(
        self,
        context: JobContext,
        row: RetrainingRow,
        request: RetrainRequest,
        directory: Path,
        said: Said,
    ) -> dict[str, float]:
        def tell(progress: Progress) -> None:
            context.progress(progress.stage, progress.message, progress.done, progress.total)

        context.progress("train", row.trainer)
        if row.trainer == BUILT_IN:
            spec = TrainSpec(
                task="head",
                model=row.model,
                limits=self._limits(),
                head=HeadOptions(old_drop_points_max=request.old_drop_points_max),
            )
            return run_head_trainer(
                spec, directory, on_progress=tell, cancelled=context.cancelled
            ).metrics
        own = self._trainers.get(row.trainer)
        if own is None:
            detail = f"the trainer {row.trainer} is not in the server's settings any more"
            raise JobFailed(
                "training.trainer", detail, hint="start the server with it, or name another"
            )

        def cancelled() -> bool:
            said.look()
            return context.cancelled()

        with held_back(directory):
            trained = run_own_trainer(
                own,
                directory,
                on_progress=tell,
                on_log=said.add,
                on_metrics=said.take,
                cancelled=cancelled,
            )
        said.take(trained.metrics)
        return said.metrics

    def _judge(
        self,
        context: JobContext,
        request: RetrainRequest,
        directory: Path,
        *,
        figures: dict[str, Any],
        examined: Examined,
    ) -> None:
        """Write the figures down, and the candidate where the gates let it pass."""
        bounds = Bounds(request.gain_points_min, request.old_drop_points_max, request.rows_min)
        old = None if examined.old is None else Pair(**msgspec.structs.asdict(examined.old))
        new = Pair(**msgspec.structs.asdict(examined.new))
        verdicts = judge(bounds, old, new)
        values: dict[str, Any] = {
            **figures,
            "accuracies": msgspec.to_builtins(examined),
            "verdicts": [dataclasses.asdict(one) for one in verdicts],
        }
        if not passed(verdicts):
            self._note(context, values)
            failed = [one for one in verdicts if one.verdict not in {"passed", "not_asked"}]
            raise JobFailed(
                "training.worse",
                "what was trained may not take the place of what serves: "
                + "; ".join(f"{one.gate} {one.verdict}: {one.detail}" for one in failed),
                hint="label more samples, or say with other bounds that this is good enough",
                data={"verdicts": values["verdicts"]},
            )
        for name, file in (
            ("candidate", MODEL), ("calibration", CALIBRATION), ("evaluation", EVALUATION),
        ):  # fmt: skip
            path = directory / OUT / file
            values[name] = self._blobs.add_file(path) if path.exists() else None
        self._note(context, values)

    def _note(self, context: JobContext, values: Mapping[str, Any]) -> None:
        with self._database.write() as session:
            context.hold(session)
            row = session.get_one(RetrainingRow, context.id)
            for name, value in values.items():
                setattr(row, name, value)
            for name in ("candidate", "calibration", "evaluation"):
                digest = values.get(name)
                if digest is not None and session.get(Blob, digest) is None:
                    size = self._blobs.size(digest)
                    session.add(Blob(digest=digest, size=size, created_at=self._now()))

    def _push_request(self, row: RetrainingRow) -> PushRequest:
        with self._database.read() as session:
            parent = _parent(session, row.model, row.parent)
        assert row.candidate is not None
        request = RetrainRequest.model_validate(row.request)
        options = PushOptions.model_validate(parent.options)
        options.update_budget_points = request.update_budget_points
        return PushRequest(
            model=hex_of(row.candidate),
            filename=f"{row.model}-{row.trainer}.onnx",
            calibration=None if row.calibration is None else hex_of(row.calibration),
            evaluation=None if row.evaluation is None else hex_of(row.evaluation),
            own_metric=None if parent.own_metric is None else hex_of(parent.own_metric),
            options=options,
            parent=row.parent,
            training_data=row.dataset,
            code_revision=f"edgectl {__version__}, trainer {row.trainer}",
        )

    def _limits(self) -> PipelineLimits:
        return PipelineLimits(
            memory_bytes=self._settings.pipeline_memory_bytes_max,
            cpu_s=self._settings.pipeline_cpu_s_max,
            wall_s=float(self._settings.pipeline_wall_s_max),
        )

    def _row(self, context: JobContext) -> RetrainingRow:
        with self._database.read() as session:
            return session.get_one(RetrainingRow, context.id)


def _parent(session: Session, model: str, version: str | None) -> ModelVersion:
    """Return the version to begin from, if something can be trained from it."""
    if version is not None:
        row = get_version(session, model, version)
    else:
        found = version_in_service(session, model)
        if found is None:
            raise NotFound(
                "version.unknown",
                f"{model} has no version that is ready",
                hint="push one first: `edgectl push`",
            )
        row = found
    problem = ""
    if row.encrypted:
        problem = "is encrypted in all its variants, and its file was removed"
    elif row.imported is not None:
        problem = "was imported, without the file that it was made of"
    elif row.options.get("processing"):
        problem = "has declared steps, and samples are before them"
    if problem:
        raise Refused(
            "training.source",
            f"{model}@{row.version} {problem}: nothing can be trained from it here",
            hint="train elsewhere and push the result, or name another version with --parent",
        )
    return row


def _info(row: RetrainingRow, job: Job) -> RetrainingInfo:
    return RetrainingInfo(**_fields(row, job))


def _detail(row: RetrainingRow, job: Job) -> RetrainingDetail:
    found = row.accuracies or {}
    old, new = (
        None if found.get(name) is None else AccuracyPair.model_validate(found[name])
        for name in ("old", "new")
    )
    verdicts: Sequence[Any] = row.verdicts or []
    return RetrainingDetail(
        **_fields(row, job),
        old=old,
        new=new,
        metrics=row.metrics or {},
        verdicts=[ChampionVerdict.model_validate(one) for one in verdicts],
        log=row.log,
        tracking=None
        if row.tracking is None
        else TrackingInfo.model_validate(
            {name: row.tracking.get(name, "") for name in TrackingInfo.model_fields}
        ),
    )


def _fields(row: RetrainingRow, job: Job) -> dict[str, Any]:
    shown = job_info(job)
    return {
        "id": row.id,
        "model": row.model,
        "parent": row.parent,
        "dataset": row.dataset,
        "trainer": row.trainer,
        "state": shown.state,
        "progress": shown.progress,
        "error": shown.error,
        "version": row.version,
        "push_job": (shown.result or {}).get("push_job"),
        "created_at": row.created_at,
        "created_by": row.created_by,
        "finished_at": shown.finished_at,
    }
