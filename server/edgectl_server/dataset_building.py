"""What a dataset is to be: which samples, in which splits, with which answers and statistics.

Rules: all rows have the inputs and classes of the newest sample's bundle. Samples of another
contract, damaged or unlabelled ones are left out, and counted; so are those that are sealed to a
key that this server does not have, and where there are no others the dataset is refused. A dataset
that continues another takes its rows over; what is said of a sample by now wins. Nothing is written
here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from edgectl_datasets.documents import (
    BLOBS_BYTES_MAX,
    FORMAT,
    ROWS_MAX,
    SPLITS,
    AnsweredBy,
    Dataset,
    Row,
    SplitName,
    SplitRule,
    dataset_id,
)
from edgectl_datasets.fitting import misfit_of
from edgectl_datasets.samples import Arrays, answer_of, read_sample
from edgectl_datasets.splits import split_rows
from edgectl_datasets.statistics import Counting
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.manifest import BundleConfig
from edgectl_protocol.names import hex_of
from edgectl_server.contracts import Contracts, classes_of
from edgectl_server.device_filter import site_column
from edgectl_server.errors import NotFound, Refused
from edgectl_server.rollout_sites import site_of
from edgectl_server.samples import live_samples
from edgectl_server.schemas import DatasetRequest
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import Device, SampleRow

__all__ = ["Built", "DatasetBuilder", "slices"]

_CONSIDERED_MAX = 100_000
"""Samples that are looked at, with and without labels."""
_LOOKED_FOR = 500
"""Names in one statement."""


class _Candidate(NamedTuple):
    """A sample that may become a row."""

    row: Row
    version: str
    length: int
    blob: str
    """Its digest."""


class Built(NamedTuple):
    """A dataset that is not yet in the database."""

    dataset: Dataset
    rows: Sequence[Row]
    lengths: Mapping[str, int]
    """By blob, in hexadecimal."""


class DatasetBuilder:
    """Decides what datasets are. Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        database: Database,
        contracts: Contracts,
        uploads: BlobStore,
        now: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._contracts = contracts
        self._uploads = uploads
        self._now = now

    def build(self, asked: DatasetRequest, parent: Built | None) -> Built:
        """Read what is asked for, and decide what the dataset is.

        Raises:
            Refused: ``dataset.empty``, ``dataset.large``, ``dataset.sealed``.
        """
        left_out: Counter[str] = Counter()
        candidates, config = self._candidates(asked, parent, left_out)
        counting, sound = Counting(), []
        size = 0
        for one in candidates:
            arrays = self._checked(one, config)
            if arrays is None:
                left_out["content"] += 1
                continue
            answer = answer_of(arrays, config.scores)
            counting.add(one.row.sample, arrays)
            row = one.row._replace(answer=answer.number, confidence=answer.confidence)
            sound.append(one._replace(row=row))
            size += one.length
            if size > BLOBS_BYTES_MAX:
                raise _too_large(f"more than {BLOBS_BYTES_MAX} bytes")
        if not sound and left_out["sealed"]:
            raise Refused(
                "dataset.sealed",
                f"{left_out['sealed']} samples of {asked.model} are sealed to a key that this "
                f"server does not have, and there are no others; {_left_out(left_out)}",
                hint="open them where the key is (`edgectl samples get ID --key FILE`), and make "
                "the dataset there; or have devices seal to the server's key from now on: "
                f"`edgectl samples policy {asked.model} --seal server`",
            )
        if not sound:
            raise Refused(
                "dataset.empty",
                f"there is no sample of {asked.model} as asked for; {_left_out(left_out)}",
                hint="see what there is with `edgectl labels status MODEL`, and label some; or "
                "take those without a label too with `--with-unlabelled`",
            )
        rule, rows = _split([one.row for one in sound], asked, parent)
        versions = Counter((one.row.model_digest, one.version) for one in sound)
        dataset = Dataset(
            format=FORMAT,
            id="sha256:" + "0" * 64,
            name=asked.name,
            created=self._now().replace(microsecond=0),
            model=asked.model,
            inputs=config.inputs,
            classes=classes_of(config),
            rows=len(rows),
            splits={name: sum(row.split == name for row in rows) for name in SPLITS},
            split=rule,
            parent=None if parent is None else parent.dataset.id,
            models=tuple(
                AnsweredBy(manifest=manifest, version=version, rows=count)
                for (manifest, version), count in sorted(versions.items())
            ),
            filter=_told(asked),
            left_out=dict(sorted(left_out.items())),
            statistics=counting.statistics(rows, len(classes_of(config))),
        )
        dataset = msgspec.structs.replace(dataset, id=dataset_id(dataset, rows))
        return Built(dataset, rows, {one.row.blob: one.length for one in sound})

    def _candidates(
        self, asked: DatasetRequest, parent: Built | None, left_out: Counter[str]
    ) -> tuple[list[_Candidate], BundleConfig]:
        """Return what may become rows, in the order of the samples, and their contract."""
        with self._database.read() as session:
            found = self._select(session, asked)
            sites = _sites(session, {row.device for row in found})
        newest = max(found, key=lambda row: (row.taken_at, row.id), default=None)
        config = None if newest is None else self._contracts.find(newest.manifest)
        if config is None and parent is not None:
            config = self._contracts.find(parent.rows[-1].model_digest)
        if config is None:
            raise Refused(
                "dataset.empty",
                f"there is no sample of {asked.model} as asked for",
                hint="`edgectl samples list` and `edgectl labels list` show what is here",
            )
        chosen: dict[str, _Candidate] = {}
        for row in found:
            if row.sealed:
                left_out["sealed"] += 1
            elif asked.labelled and row.label_state != "labelled":
                left_out[row.label_state or "unlabelled"] += 1
            elif not self._fits(row.manifest, config):
                left_out["contract"] += 1
            else:
                chosen[row.id] = _candidate(row, sites.get(row.device, ""))
        for kept in () if parent is None else self._carried(parent, config, left_out):
            chosen.setdefault(kept.row.sample, kept)
        if len(chosen) > ROWS_MAX:
            raise _too_large(f"{len(chosen)} rows")
        return [chosen[sample] for sample in sorted(chosen)], config

    def _select(self, session: Session, asked: DatasetRequest) -> Sequence[SampleRow]:
        wanted = live_samples(asked.model, self._now())
        if asked.reasons:
            wanted = wanted.where(SampleRow.reason.in_(asked.reasons))
        if asked.since is not None:
            wanted = wanted.where(SampleRow.taken_at >= asked.since)
        if asked.until is not None:
            wanted = wanted.where(SampleRow.taken_at < asked.until)
        if asked.site is not None:
            wanted = wanted.join(Device, SampleRow.device == Device.id).where(
                site_column() == asked.site
            )
        rows = session.scalars(wanted.order_by(SampleRow.id).limit(_CONSIDERED_MAX + 1)).all()
        if len(rows) > _CONSIDERED_MAX:
            raise _too_large(f"more than {_CONSIDERED_MAX} samples to choose from")
        return rows

    def _carried(
        self, parent: Built, config: BundleConfig, left_out: Counter[str]
    ) -> Iterator[_Candidate]:
        """Yield the rows of the parent, as far as they are of the contract."""
        versions = {one.manifest: one.version for one in parent.dataset.models}
        if parent.dataset.inputs != config.inputs or parent.dataset.classes != classes_of(config):
            left_out["contract"] += len(parent.rows)
            return
        for row in parent.rows:
            version, length = versions[row.model_digest], parent.lengths[row.blob]
            yield _Candidate(row, version, length, f"sha256:{row.blob}")

    def _fits(self, manifest: str, config: BundleConfig) -> bool:
        other = self._contracts.find(manifest)
        return (
            other is not None
            and other.inputs == config.inputs
            and classes_of(other) == classes_of(config)
        )

    def _checked(self, one: _Candidate, config: BundleConfig) -> Arrays | None:
        """Return the tensors of a sample; None where its content is not what it must be."""
        try:
            _, arrays = read_sample(self._uploads.read(one.blob))
        except (ProtocolError, NotFound):
            return None
        return None if misfit_of(arrays, config.inputs) else arrays


