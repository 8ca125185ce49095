"""The bundles of an exported version, checked: what they say of themselves, and their blobs.

Nothing is believed of an archive because it is there. The signed metadata names the manifests'
digests (`edgectl_server.origins`), a manifest those of its layers and of their chunk indexes.
Documents are decoded within their bounds; a model's file is bytes here, and is opened where a push
would open it too: in confined processes, and by the trial on each device.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from edgectl_protocol.archives import Archive
from edgectl_protocol.chunks import make_index
from edgectl_protocol.errors import InvalidName, LimitExceeded, MalformedMessage
from edgectl_protocol.manifest import (
    CONFIG_FILE,
    GOLDEN_FILE,
    LAYER_DOC,
    MANIFEST_BYTES_MAX,
    BundleConfig,
    Descriptor,
    Manifest,
    bundle_bytes,
    decode_config,
    decode_manifest,
    is_encrypted,
    layer_by_file,
)
from edgectl_protocol.messages import Candidate
from edgectl_protocol.metadata import target_path
from edgectl_protocol.names import digest_of
from edgectl_server.errors import Refused
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.tables import BundleVariant

__all__ = ["Bundle", "is_portable", "read_bundle", "store_bundle", "variant_row"]

_DOCUMENT_BYTES_MAX = 16 * 1024 * 1024
_MODEL_PACK_BYTES_MAX = 64 * 1024
_PORTABLE = re.compile(r"fp32|fp16.*|int8-weights.*|int8-dynamic(?!-s8).*|.*-(reduced|u8u8)(-.*)?")


class Bundle(NamedTuple):
    """A bundle of the archive whose documents are good."""

    candidate: Candidate
    content: bytes
    """Of the manifest."""
    manifest: Manifest
    config: BundleConfig

    @property
    def parts(self) -> tuple[Descriptor, ...]:
        """Every blob that the manifest names, each once."""
        by_digest = {one.digest: one for one in (self.manifest.config, *self.manifest.layers)}
        return tuple(by_digest.values())

    @property
    def blobs(self) -> dict[str, int]:
        """Size of every blob of it that is published."""
        return {digest_of(self.content): len(self.content)} | {
            one.digest: one.size for one in self.parts
        }

    @property
    def device_bytes(self) -> int:
        """What a device fetches."""
        return bundle_bytes(self.content, self.manifest)

    def model_bytes(self) -> int:
        """Length of the model's file."""
        return layer_by_file(self.manifest, self.config.model_file).size

    def trial(self) -> dict[str, Any]:
        """Return what is known of how it was measured, as a row of a report."""
        evaluation = self.config.evaluation
        drop = next((one for one in self.config.gates if one.name == "drop"), None)
        quantization = self.config.quantization
        return {
            "recipe": quantization.recipe,
            "variant": self.config.variant,
            "precision": self.config.precision,
            "status": "accepted",
            "size_bytes": self.model_bytes(),
            "value": None if evaluation is None else evaluation.value,
            "drop_points": None if drop is None else drop.measured,
            "portable": self.config.runtime != "onnxruntime" or is_portable(quantization.recipe),
            "float_nodes": len(quantization.float_nodes),
            "runtime": self.config.runtime,
        }


def is_portable(recipe: str) -> bool:
    """Say whether no processor's 8-bit products saturate with a recipe of that name."""
    return _PORTABLE.fullmatch(recipe) is not None


