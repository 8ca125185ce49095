"""What there is to learn from, put where devices and people put theirs; and who is learning."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from edgectl.demo.wearers import Window, turned
from edgectl.types import AnnotationImport, AnnotationItem
from edgectl_protocol.names import digest_of
from edgectl_protocol.samples import SampleNote, SampleTensor, encode_sample
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import SampleRow
from server.learning.store import upload_row

TURN = 45.0
NAMES = ("pi-1", "pi-2")
"""Devices that the samples are of."""


def trainers_of(server):
    """Return the processes below `server` that train or examine."""
    parents, found = {}, set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(status[1])
            if b"edgectl_server.training" in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
    return {one for one in found if server in lineage(one, parents)}


def lineage(process, parents):
    above = []
    while process in parents and len(above) < 64:
        process = parents[process]
        above.append(process)
    return above


def alive(processes):
    """Return those that have not ended; a zombie has."""
    left = set()
    for one in processes:
        with suppress(OSError):
            if Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                left.add(one)
    return left


def put_samples(server, activity, count, *, database_url="", blobs=""):
    """Put turned windows where samples of devices are; return their ids with their labels.

    Args:
        server: that runs version 1 of the activity model, called har, with named classes.
        activity: its data.
        count: of the windows.
        database_url: of the server, where it is not in its data folder.
        blobs: folder of its blob store, where that is elsewhere.
    """
    version = server.client.get_version("har", "1")
    manifest = version.variants[0].manifest
    uploads = BlobStore(f"{blobs or server.data / 'blobs'}/device-uploads")
    database = Database(database_url or f"sqlite:///{server.data / 'edgectl.sqlite'}")
    now = datetime.now(UTC)  # noqa: TID251
    rows = np.random.default_rng(7).permutation(len(activity["labels"]))[:count]
    found = []
    try:
        with database.write() as session:
            for number, row in enumerate(rows):
                label = int(activity["labels"][row])
                values = turned(Window(activity["windows"][row], label, False), TURN).values[None]
                scores = np.full((1, len(version.labels)), 1 / len(version.labels), np.float32)
                taken = now - timedelta(minutes=number)
                tensors = [
                    (SampleTensor(name, "F32", array.shape), array.astype("<f4").tobytes())
                    for name, array in (("input.input", values), ("output.scores", scores))
                ]
                note = SampleNote(
                    model="har", version="1", manifest=manifest, reason="random", taken_at=taken
                )
                content = encode_sample(note, tensors)
                uploads.add_bytes(content)
                device = NAMES[number % len(NAMES)]
                upload = upload_row(device, digest_of(content), len(content), now)
                upload.expires_at = now + timedelta(days=1)
                session.add(upload)
                session.flush()
                sample = f"{0x77000000 + number:016x}"
                session.add(
                    SampleRow(
                        id=sample, upload=upload.id, device=device, model="har", version="1",
                        manifest=manifest, digest=upload.digest, reason="random", taken_at=taken,
                        received_at=now, length=len(content), answer=0, confidence=0.5,
                        tensors=[{"name": one.name, "datatype": "FP32", "shape": list(one.shape)}
                                 for one, _ in tensors],
                    )
                )  # fmt: skip
                found.append((sample, version.labels[label]))
    finally:
        database.close()
    return found


def label(server, samples):
    items = [AnnotationItem(sample=sample, label=label) for sample, label in samples]
    server.client.import_annotations(AnnotationImport(items=items, truth=True))
