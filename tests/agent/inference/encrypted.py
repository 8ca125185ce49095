"""An encrypted twin of a plain bundle, made by the server's own code."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgectl_agent.bundle import Bundle
from edgectl_protocol.names import digest_of
from edgectl_server.pipeline.encryption import encrypt_layer

KEY = bytes(range(32))


def encrypt_bundle(bundle: Bundle, directory: Path, *, key: bytes = KEY) -> Bundle:
    """Return the same bundle, encrypted, under another digest; each call gives a fresh key."""
    paths = {}
    model = bundle.config.model_file
    for file, source in ((model, bundle.model), ("golden.npz", bundle.golden)):
        paths[file] = directory / f"{bundle.slot}-{bundle.version}-{file}+encrypted"
        paths[file].unlink(missing_ok=True)
        encrypt_layer(Path(source), paths[file], content_key=key, file=file)
    return msgspec.structs.replace(
        bundle,
        manifest=digest_of(f"encrypted {bundle.manifest}".encode()),
        model=str(paths[model]),
        golden=str(paths["golden.npz"]),
        key=bytearray(key),
    )


def with_key(bundle: Bundle, key: bytes) -> Bundle:
    """Return the bundle with a key of its own, for it is wiped after use."""
    return msgspec.structs.replace(bundle, key=bytearray(key))
