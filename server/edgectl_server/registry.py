"""The model registry: models, their versions, and what happens to a push.

Rules: a version is its content (model file, data, options), named once and for ever; pushing the
same again is answered with what is there. A version that was refused or has failed may be tried
again with the same content, and with no other. Where its bundles are made they stay, and are not
measured again: then it may be tried again under terms that are no stricter. Whoever pushes names
files that were uploaded before, by their SHA-256.

::

    processing ──► ready, unsigned
        ▲   └────► refused, failed
        └── the same push again ──┘

What becomes of a version that waits for signatures: `edgectl_server.version_signing`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from edgectl_protocol.requirements import update_budget_problem
from edgectl_server.errors import Conflict, NotFound, Refused
from edgectl_server.jobs import Jobs
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.steps import decode_steps, labels_of
from edgectl_server.policies import Terms, check_terms, terms_of
from edgectl_server.schemas import (
    ImportedInfo,
    ModelSummary,
    Page,
    Problem,
    PushAccepted,
    PushOptions,
    PushRequest,
    Report,
    Role,
    RunningInfo,
    SignatureWait,
    Trial,
    VariantInfo,
    VersionComparison,
    VersionDetail,
    VersionShare,
    VersionSummary,
)
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.storage.paging import PageQuery, fetch_page, match, order
from edgectl_server.storage.tables import (
    BundleVariant,
    DesiredSlot,
    Device,
    Job,
    Model,
    ModelVersion,
    ReportedSlot,
)
from edgectl_server.uploads import discard_uploads
from edgectl_server.version_comparison import compare_versions
from edgectl_server.version_rows import ancestors_of, bundles_of, find_version, get_version

__all__ = ["PUSH", "Registry", "content_of"]

PUSH = "push"
"""Kind of the job."""
RUNNING_MAX = 500
"""Bundles that are listed of what devices run."""
LABELS_MAX = 1024
LABEL_CHARACTERS_MAX = 256
WaitsFor = Callable[[str], SignatureWait | None]
"""Takes the path of a target."""
_AGAIN = frozenset({"refused", "failed"})
_MADE = frozenset({"unsigned", "ready"})
_MODEL_SORT = {"name": Model.name, "created_at": Model.created_at}
_VERSION_SORT = {
    "created_at": ModelVersion.created_at,
    "version": ModelVersion.version,
    "state": ModelVersion.state,
}


def content_of(request: PushRequest) -> str:
    """Return the identity of a push: the digest over what decides its result."""
    # What is as by default is left out: an option that comes with a later release changes nothing.
    options, usual = request.options.model_dump(mode="json"), PushOptions().model_dump(mode="json")
    for name in ("precisions", "encrypt", "require", "allow"):
        options[name] = sorted(set(options[name]))
    options = {name: value for name, value in options.items() if value != usual[name]}
    text = json.dumps(
        {
            "source": request.model,
            "calibration": request.calibration,
            "evaluation": request.evaluation,
            **({} if request.own_metric is None else {"own_metric": request.own_metric}),
            **({} if request.parent is None else {"parent": request.parent}),
            "options": options,
        },
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=True,
    )
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


class _Shown(NamedTuple):
    """What is not in a version's row; looked up once for each answer."""

    running: dict[tuple[str, str], int]
    waits_for: WaitsFor


