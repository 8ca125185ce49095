"""The push job: from uploaded files to a published version.

::

    convert → pipeline (child processes) → pack → rows ╗ transaction 1
    sign the manifests (TUF) → publish the metadata →  ╚ version ready or unsigned, job done:
                                                         transaction 2

A crash between any two steps is harmless. Before transaction 1 nothing is known outside: the
pipeline runs again. After it the manifests are fixed by their digests, and signing, publishing and
ending can each be done twice. So what is signed for a version is one content, for ever, though the
pipeline might choose another recipe the next time (it measures latencies), and encrypts by a fresh
key.

Of a push that is encrypted in all its variants the uploaded files are removed when the job ends, so
that the blob store holds nothing of it in the clear.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec
from sqlalchemy.orm import Session

from edgectl_protocol.manifest import (
    Lineage,
    decode_manifest,
)
from edgectl_server.errors import ServerError
from edgectl_server.jobs import JobCancelled, JobContext, JobFailed
from edgectl_server.pipeline.errors import PipelineCancelled, PipelineError, PipelineRefused
from edgectl_server.pipeline.spec import (
    PipelineSpec,
    Progress,
    to_document,
)
from edgectl_server.push_inputs import PushInputs, variants_of
from edgectl_server.schemas import PushOptions
from edgectl_server.settings import Settings
from edgectl_server.signing.repository import Target
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.storage.files import make_private_directory
from edgectl_server.storage.tables import Blob, BundleVariant, Job, ModelVersion
from edgectl_server.trial_sharing import Distributes
from edgectl_server.uploads import discard_uploads
from edgectl_server.version_rows import counter_of
from edgectl_server.version_signing import Settled

if TYPE_CHECKING:
    from edgectl_server.pipeline.pack import PackedVariant

__all__ = ["PushHandler", "PushRefused"]

logger = logging.getLogger(__name__)


class PushRefused(JobFailed):
    """The model or its data are not acceptable; ``data["report"]`` is what was tried."""

    title = "The push was refused"


class Signs(Protocol):
    """What is needed of the TUF repository."""

    def add_targets(self, targets: Sequence[Target], now: datetime) -> bool:
        """Sign for manifests."""


class Settles(Protocol):
    """What is needed to know the state of a version."""

    def state_of(self, variants: Sequence[BundleVariant]) -> Settled:
        """Return whether it is ready or waits for signatures."""


class KeepsKeys(Protocol):
    """What is needed of the content keys."""

    def keep(self, content_key: bytes, manifest: str) -> str:
        """Return a content key as it is kept in the database."""


class SignsForMicrocontrollers(Protocol):
    """What is needed of their key."""

    def sign(self, message: bytes) -> bytes:
        """Return the signature of a message."""


class RemembersTrials(Protocol):
    """What is needed of the memory of trials."""

    def bring(self, key: str, directory: Path) -> int:
        """Lay what is known into the folder of a run."""

    def keep(self, key: str, directory: Path) -> int:
        """Take what is new from there."""


class Publishes(Protocol):
    """What is needed of the publisher."""

    def publish_metadata(self) -> object:
        """Bring the signed metadata to the broker."""


class _Packed(NamedTuple):
    """Bundles in the blob store, and the report about them."""

    variants: list[PackedVariant]
    report: dict[str, Any]
    labels: list[str]
    """Names of the classes: those of the push, or those that the model brings."""


class PushHandler:
    """Handles jobs of kind ``push``."""

    def __init__(
        self,
        directory: Path,
        *,
        settings: Settings,
        database: Database,
        blobs: BlobStore,
        repository: Signs,
        signing: Settles,
        content_keys: KeepsKeys,
        microcontrollers: SignsForMicrocontrollers,
        known_trials: RemembersTrials,
        sharing: Distributes,
        publisher: Publishes,
        now: Callable[[], datetime],
    ) -> None:
        """Take what it needs; `directory` holds one folder a job while it is worked on."""
        self._directory = make_private_directory(directory)
        for left in self._directory.iterdir():  # of a server that was killed
            shutil.rmtree(left, ignore_errors=True)
        self._inputs = PushInputs(settings, database, blobs)
        self._database = database
        self._blobs = blobs
        self._repository = repository
        self._signing = signing
        self._content_keys = content_keys
        self._microcontrollers = microcontrollers
        self._known_trials = known_trials
        self._sharing = sharing
        self._publisher = publisher
        self._now = now

    def run(self, context: JobContext) -> None:
        """Do the push; see the module."""
        version = self._version(context)
        variants = variants_of(self._database, version.id)
        if not variants:
            self._make(context, version)
            variants = variants_of(self._database, version.id)
        context.check()
        context.progress("sign", f"{len(variants)} variants")
        self._repository.add_targets(_targets(variants), self._now())
        context.progress("publish", f"{version.model}@{version.version}")
        self._publisher.publish_metadata()  # where the broker is away, it is done when it is back
        settled = self._signing.state_of(variants)
        with self._database.write() as session:
            context.finish(session, _result(version, variants, settled))
            row = session.get(ModelVersion, version.id, with_for_update=True)
            assert row is not None
            # What has just been staged and was taken back since is found by the next `settle`.
            row.state = "ready" if settled.state == "ready" else "unsigned"
            row.problem = None
            discard_uploads(session, self._blobs, row)

    def ended(self, session: Session, job: Job, error: ServerError) -> None:
        """Mark the version, in the transaction in which the job ends without a result."""
        row = session.get(ModelVersion, job.payload["version_id"], with_for_update=True)
        if row is None or row.job != job.id:
            return
        row.state = "refused" if isinstance(error, PushRefused) else "failed"
        if "report" in error.data:
            row.report = error.data["report"]
        discard_uploads(session, self._blobs, row)

    # ------------------------------------------------------------ steps

    def _make(self, context: JobContext, version: ModelVersion) -> None:
        """Run the pipeline, pack what it has made, and write the rows."""
        directory = make_private_directory(self._directory / context.id / str(context.fence))
        try:
            with _translated():
                packed = self._packed(context, version, directory)
        finally:
            shutil.rmtree(directory.parent, ignore_errors=True)
        with self._database.write() as session:
            context.hold(session)
            row = session.get(ModelVersion, version.id, with_for_update=True)
            assert row is not None
            row.report = packed.report
            row.options = row.options | {"labels": packed.labels}
            session.add_all(_row(version, one, self._content_keys) for one in packed.variants)
            for digest, size in _blobs_of(packed.variants).items():
                blob = Blob(digest=digest, size=size, created_at=self._now(), published=True)
                session.merge(blob)

    def _packed(self, context: JobContext, version: ModelVersion, directory: Path) -> _Packed:
        """Run the pipeline, and put what it has made into the blob store."""
        from edgectl_server.pipeline.known import trial_key
        from edgectl_server.pipeline.pack import MicrocontrollerSigner, pack
        from edgectl_server.pipeline.provenance import tool_versions
        from edgectl_server.pipeline.runner import run_pipeline

        def tell(progress: Progress) -> None:
            context.progress(progress.stage, progress.message, progress.done, progress.total)

        context.progress("fetch", version.source_name)
        spec, pushed = self._inputs.fetch(context, version, directory, tell)
        work = make_private_directory(directory / "work")
        encrypt = PushOptions.model_validate(version.options).encrypt
        alone = pushed.source_format == "tflite"  # nothing is tried of it
        # Of what is encrypted nothing stays in the clear.
        key = None if encrypt or alone else trial_key(spec)
        if key is not None:
            self._known_trials.bring(key, work)
        try:
            if key is not None:
                self._share(context, spec, key, work)
            result = run_pipeline(spec, work, on_progress=tell, cancelled=context.cancelled)
        finally:
            if key is not None:
                self._known_trials.keep(key, work)
        if pushed.conversion is not None:  # the lineage begins at what was pushed
            result = msgspec.structs.replace(result, source=version.source)
        context.progress("pack")
        with self._database.read() as session:
            counter = counter_of(session, version.id)
        variants = pack(
            result,
            work,
            blobs=self._blobs,
            model=version.model,
            version=version.version,
            labels=spec.labels,
            lineage=Lineage(**context.payload["lineage"]),
            encrypt=encrypt,
            tools=tool_versions(),
            card=PushOptions.model_validate(version.options).card,
            microcontrollers=MicrocontrollerSigner(counter, self._microcontrollers.sign),
        )
        report = to_document(result.report)
        report["warnings"] = [*pushed.notes, *report["warnings"]]
        return _Packed(variants, report, list(spec.labels))

    def _share(self, context: JobContext, spec: PipelineSpec, key: str, work: Path) -> None:
        """Have other machines make trials, where there are any, and do a part too."""
        from edgectl_server.pipeline.runner import run_pipeline

        def tell(progress: Progress) -> None:
            context.progress(progress.stage, f"part 1 of {len(others) + 1}: {progress.message}")

        if "onnxruntime" not in spec.runtimes:
            return
        # What is measured once is so by the whole search.
        spec = msgspec.structs.replace(
            spec, converted=(), parents=(), kept=(), update_budget_points=None
        )
        others = self._sharing.begin(context, spec, key)
        if not others:
            return
        part = msgspec.structs.replace(spec, part=0, parts=len(others) + 1)
        with suppress(PipelineRefused):  # the whole search decides, on all trials
            run_pipeline(part, work, on_progress=tell, cancelled=context.cancelled)
        context.progress("quantize", f"{len(others)} other machines")
        self._sharing.wait(context, others)
        self._known_trials.keep(key, work)
        self._known_trials.bring(key, work)

    def _version(self, context: JobContext) -> ModelVersion:
        with self._database.read() as session:
            row = session.get(ModelVersion, context.payload["version_id"])
            assert row is not None, context.payload
            return row


@contextmanager
def _translated() -> Iterator[None]:
    """Turn the pipeline's errors into those of a job."""
    try:
        yield
    except PipelineCancelled as error:
        raise JobCancelled from error
    except PipelineError as error:
        kind = PushRefused if isinstance(error, PipelineRefused) else JobFailed
        raise kind(error.code, error.detail, hint=error.hint, data=dict(error.data)) from error
    except OSError as error:
        raise JobFailed(
            "push.disk",
            f"cannot write the files of the job: {error.strerror or error}",
            hint="make room in the server's data folder, then push again",
        ) from error


