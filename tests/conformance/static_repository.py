"""Writes a repository that our server's code has signed, as tuf-conformance wants static ones.

``python tests/conformance/static_repository.py FOLDER [TARGETS]`` makes FOLDER with that many
targets (``static_data/<name>`` in a checkout of the suite), and prints what is in it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from edgectl_agent.clock import now
from edgectl_protocol.metadata import target_path
from edgectl_protocol.names import digest_of, hex_of
from edgectl_server.signing.keys import Keys
from edgectl_server.signing.repository import Repository, Target


def content_of(number: int) -> bytes:
    """Return what stands for the manifest of one version."""
    return f"manifest {number}\n".encode()


def path_of(number: int) -> str:
    """Return the path of one target: ten versions of each model."""
    return target_path(f"model-{number // 10}", str(number % 10), "int8")


def make(folder: Path, count: int) -> int:
    """Write the repository into `folder`; return the bytes of its metadata."""
    with tempfile.TemporaryDirectory() as scratch:
        keys = Keys.open(Path(scratch) / "keys")
        repository = Repository.open(Path(scratch) / "tuf", keys, now())
        contents = [content_of(number) for number in range(count)]
        repository.add_targets(
            [
                Target(path_of(number), digest_of(content), len(content))
                for number, content in enumerate(contents)
            ],
            now(),
        )
        metadata = folder / "metadata"
        metadata.mkdir(parents=True)
        length = 0
        for role, version, content in repository.metadata():
            name = f"{role}.json" if version is None else f"{version}.{role}.json"
            (metadata / name).write_bytes(content)
            length += len(content)
        (folder / "initial_root.json").write_bytes(repository.first_root)
    wanted = count // 2
    (folder / "targetpath").write_text(f"{path_of(wanted)}\n")
    directory, _, name = path_of(wanted).rpartition("/")
    target = folder / "targets" / directory / f"{hex_of(digest_of(contents[wanted]))}.{name}"
    target.parent.mkdir(parents=True)
    target.write_bytes(contents[wanted])
    return length


if __name__ == "__main__":
    wanted_count = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    written = make(Path(sys.argv[1]), wanted_count)
    print(f"{sys.argv[1]}: {wanted_count} targets, {written} bytes of metadata")
