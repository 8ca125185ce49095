"""What a push hands to the pipeline: files, terms, and what a version takes over from others."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import select

from edgectl_protocol.manifest import (
    CONFIG_FILE,
    GOLDEN_FILE,
    decode_config,
    decode_manifest,
    is_encrypted,
    layer_by_file,
    model_layer,
)
from edgectl_protocol.watching import REFERENCE_FILE
from edgectl_server.converters.conversion import ConverterLimits
from edgectl_server.converters.environments import Environments
from edgectl_server.converters.for_litert import ForLitert, convert_for_litert
from edgectl_server.converters.pushed import Pushed, as_onnx
from edgectl_server.errors import NotFound
from edgectl_server.jobs import JobContext
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.spec import (
    KeptVariant,
    ParentVariant,
    PipelineLimits,
    PipelineSpec,
    Progress,
    Replaced,
)
from edgectl_server.pipeline.steps import decode_steps
from edgectl_server.policies import MAX_DROP_POINTS, Terms
from edgectl_server.schemas import PushOptions
from edgectl_server.settings import Settings
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.storage.files import make_private_directory
from edgectl_server.storage.tables import BundleVariant, ModelVersion
from edgectl_server.version_rows import bundles_of

__all__ = ["PushInputs", "variants_of"]

logger = logging.getLogger(__name__)


class _Parent(NamedTuple):
    """What a version may take over from the one before."""

    model: str | None = None
    """Digest of its int8 model."""
    recipe: str = ""
    float_nodes: tuple[str, ...] = ()


class PushInputs:
    """Fetches what a push needs."""

    def __init__(self, settings: Settings, database: Database, blobs: BlobStore) -> None:
        self._settings = settings
        self._database = database
        self._blobs = blobs
        self._environments = Environments(
            settings.converters_path,
            build_s_max=float(settings.converter_install_s_max),
            on_demand=settings.converters_on_demand,
        )

    def fetch(
        self,
        context: JobContext,
        version: ModelVersion,
        directory: Path,
        tell: Callable[[Progress], None],
    ) -> tuple[PipelineSpec, Pushed]:
        """Fetch the files of a push, convert the model if need be, and say what is to be done.

        Args:
            context: of the job.
            version: what is pushed.
            directory: where the files are laid.
            tell: told of the conversion.

        Raises:
            PipelineError: the model cannot be converted.
        """
        fetch = functools.partial(self._lay, context, directory)
        options = PushOptions.model_validate(version.options)
        _check_encrypted(options)
        parent = self._parent(version)
        terms = _terms(context.payload, options)
        source = fetch(version.source, "source")
        assert source is not None
        calibration = fetch(version.calibration, "calibration.npz")
        evaluation = fetch(version.evaluation, "evaluation.npz")
        pushed = as_onnx(
            source,
            version.source_name,
            make_private_directory(directory / "converted"),
            data=evaluation or calibration,
            environments=self._environments,
            limits=self._converter_limits(),
            on_progress=tell,
            cancelled=context.cancelled,
        )
        converted = self._for_litert(
            context, pushed, directory, tell, options=options, data=(calibration, evaluation)
        )
        pushed = dataclasses.replace(pushed, for_litert=converted.notes)
        spec = PipelineSpec(
            model=version.model,
            version=version.version,
            source=pushed.path,
            calibration=calibration,
            evaluation=evaluation,
            max_drop_points=terms.max_drop_points,
            precisions=tuple(sorted(set(options.precisions))),
            parent=fetch(parent.model, "parent.onnx"),
            parent_recipe=parent.recipe,
            parent_float_nodes=parent.float_nodes,
            labels=tuple(options.labels) or pushed.labels,
            input_shapes={name: tuple(shape) for name, shape in options.input_shapes.items()},
            processing=decode_steps(options.processing) if options.processing else None,
            objective=options.objective,
            runtimes=tuple(dict.fromkeys(options.runtimes)),
            converted=converted.converted,
            update_budget_points=options.update_budget_points,
            parents=self._parents(version, options, fetch),
            kept=self._kept(version, fetch),
            metric=terms.metric,
            own_metric=fetch(version.own_metric, "metric.py"),
            requirements=terms.requirements,
            allowed=terms.allow,
            allowed_by=terms.allowed_by,
            replaced=self._replaced(version, terms, fetch),
            limits=self._limits(options),
        )
        return spec, pushed

    def _lay(
        self, context: JobContext, directory: Path, digest: str | None, name: str
    ) -> Path | None:
        """Lay a blob into the job's folder."""
        if digest is None:
            return None
        context.check()
        self._blobs.copy_to(digest, directory / name)
        return directory / name

    def _for_litert(
        self,
        context: JobContext,
        pushed: Pushed,
        directory: Path,
        tell: Callable[[Progress], None],
        *,
        options: PushOptions,
        data: tuple[Path | None, Path | None],
    ) -> ForLitert:
        """Convert the model for LiteRT, if that is wanted and it is not for it already.

        `data` are those of calibration and of evaluation.
        """
        if "litert" not in options.runtimes or pushed.source_format == "tflite":
            return ForLitert(())
        impossible = ""
        if options.processing:
            impossible = "declared steps can be part of an ONNX model alone"
        elif options.input_shapes:
            impossible = "its shapes are not fixed before the conversion"
        return convert_for_litert(
            pushed.path,
            make_private_directory(directory / "litert"),
            precisions=options.precisions,
            calibration=data[0],
            evaluation=data[1],
            impossible=impossible,
            alone=set(options.runtimes) == {"litert"},
            environments=self._environments,
            limits=self._converter_limits(),
            on_progress=tell,
            cancelled=context.cancelled,
        )

    def _limits(self, options: PushOptions) -> PipelineLimits:
        return PipelineLimits(
            memory_bytes=self._settings.pipeline_memory_bytes_max,
            cpu_s=self._settings.pipeline_cpu_s_max,
            wall_s=float(self._settings.pipeline_wall_s_max),
            workers=self._settings.pipeline_workers,
            search_s_max=options.search_s_max,
        )

    def _converter_limits(self) -> ConverterLimits:
        return ConverterLimits(
            memory_bytes=self._settings.pipeline_memory_bytes_max,
            cpu_s=self._settings.pipeline_cpu_s_max,
            wall_s=float(self._settings.pipeline_wall_s_max),
        )

    def _parent(self, version: ModelVersion) -> _Parent:
        """Return the parent's int8 ONNX variant that devices try first, where it can be read."""
        with self._database.read() as session:
            variants = session.scalars(
                select(BundleVariant)
                .join(ModelVersion, ModelVersion.id == BundleVariant.version_id)
                .where(
                    ModelVersion.model == version.model,
                    ModelVersion.version == version.parent,
                    BundleVariant.precision == "int8",
                    BundleVariant.content_key.is_(None),
                )
                .order_by(BundleVariant.rank)
            ).all()
        chosen = next((one for one in variants if _is_onnx(one)), None)
        if chosen is None:
            return _Parent()
        try:
            bundle = decode_manifest(self._blobs.read(chosen.manifest))
            config = decode_config(self._blobs.read(layer_by_file(bundle, CONFIG_FILE).digest))
            self._blobs.size(model_layer(bundle).digest)
        except NotFound:  # the blob store has lost it: only the update becomes larger
            return _Parent()
        return _Parent(
            model=model_layer(bundle).digest,
            recipe=config.quantization.recipe,
            float_nodes=config.quantization.float_nodes,
        )

    def _parents(
        self,
        version: ModelVersion,
        options: PushOptions,
        fetch: Callable[[str | None, str], Path | None],
    ) -> tuple[ParentVariant, ...]:
        """Return the parent's variants from which small steps may lead: ONNX, in the clear."""
        if options.update_budget_points is None:
            return ()
        with self._database.read() as session:
            parent = session.scalars(
                select(ModelVersion).where(
                    ModelVersion.model == version.model,
                    ModelVersion.version == version.parent,
                )
            ).one()
        found = []
        for one in variants_of(self._database, parent.id):
            if not _is_onnx(one) or one.content_key is not None:
                continue
            try:
                manifest = decode_manifest(self._blobs.read(one.manifest))
                model = fetch(model_layer(manifest).digest, f"parent-{one.variant}.onnx")
            except NotFound:
                logger.warning("the blob store has lost %s@%s", parent.model, parent.version)
                continue
            assert model is not None
            found.append(
                msgspec.convert(
                    {"variant": one.variant, "precision": one.precision, "model": model},
                    type=ParentVariant,
                )
            )
        return tuple(found)

    def _kept(
        self, version: ModelVersion, fetch: Callable[[str | None, str], Path | None]
    ) -> tuple[KeptVariant, ...]:
        """Return what the parent's variants are proved and watched by, of those in the clear."""
        if version.parent is None:
            return ()
        with self._database.read() as session:
            parent = session.scalars(
                select(ModelVersion).where(
                    ModelVersion.model == version.model, ModelVersion.version == version.parent
                )
            ).one_or_none()
        found = []
        for one in () if parent is None else variants_of(self._database, parent.id):
            if one.content_key is not None:
                continue
            try:
                manifest = decode_manifest(self._blobs.read(one.manifest))
                files = {layer.file: layer.digest for layer in manifest.layers}
                golden = fetch(files[GOLDEN_FILE], f"kept-{one.variant}.npz")
                reference = fetch(files.get(REFERENCE_FILE), f"kept-{one.variant}.json")
            except (NotFound, KeyError):  # the update becomes larger, no more
                logger.warning("files of %s@%s are not there", version.model, version.parent)
                continue
            assert golden is not None
            found.append(KeptVariant(variant=one.variant, golden=golden, reference=reference))
        return tuple(found)

    def _replaced(
        self, version: ModelVersion, terms: Terms, fetch: Callable[[str | None, str], Path | None]
    ) -> Replaced | None:
        """Return the version that this one replaces: its parent, or the newest that is made."""
        with self._database.read() as session:
            made = select(ModelVersion).where(
                ModelVersion.model == version.model,
                ModelVersion.id != version.id,
                ModelVersion.state.in_(("ready", "unsigned")),
            )
            if version.parent is not None:
                made = made.where(ModelVersion.version == version.parent)
            before = session.scalars(made.order_by(ModelVersion.id.desc()).limit(1)).first()
        variants = [] if before is None else variants_of(self._database, before.id)
        if before is None or not variants:
            return None
        # All variants answer alike; fp32 is what the new fp32 is compared with.
        onnx_first = sorted(variants, key=_is_onnx, reverse=True)
        chosen = next((one for one in onnx_first if one.precision == "fp32"), variants[0])
        try:
            manifest = decode_manifest(self._blobs.read(chosen.manifest))
            config = decode_config(self._blobs.read(layer_by_file(manifest, CONFIG_FILE).digest))
        except NotFound:
            logger.warning("the blob store has lost %s %s", before.model, before.version)
            return None
        model = None
        needed = any(one.name == "parent_agreement" for one in terms.requirements)
        if needed and not is_encrypted(manifest):
            model = fetch(model_layer(manifest).digest, f"replaced.{config.format}")
        return Replaced(
            version=before.version,
            inputs=config.inputs,
            outputs=config.outputs,
            scores=config.scores,
            labels=config.labels,
            model=model,
        )


def _is_onnx(variant: BundleVariant) -> bool:
    """Say so; variants that were made before there was another runtime name none."""
    return bool(variant.trial.get("runtime", "onnxruntime") == "onnxruntime")


def variants_of(database: Database, version_id: int) -> Sequence[BundleVariant]:
    """Return the variants of a version in the order in which devices try them."""
    with database.read() as session:
        return bundles_of(session, version_id)


def _terms(payload: dict[str, Any], options: PushOptions) -> Terms:
    """Return the terms of a job; one that was made by an older release has its options alone."""
    if "terms" in payload:
        return msgspec.convert(payload["terms"], type=Terms)
    asked = options.max_drop_points
    return Terms(max_drop_points=MAX_DROP_POINTS if asked is None else asked)


def _check_encrypted(options: PushOptions) -> None:
    """Refuse what a microcontroller could not open: it has no key of its own."""
    if "cortex-m" in options.runtimes and "int8" in options.encrypt:
        raise PipelineRefused(
            "model.unsupported",
            "A variant for microcontrollers cannot be encrypted.",
            "Push without --encrypt int8, or without --runtime cortex-m.",
        )