def _targets(variants: Sequence[BundleVariant]) -> list[Target]:
    return [
        Target(path=one.target, digest=one.manifest, length=one.manifest_size) for one in variants
    ]


def _row(version: ModelVersion, packed: PackedVariant, keys: KeepsKeys) -> BundleVariant:
    key = packed.content_key
    return BundleVariant(
        version_id=version.id,
        variant=packed.variant,
        precision=packed.precision,
        target=packed.target,
        manifest=packed.digest,
        manifest_size=len(packed.manifest),
        bundle_bytes=packed.bundle_bytes,
        model_bytes=packed.model_bytes,
        rank=packed.rank,
        trial=packed.trial,
        content_key=None if key is None else keys.keep(key, packed.digest),
    )


def _blobs_of(packed: Sequence[PackedVariant]) -> dict[str, int]:
    """Return the size of every blob that the bundles consist of."""
    sizes: dict[str, int] = {}
    for one in packed:
        manifest = decode_manifest(one.manifest)
        sizes[one.digest] = len(one.manifest)
        for descriptor in (manifest.config, *manifest.layers):
            sizes[descriptor.digest] = descriptor.size
    return sizes


def _result(
    version: ModelVersion, variants: Sequence[BundleVariant], settled: Settled
) -> dict[str, Any]:
    return {
        "model": version.model,
        "version": version.version,
        "waits_for": settled.role or None,
        "variants": [
            {
                "variant": one.variant,
                "precision": one.precision,
                "manifest": one.manifest,
                "model_bytes": one.model_bytes,
                "bundle_bytes": one.bundle_bytes,
            }
            for one in variants
        ],
    }