class Registry:
    """Models and versions."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        jobs: Jobs,
        now: Callable[[], datetime],
        *,
        shares: Callable[[], Sequence[VersionShare]],
        waits_for: Callable[[], WaitsFor],
    ) -> None:
        """Take what it needs.

        Args:
            database: migrated.
            blobs: where uploads are.
            jobs: with a handler for `PUSH`.
            now: the clock.
            shares: how many devices run which version.
            waits_for: asked once for each answer; says whose signatures a bundle waits for.
        """
        self._database = database
        self._blobs = blobs
        self._jobs = jobs
        self._now = now
        self._shares = shares
        self._waits_for = waits_for

    # ------------------------------------------------------------ pushing

    def push(
        self, name: str, request: PushRequest, user: str, role: Role = "operator"
    ) -> PushAccepted:
        """Begin to make a version, or say that it is there.

        Raises:
            Refused: ``version.options``, ``version.parent``, ``version.update_budget``,
                ``version.require``,
                ``version.allow``, ``policy.metric``, ``processing.invalid``.
            Forbidden: ``policy.override``.
            Conflict: ``upload.missing``, ``version.exists``, ``version.terms``.
        """
        request = _checked(request)
        self._check_uploads(request)
        try:
            accepted = self._push(name, request, user, role)
        except IntegrityError:  # somebody else has just made the same model or version
            accepted = self._push(name, request, user, role)
        self._jobs.notify()
        return accepted

    def _push(self, name: str, request: PushRequest, user: str, role: Role) -> PushAccepted:
        content = content_of(request)
        with self._database.write() as session:
            terms = terms_of(session, name, request, user=user, role=role)
            model = session.get(Model, name, with_for_update=True)
            if model is None:
                session.add(Model(name=name, created_at=self._now(), created_by=user))
                session.flush()
            row = self._existing(session, name, request.version, content)
            if row is not None and row.content != content:
                raise Conflict(
                    "version.exists",
                    f"{name}@{row.version} exists with other content, and a version never changes",
                    hint="push it as another version, or leave the version out",
                    data={"model": name, "version": row.version, "state": row.state},
                )
            if row is not None and row.state not in _AGAIN:
                if row.state != "processing":  # they were sent again for this answer
                    discard_uploads(session, self._blobs, row)
                return PushAccepted(model=name, version=row.version, job=row.job, created=False)
            if row is None:
                row = self._add(session, name, request, user, content)
            elif bundles_of(session, row.id):
                _check_made(session, row, terms)
            row.state, row.problem = "processing", None
            row.job = self._jobs.create(session, PUSH, _payload(row, request, user, terms), user)
            return PushAccepted(model=name, version=row.version, job=row.job, created=True)

    def _existing(
        self, session: Session, name: str, version: str | None, content: str
    ) -> ModelVersion | None:
        wanted = select(ModelVersion).where(ModelVersion.model == name)
        if version is not None:
            wanted = wanted.where(ModelVersion.version == version)
        else:
            wanted = wanted.where(ModelVersion.content == content).order_by(ModelVersion.id.desc())
        return session.scalars(wanted.limit(1).with_for_update()).first()

    def _add(
        self, session: Session, name: str, request: PushRequest, user: str, content: str
    ) -> ModelVersion:
        versions = session.scalars(
            select(ModelVersion.version).where(ModelVersion.model == name)
        ).all()
        if request.parent is not None and request.parent not in versions:
            raise Refused(
                "version.parent",
                f"there is no version {request.parent} of {name} to descend from",
                hint=f"`edgectl models show {name}` lists the versions",
            )
        source = f"sha256:{request.model}"
        row = ModelVersion(
            model=name,
            version=request.version or _next_version(versions),
            state="processing",
            content=content,
            source=source,
            source_size=self._blobs.size(source),
            source_name=request.filename,
            calibration=_digest(request.calibration),
            evaluation=_digest(request.evaluation),
            own_metric=_digest(request.own_metric),
            options=request.options.model_dump(mode="json"),
            encrypted=set(request.options.precisions) <= set(request.options.encrypt),
            report=None,
            parent=request.parent,
            job=None,
            problem=None,
            imported=None,
            created_at=self._now(),
            created_by=user,
        )
        session.add(row)
        session.flush()
        return row

    def _check_uploads(self, request: PushRequest) -> None:
        named = [request.model, request.calibration, request.evaluation, request.own_metric]
        missing = sorted({one for one in named if one and not self._blobs.exists(f"sha256:{one}")})
        if missing:
            raise Conflict(
                "upload.missing",
                f"{len(missing)} of the named files have not been uploaded",
                hint="send them with PATCH /api/v1/uploads/{sha256} first",
                data={"missing": missing},
            )

    # ------------------------------------------------------------ reading

    def models(self, paging: PageQuery) -> Page[ModelSummary]:
        """Return one page of the models."""
        wanted = select(Model).order_by(
            *order(paging.sort, _MODEL_SORT, default="name", last=Model.name)
        )
        if paging.q:
            wanted = wanted.where(match(paging.q, (Model.name,)))
        shown = self._shown()
        with self._database.read() as session:
            rows, total = fetch_page(session, wanted, paging)
            return Page(items=[_model(session, row, shown) for row in rows], total=total)

    def model(self, name: str) -> ModelSummary:
        """Return a model; raise `NotFound` ``model.unknown``."""
        shown = self._shown()
        with self._database.read() as session:
            return _model(session, _find_model(session, name), shown)

    def versions(self, name: str, paging: PageQuery) -> Page[VersionSummary]:
        """Return one page of a model's versions; raise `NotFound` ``model.unknown``."""
        wanted = (
            select(ModelVersion)
            .where(ModelVersion.model == name)
            .order_by(
                *order(paging.sort, _VERSION_SORT, default="-created_at", last=ModelVersion.id)
            )
        )
        if paging.q:
            wanted = wanted.where(match(paging.q, (ModelVersion.version, ModelVersion.source_name)))
        shown = self._shown()
        with self._database.read() as session:
            _find_model(session, name)
            rows, total = fetch_page(session, wanted, paging)
            return Page(items=[_summary(session, row, shown) for row in rows], total=total)

    def version(self, name: str, version: str) -> VersionDetail:
        """Return a version with its report; raise `NotFound` ``version.unknown``."""
        shown = self._shown()
        with self._database.read() as session:
            return _detail(session, get_version(session, name, version), shown)

    def compare(self, name: str, left: str, right: str) -> VersionComparison:
        """Return two versions side by side; raise `NotFound` ``version.unknown``."""
        shown = self._shown()
        with self._database.read() as session:
            rows = [get_version(session, name, version) for version in (left, right)]
            lines = [[row, *ancestors_of(session, row)] for row in rows]
            theirs = {row.version for row in lines[1]}
            common = next((row.version for row in lines[0] if row.version in theirs), None)
            before, after = (_detail(session, row, shown) for row in rows)
        return compare_versions(before, after, ancestor=common)

    def running(self, name: str) -> list[RunningInfo]:
        """Return how many devices run which bundle of a model; raise `NotFound` ``model.unknown``.

        The bundle that most devices run comes first.
        """
        devices = func.count().label("devices")
        wanted = (
            select(
                ReportedSlot.version,
                ReportedSlot.manifest,
                devices,
                func.count().filter(Device.online),
            )
            .join(Device, Device.id == ReportedSlot.device)
            .where(
                Device.state == "enrolled",
                ReportedSlot.slot == name,
                ReportedSlot.version.is_not(None),
            )
            .group_by(ReportedSlot.version, ReportedSlot.manifest)
            .order_by(devices.desc(), ReportedSlot.version, ReportedSlot.manifest)
            .limit(RUNNING_MAX)
        )
        ours = (
            select(BundleVariant.manifest, BundleVariant.variant)
            .join(ModelVersion, ModelVersion.id == BundleVariant.version_id)
            .where(ModelVersion.model == name)
        )
        with self._database.read() as session:
            _find_model(session, name)
            variants = dict(session.execute(ours).all())
            return [
                RunningInfo(
                    version=version or "",
                    manifest=manifest or "",
                    variant=variants.get(manifest or ""),
                    devices=count,
                    online=online,
                )
                for version, manifest, count, online in session.execute(wanted)
            ]

    def snapshot(self, reference: str) -> VersionSummary | None:
        """Return ``model@version`` as it is shown, or None; for live listeners."""
        name, _, version = reference.partition("@")
        shown = self._shown()
        with self._database.read() as session:
            row = find_version(session, name, version)
            return None if row is None else _summary(session, row, shown)

    def _shown(self) -> _Shown:
        running = {(share.model, share.version): share.devices for share in self._shares()}
        return _Shown(running, self._waits_for())