def read_bundle(archive: Archive, candidate: Candidate) -> Bundle:
    """Read a bundle and check each of its blobs; nothing is written.

    Raises:
        ArchiveRefused: ``offline.damaged``, ``offline.malformed``, ``offline.truncated``.
        Refused: ``import.bundle``, ``import.encrypted``, ``import.microcontroller``.
    """
    content = archive.small_blob(candidate.manifest, MANIFEST_BYTES_MAX)
    try:
        manifest = decode_manifest(content)
        layer = layer_by_file(manifest, CONFIG_FILE)
        config = decode_config(archive.small_blob(layer.digest, _DOCUMENT_BYTES_MAX))
        _check(candidate, manifest, config)
    except (MalformedMessage, LimitExceeded, InvalidName) as error:
        raise _bad(candidate, f"{error}") from error
    if is_encrypted(manifest):
        raise Refused(
            "import.encrypted",
            f"{candidate.target} is encrypted, and its key never leaves the other server",
            hint="export the other variants alone (--variant), or push the model here",
        )
    if config.runtime == "cortex-m":
        raise Refused(
            "import.microcontroller",
            f"{candidate.target} is signed and numbered for the other server's microcontrollers; "
            "those that pin this server's key would refuse it",
            hint="export the other variants alone (--variant), or push the model here",
        )
    bundle = Bundle(candidate, content, manifest, config)
    for part in bundle.parts:
        archive.check_blob(part.digest, part.size)
        _check_index(archive, candidate, part)
    return bundle


def store_bundle(
    archive: Archive, bundle: Bundle, blobs: BlobStore, directory: Path, tell: Callable[[int], None]
) -> None:
    """Bring a bundle that was read into the store.

    Args:
        archive: that it was read from.
        bundle: whose blobs were checked; they are once more.
        blobs: the store.
        directory: for a file at a time.
        tell: told how many bytes were stored.

    Raises:
        Refused: ``blob.digest``: the archive has changed meanwhile.
        Unavailable: ``blobs.unavailable``.
        OSError: `directory` cannot be written.
    """
    for part in bundle.parts:
        if part.chunk_index is not None:
            blobs.add_bytes(make_index(archive.chunks(part.digest)))
        if not blobs.exists(part.digest):
            path = directory / "blob"
            with path.open("wb") as file:
                for chunk in archive.chunks(part.digest):
                    file.write(chunk)
            blobs.add_file(path, expected=part.digest, consume=True)
        tell(part.size)
    blobs.add_bytes(bundle.content)


def variant_row(version: int, rank: int, bundle: Bundle) -> BundleVariant:
    """Return the row of a bundle; `rank` 0 is tried first."""
    one = bundle.candidate
    return BundleVariant(
        version_id=version,
        variant=one.variant,
        precision=bundle.config.precision,
        target=one.target,
        manifest=one.manifest,
        manifest_size=len(bundle.content),
        bundle_bytes=bundle.device_bytes,
        model_bytes=bundle.model_bytes(),
        rank=rank,
        trial=bundle.trial(),
        content_key=None,
    )


def _check(candidate: Candidate, manifest: Manifest, config: BundleConfig) -> None:
    """Raise `MalformedMessage` where the bundle is not what it is signed as, or not whole."""
    if target_path(config.model, config.version, config.variant) != candidate.target:
        raise MalformedMessage(
            f"it says that it is {config.model}@{config.version} {config.variant}"
        )
    for file in (config.model_file, GOLDEN_FILE):
        layer_by_file(manifest, file)
    bounds = [(manifest.config, _MODEL_PACK_BYTES_MAX)] + [
        (one, _DOCUMENT_BYTES_MAX) for one in manifest.layers if one.media_type == LAYER_DOC
    ]
    for one, bytes_max in bounds:
        if one.size > bytes_max:
            raise MalformedMessage(f"a document of {one.size} bytes, at most {bytes_max}")


def _check_index(archive: Archive, candidate: Candidate, part: Descriptor) -> None:
    if part.chunk_index is None:
        return
    if digest_of(make_index(archive.chunks(part.digest))) != part.chunk_index:
        raise _bad(candidate, f"{part.file} has another chunk index than the manifest says")


def _bad(candidate: Candidate, detail: str) -> Refused:
    return Refused(
        "import.bundle",
        f"{candidate.target} is no bundle that can be used: {detail}",
        hint="which version of edgectl runs on the other server? Update the older one",
    )