def _candidate(row: SampleRow, site: str) -> _Candidate:
    labelled = row.label_state == "labelled"
    made = Row(
        sample=row.id,
        split="train",
        label=row.label if labelled else None,
        number=row.label_number if labelled else -1,
        device=row.device,
        site=site,
        reason=row.reason,
        captured_at=row.taken_at,
        model_digest=row.manifest,
        answer=-1,
        confidence=None,
        blob=hex_of(row.digest),
    )
    return _Candidate(made, row.version, row.length, row.digest)


def _split(
    rows: Sequence[Row], asked: DatasetRequest, parent: Built | None
) -> tuple[SplitRule, Sequence[Row]]:
    known: dict[str, SplitName] = {}
    if parent is not None and parent.dataset.split.by != "time":
        known = {row.device: row.split for row in parent.rows}
    split = split_rows(
        [(row.device, row.captured_at, row.sample) for row in rows],
        asked.ratios,
        asked.seed,
        known=known,
    )
    put = [row._replace(split=of) for row, of in zip(rows, split.of, strict=True)]
    return SplitRule(by=split.by, ratios=asked.ratios, seed=asked.seed), put


def _told(asked: DatasetRequest) -> dict[str, str | bool]:
    """Return what was asked for, as the document keeps it."""
    told: dict[str, str | bool] = {"labelled": asked.labelled}
    if asked.reasons:
        told["reasons"] = ",".join(sorted(asked.reasons))
    if asked.site is not None:
        told["site"] = asked.site
    for name, moment in (("since", asked.since), ("until", asked.until)):
        if moment is not None:
            told[name] = moment.isoformat()
    return told


def _sites(session: Session, devices: set[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for some in slices(sorted(devices)):
        for device in session.scalars(select(Device).where(Device.id.in_(some))):
            found[device.id] = site_of(device)
    return found


def slices(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield `names` in parts that fit into one statement."""
    for at in range(0, len(names), _LOOKED_FOR):
        yield names[at : at + _LOOKED_FOR]


def _left_out(counts: Mapping[str, int]) -> str:
    """Say of how many samples the reason was which, such as ``left out: 3 unlabelled``."""
    told = (f"{count} {reason}" for reason, count in sorted(counts.items()))
    return f"left out: {', '.join(told) or 'none'}"


def _too_large(what: str) -> Refused:
    return Refused(
        "dataset.large",
        f"{what}, at most {ROWS_MAX} rows and {BLOBS_BYTES_MAX} bytes",
        hint="ask for less: a time, a site, a reason",
    )