def _checked(request: PushRequest) -> PushRequest:
    """Return the request as it is meant: requirements spelt, class names from the steps."""
    options = _with_labels(request.options)
    _check_options(options)
    _check_update_budget(request)
    require = check_terms(options.require, options.allow)
    if request.own_metric is not None and options.metric is not None:
        raise Refused(
            "version.options",
            "a metric is named, and another was uploaded",
            hint="leave one of them out",
        )
    spelt = options.model_copy(update={"require": list(require)})
    return request.model_copy(update={"options": spelt})


def _check_made(session: Session, row: ModelVersion, terms: Terms) -> None:
    """Refuse to sign bundles that are made, under stricter terms than they were measured by."""
    job = None if row.job is None else session.get(Job, row.job)
    before = {} if job is None else job.payload.get("terms", {})
    if not before or not msgspec.convert(before, type=Terms).covers(terms):
        raise Conflict(
            "version.terms",
            f"the bundles of {row.model}@{row.version} are made, and were not measured by what is "
            "demanded now",
            hint="push it as another version, by name (--version): that one is measured anew",
            data={"model": row.model, "version": row.version, "state": row.state},
        )


def _check_update_budget(request: PushRequest) -> None:
    """Refuse a budget for smaller updates where nothing is there to lead from, or to measure on."""
    if request.options.update_budget_points is None:
        return
    data = request.calibration is not None or request.evaluation is not None
    problem = update_budget_problem(parent=request.parent is not None, data=data)
    if problem is not None:
        raise Refused("version.update_budget", problem[0], hint=problem[1])


def _check_options(options: PushOptions) -> None:
    if not options.precisions:
        raise Refused("version.options", "no precision was asked for", hint="fp32, int8, or both")
    if not set(options.encrypt) <= set(options.precisions):
        raise Refused(
            "version.options",
            "what is not made cannot be encrypted",
            hint=f"encrypt what is made: {', '.join(sorted(set(options.precisions)))}",
        )
    if len(options.labels) > LABELS_MAX or any(
        len(label) > LABEL_CHARACTERS_MAX for label in options.labels
    ):
        raise Refused(
            "version.options",
            f"at most {LABELS_MAX} labels of at most {LABEL_CHARACTERS_MAX} characters",
        )


