"""A version that comes as a file: the same verification, without a network."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.core import offline_file
from agent.core.control_plane import ControlPlane
from agent.core.device import Device
from agent.core.made import MadeBundle, make_bundle
from agent.core.offline_file import Entries, entries_of, index_of, tar
from agent.inference import models
from edgectl_protocol.manifest import MODEL_FILES, decode_manifest, layer_by_file
from edgectl_protocol.offline import INDEX_FILE, METADATA_FOLDER, blob_file
from edgectl_server.signing.keys import Keys
from edgectl_server.signing.repository import Repository, Target

MakeDevice = Callable[..., Device]
TIMESTAMP = METADATA_FOLDER + "timestamp.json"


def bundle_of(directory: Path, version: str = "1", **config: Any) -> MadeBundle:
    made = models.make_bundle(directory, version=version, scores=True, **config)
    return make_bundle(made.config, Path(made.model).read_bytes(), Path(made.golden).read_bytes())


def sign(plane: ControlPlane, *bundles: MadeBundle) -> None:
    """Sign, and publish nothing."""
    targets = [Target(one.candidate.target, one.digest, len(one.manifest)) for one in bundles]
    plane.repository.add_targets(targets, plane.now)


def install(device: Device, file: Path, *more: str) -> tuple[int, str]:
    """Install; return the exit code, and the code of the error or what was said last."""
    code, output, errors = device.command("install", str(file), *more, "--json", timeout_s=120)
    if "error[" in errors:
        return code, errors.partition("error[")[2].partition("]")[0]
    return code, output.splitlines()[-1]


@pytest.fixture
def alone(plane: ControlPlane, make_device: MakeDevice) -> Device:
    """A device that was enrolled once and has no broker now."""
    device = make_device()
    device.start()
    device.wait("connected")
    plane.link.close()
    plane.broker.stop()
    device.wait("disconnected")
    return device


def test_without_a_network_it_installs_and_serves(
    plane: ControlPlane, alone: Device, tmp_path: Path
) -> None:
    bundle = bundle_of(tmp_path)
    sign(plane, bundle)
    file = offline_file.write(tmp_path / "har.oci", entries_of(plane, bundle))
    code, said = install(alone, file)
    assert code == 0, said
    assert json.loads(said)["update"]["state"] == "committed"
    (row,) = alone.told("models")
    assert (row["slot"], row["role"], row["version"]) == ("activity", "running", "1")
    assert row["manifest"] == bundle.digest
    assert row["bytes"] == sum(map(len, bundle.blobs.values()))
    assert row["trial"]["golden_passed"] == 16
    client = models.Client(alone.told("status")["endpoint"])
    assert client.call("GET", "/v2/models/activity")[0] == 200
    client.close()
    assert not list((alone.state / "offline").iterdir()), "what came as a file is forgotten"
    # A second one on top; and after a restart, still without a broker, it serves.
    (tmp_path / "two").mkdir()
    second = bundle_of(tmp_path / "two", "2")
    sign(plane, second)
    newer = offline_file.write(tmp_path / "two.oci", entries_of(plane, second))
    assert install(alone, newer)[0] == 0
    assert [one["role"] for one in alone.told("models")] == ["running", "previous"]
    # What was believed once is the floor: the older file is refused now, with what to do.
    code, _, errors = alone.command("install", str(file))
    assert (code, "error[offline.old]" in errors) == (1, True), errors
    assert "edgectl export" in errors
    alone.kill()
    alone.start()
    alone.wait("ready")
    assert alone.told("models")[0]["version"] == "2"
    assert install(alone, file) == (1, "offline.old"), "the floor is in the journal"
    assert alone.stop() == 0


def test_what_is_spoiled_is_refused_and_nothing_is_left(
    plane: ControlPlane, alone: Device, tmp_path: Path
) -> None:
    bundle = bundle_of(tmp_path)
    other = bundle_of(tmp_path, variant="int8")
    sign(plane, bundle)
    good = entries_of(plane, bundle)
    model = layer_by_file(decode_manifest(bundle.manifest), MODEL_FILES["onnx"]).digest
    stranger = _stranger(tmp_path, bundle)

    unversioned = good[TIMESTAMP].replace(b'"version":', b'"Version":', 1)
    for_both = {**entries_of(plane, bundle, other), INDEX_FILE: index_of(other)}
    renamed = good[INDEX_FILE].replace(bundle.digest.encode(), other.digest.encode())
    also = {blob_file(other.digest): other.manifest}

    def without(name: str) -> bytes:
        return tar({one: content for one, content in good.items() if one != name})

    spoiled = [
        ("altered blob", tar({**good, blob_file(model): _flip(good[blob_file(model)])}),
         "offline.damaged"),
        ("altered manifest", tar({**good, blob_file(bundle.digest): _flip(bundle.manifest)}),
         "offline.damaged"),
        ("blob missing", without(blob_file(model)), "offline.malformed"),
        ("altered metadata", tar({**good, TIMESTAMP: unversioned}), "trust.refused"),
        ("metadata missing", without(TIMESTAMP), "offline.incomplete"),
        ("metadata of a stranger", tar({**good, **stranger}), "trust.refused"),
        ("another bundle under the name", tar({**good, INDEX_FILE: renamed, **also}),
         "trust.mismatch"),
        ("not signed for", tar(for_both), "trust.target"),
        ("path traversal", tar({**good, "../../../tmp/edgectl-escaped": b"x"}),
         "offline.malformed"),
        ("compressed", gzip.compress(tar(good)), "offline.compressed"),
        ("truncated", tar(good)[:-200_000], "offline.truncated"),
    ]  # fmt: skip
    file = tmp_path / "spoiled.oci"
    for name, content, expected in spoiled:
        file.write_bytes(content)
        assert install(alone, file) == (1, expected), name
        assert not list((alone.state / "blobs" / "sha256").iterdir()), name
        assert not list((alone.state / "offline").iterdir()), name
    assert not Path("/tmp/edgectl-escaped").exists()
    assert alone.told("models") == []
    file.write_bytes(tar(good))
    assert install(alone, file, "--variant", "int8") == (1, "offline.variant")
    assert install(alone, file)[0] == 0
    assert alone.stop() == 0


def _flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def _stranger(tmp_path: Path, bundle: MadeBundle) -> Entries:
    """The metadata that somebody else has signed for the same bundle."""
    from edgectl_agent.clock import now

    repository = Repository.open(tmp_path / "tuf", Keys.open(tmp_path / "keys"), now())
    target = Target(bundle.candidate.target, bundle.digest, len(bundle.manifest))
    repository.add_targets([target], now())
    files = repository.metadata_for([target.path])
    return {
        METADATA_FOLDER + (f"{r}.json" if v is None else f"{v}.{r}.json"): content
        for r, v, content in files
    }


def test_expired_signatures_are_refused_with_the_day(
    plane: ControlPlane, alone: Device, tmp_path: Path
) -> None:
    bundle = bundle_of(tmp_path)
    target = Target(bundle.candidate.target, bundle.digest, len(bundle.manifest))
    # Two days ago; the timestamp of then was good for one.
    plane.repository.add_targets([target], plane.now - timedelta(days=2))
    file = offline_file.write(tmp_path / "old.oci", entries_of(plane, bundle))
    code, _, errors = alone.command("install", str(file))
    assert code == 1
    assert "error[offline.expired]" in errors
    assert f"{plane.now - timedelta(days=1):%Y-%m-%d}" in errors
    assert "clock" in errors
    assert alone.stop() == 0


def test_without_an_agent_it_says_how_to_start_one(tmp_path: Path) -> None:
    device = Device("http://127.0.0.1:9", "", tmp_path / "state")
    device.state.mkdir()
    file = tmp_path / "x.oci"
    file.write_bytes(b"")
    code, _, errors = device.command("install", str(file))
    assert code == 3
    assert "error[agent.down]" in errors
    assert "edgectl-agent run" in errors
    assert device.command("install", str(tmp_path / "missing"))[0] == 1
