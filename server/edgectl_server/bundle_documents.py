"""What was written about a version, for people and tools: documents of its bundles, its lineage.

Everything is read from the signed bundles in the blob store, where it is fixed, and from the rows
for what has no bundle. Bundles of servers before this one may have fewer documents.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct
from sqlalchemy import select

from edgectl_protocol.errors import MalformedMessage
from edgectl_protocol.manifest import (
    CONFIG_FILE,
    SBOM_FILE,
    BundleConfig,
    Golden,
    Manifest,
    decode_config,
    decode_manifest,
    layer_by_file,
)
from edgectl_server.errors import NotFound
from edgectl_server.schemas import (
    AncestorInfo,
    GoldenInfo,
    ImportedInfo,
    LineageInfo,
    ToleranceInfo,
    ToolInfo,
    VariantLineage,
)
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import BundleVariant, ModelVersion
from edgectl_server.version_rows import ancestors_of, bundles_of, get_version

__all__ = ["BundleDocuments", "DocumentFile"]

DocumentFile = Literal["model-card.md", "sbom.cdx.json"]
_CHILDREN_MAX = 100
_DOCUMENT_BYTES_MAX = 16 * 1024 * 1024


class _Tool(Struct):
    name: Annotated[str, Meta(max_length=256)]
    version: Annotated[str, Meta(max_length=256)] = ""


class _Tools(Struct):
    components: Annotated[list[_Tool], Meta(max_length=1024)]


class _Made(Struct):
    tools: _Tools


class _Sbom(Struct):
    """What is read here of a bill of materials."""

    metadata: _Made


class BundleDocuments:
    """Reads documents and lineages."""

    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs

    def read(self, name: str, version: str, variant: str, file: DocumentFile) -> bytes:
        """Return a document of a bundle.

        Raises:
            NotFound: ``version.unknown``, ``variant.unknown``, ``document.unknown``.
        """
        with self._database.read() as session:
            row = get_version(session, name, version)
            bundles = bundles_of(session, row.id)
        for bundle in bundles:
            if bundle.variant == variant:
                return self._document(bundle, file)
        made = ", ".join(bundle.variant for bundle in bundles) or "nothing yet"
        raise NotFound(
            "variant.unknown",
            f"{name}@{version} has no variant {variant}",
            hint=f"what was made: {made}",
        )

    def lineage(self, name: str, version: str) -> LineageInfo:
        """Return where a version comes from; raise `NotFound` ``version.unknown``."""
        with self._database.read() as session:
            row = get_version(session, name, version)
            bundles = bundles_of(session, row.id)
            ancestors = [_ancestor(one) for one in ancestors_of(session, row)]
            children = session.scalars(
                select(ModelVersion.version)
                .where(ModelVersion.model == name, ModelVersion.parent == version)
                .order_by(ModelVersion.id)
                .limit(_CHILDREN_MAX)
            ).all()
        configs = [(bundle, self._config(bundle)) for bundle in bundles]
        origin = configs[0][1].lineage if configs else None
        report = row.report or {}
        return LineageInfo(
            model=name,
            version=version,
            source=row.source,
            source_name=row.source_name,
            source_bytes=row.source_size,
            pushed_by=row.created_by,
            pushed_at=row.created_at,
            parent=row.parent,
            ancestors=ancestors,
            children=list(children),
            training_data=origin.training_data if origin else None,
            code_revision=origin.code_revision if origin else "",
            calibration=row.calibration,
            evaluation=row.evaluation,
            measured_on=str(report.get("measured_on", "")),
            imported=None if row.imported is None else ImportedInfo.model_validate(row.imported),
            variants=[self._variant(bundle, config) for bundle, config in configs],
        )

    # ------------------------------------------------------------ inside

    def _variant(self, bundle: BundleVariant, config: BundleConfig) -> VariantLineage:
        made = config.quantization
        return VariantLineage(
            variant=bundle.variant,
            precision=bundle.precision,
            manifest=bundle.manifest,
            recipe=made.recipe,
            float_nodes=list(made.float_nodes),
            calibration=made.calibration,
            calibration_samples=made.calibration_samples,
            steps_from=config.lineage.steps_from,
            tools=self._tools(bundle),
            golden=_golden(config.golden),
        )

    def _tools(self, bundle: BundleVariant) -> list[ToolInfo]:
        try:
            document = msgspec.json.decode(self._document(bundle, SBOM_FILE), type=_Sbom)
        except NotFound:
            return []
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return []  # of another server, and not as ours write it
        tools = document.metadata.tools.components
        return [ToolInfo(name=tool.name, version=tool.version) for tool in tools]

    def _document(self, bundle: BundleVariant, file: str) -> bytes:
        try:
            layer = layer_by_file(self._manifest(bundle), file)
        except MalformedMessage as error:
            raise NotFound(
                "document.unknown",
                f"the bundle {bundle.variant} has no {file}",
                hint="an older server has made it; push the model again for one",
            ) from error
        assert layer.size <= _DOCUMENT_BYTES_MAX, (bundle.manifest, file, layer.size)
        return self._blobs.read(layer.digest)

    def _config(self, bundle: BundleVariant) -> BundleConfig:
        layer = layer_by_file(self._manifest(bundle), CONFIG_FILE)
        return decode_config(self._blobs.read(layer.digest))

    def _manifest(self, bundle: BundleVariant) -> Manifest:
        return decode_manifest(self._blobs.read(bundle.manifest))


def _ancestor(row: ModelVersion) -> AncestorInfo:
    return AncestorInfo(
        version=row.version,
        source=row.source,
        state=row.state,
        pushed_by=row.created_by,
        pushed_at=row.created_at,
    )


def _golden(golden: Golden) -> GoldenInfo:
    return GoldenInfo(
        cases=golden.cases,
        agreement_min=golden.agreement_min,
        tolerances={
            name: ToleranceInfo(atol=one.atol, rtol=one.rtol)
            for name, one in golden.tolerances.items()
        },
    )