def _with_labels(options: PushOptions) -> PushOptions:
    """Return the options with the class names of the declared steps; refuse two lists that differ.

    Raises:
        Refused: ``processing.invalid`` where the steps cannot be read, ``version.options``.
    """
    if not options.processing:
        return options
    try:
        labels = list(labels_of(decode_steps(options.processing)))
    except PipelineRefused as error:
        raise Refused(error.code, error.detail, hint=error.hint) from error
    if labels and options.labels not in ([], labels):
        raise Refused(
            "version.options",
            "the steps give other class names than the push",
            hint="give them once: in the steps, or as labels",
        )
    return options.model_copy(update={"labels": labels or options.labels})


def _payload(row: ModelVersion, request: PushRequest, user: str, terms: Terms) -> dict[str, Any]:
    return {
        "subject": {"model": row.model, "version": row.version},
        "version_id": row.id,
        "terms": msgspec.to_builtins(terms),
        "lineage": {
            "source": row.source,
            "parent": request.parent,
            "pushed_by": user,
            "training_data": request.training_data,
            "code_revision": request.code_revision,
        },
    }


def _next_version(versions: Iterable[str]) -> str:
    numbers = [int(version) for version in versions if version.isdecimal() and version.isascii()]
    return str(max(numbers, default=0) + 1)


def _digest(sha256: str | None) -> str | None:
    return None if sha256 is None else f"sha256:{sha256}"


def _find_model(session: Session, name: str) -> Model:
    row = session.get(Model, name)
    if row is None:
        raise NotFound(
            "model.unknown", f"there is no model {name}", hint="`edgectl models list` lists them"
        )
    return row


def _model(session: Session, row: Model, shown: _Shown) -> ModelSummary:
    versions = select(ModelVersion).where(ModelVersion.model == row.name)
    latest = session.scalars(versions.order_by(ModelVersion.id.desc()).limit(1)).first()
    count = session.scalar(select(func.count()).select_from(versions.subquery()))
    desired = session.scalar(
        select(func.count(func.distinct(DesiredSlot.device)))
        .join(ModelVersion, ModelVersion.id == DesiredSlot.version_id)
        .join(Device, Device.id == DesiredSlot.device)
        .where(ModelVersion.model == row.name, Device.state == "enrolled")
    )
    return ModelSummary(
        name=row.name,
        created_at=row.created_at,
        versions=int(count or 0),
        latest=None if latest is None else _summary(session, latest, shown),
        devices_running=sum(
            number for (model, _), number in shown.running.items() if model == row.name
        ),
        devices_desired=int(desired or 0),
    )


def _summary(session: Session, row: ModelVersion, shown: _Shown) -> VersionSummary:
    variants = _variants(session, row)
    report = row.report or {}
    return VersionSummary.model_validate(
        {
            "model": row.model,
            "version": row.version,
            "state": row.state,
            "waits_for": shown.waits_for(variants[0].target)
            if row.state == "unsigned" and variants
            else None,
            "source": row.source,
            "source_bytes": row.source_size,
            "created_at": row.created_at,
            "created_by": row.created_by,
            "job": row.job,
            "metric": report.get("metric"),
            "reference": report.get("reference"),
            "best": variants[0] if variants else None,
            "devices_running": shown.running.get((row.model, row.version), 0),
            "parent": row.parent,
        }
    )


def _detail(session: Session, row: ModelVersion, shown: _Shown) -> VersionDetail:
    options = PushOptions.model_validate(row.options)
    return VersionDetail(
        **_summary(session, row, shown).model_dump(),
        source_name=row.source_name,
        calibration=row.calibration,
        evaluation=row.evaluation,
        own_metric=row.own_metric,
        options=options,
        labels=options.labels,
        variants=_variants(session, row),
        report=None if row.report is None else Report.model_validate(row.report),
        error=_error(session, row),
        imported=None if row.imported is None else ImportedInfo.model_validate(row.imported),
    )


def _variants(session: Session, row: ModelVersion) -> list[VariantInfo]:
    """Return the bundles of a version that is made, the one that is tried first first."""
    if row.state not in _MADE:
        return []
    return [
        VariantInfo(
            variant=one.variant,
            precision=one.precision,
            manifest=one.manifest,
            target=one.target,
            model_bytes=one.model_bytes,
            bundle_bytes=one.bundle_bytes,
            encrypted=one.content_key is not None,
            rank=one.rank,
            trial=Trial.model_validate(one.trial),
        )
        for one in bundles_of(session, row.id)
    ]


def _error(session: Session, row: ModelVersion) -> Problem | None:
    if row.state in _AGAIN and row.problem is not None:
        return Problem.model_validate(row.problem)
    if row.state not in _AGAIN or row.job is None:
        return None
    job = session.get(Job, row.job)
    return None if job is None or job.error is None else Problem.model_validate(job.error)
