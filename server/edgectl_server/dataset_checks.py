"""Rules of data on datasets of the server, with what only it knows: the model and its reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from edgectl_datasets.checks import Bounds, check
from edgectl_datasets.documents import Dataset, Row
from edgectl_datasets.facts import gather
from edgectl_datasets.samples import Arrays
from edgectl_protocol.manifest import TensorSpec
from edgectl_protocol.watching import Reference
from edgectl_server.contracts import Contracts
from edgectl_server.references import References
from edgectl_server.schemas import DataCheckFinding, DataCheckReport
from edgectl_server.storage.database import Database
from edgectl_server.version_rows import newest_manifest

__all__ = ["DatasetChecks"]

Samples = Callable[[str], tuple[Dataset, Sequence[Row], Iterator[tuple[Row, Arrays]]]]


class DatasetChecks:
    """Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        database: Database,
        contracts: Contracts,
        references: References,
        samples: Samples,
    ) -> None:
        """Take what it needs.

        Args:
            database: of the models.
            contracts: of the models.
            references: what their inputs were like.
            samples: reads a dataset by its name or id.
        """
        self._database = database
        self._contracts = contracts
        self._references = references
        self._samples = samples

    def check(self, name: str, bounds: Bounds) -> DataCheckReport:
        """Return what all rules find in a dataset.

        Raises:
            NotFound: ``dataset.unknown``, ``blob.missing``.
            Unavailable: ``dataset.damaged``.
        """
        dataset, rows, samples = self._samples(name)
        inputs, reference = self._model(dataset)
        facts = gather(dataset, rows, samples, reference=reference, model_inputs=inputs)
        found = check(facts, bounds)
        return DataCheckReport(
            id=dataset.id,
            failed=sum(one.status == "failed" for one in found),
            findings=[
                DataCheckFinding(
                    check=one.check,
                    status=one.status,
                    detail=one.detail,
                    samples=list(one.samples),
                )
                for one in found
            ],
        )

    def _model(self, dataset: Dataset) -> tuple[Sequence[TensorSpec] | None, Reference | None]:
        """Return what the newest version takes, and the reference of those that answered."""
        with self._database.read() as session:
            newest = newest_manifest(session, dataset.model)
            answered = max(dataset.models, key=lambda one: one.rows)
            known = self._references.find(session, answered.manifest)
        config = None if newest is None else self._contracts.find(newest)
        return (None if config is None else config.inputs), known.reference if known else None
