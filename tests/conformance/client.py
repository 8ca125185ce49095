"""The device's verifier behind the command line of theupdateframework/tuf-conformance.

Files come by HTTP instead of MQTT; everything that decides is `edgectl_agent.trust.verifier`, with
the bootstrap root of `init` and the durable floor. What a device does with the bytes of a target is
not tested here: it fetches them in chunks, each checked (`edgectl_agent.downloader`). For the
suite, ``download`` fetches them whole, within the signed length, and checks the signed hashes.
"""

from __future__ import annotations

import argparse
import io
import logging
import sys
from pathlib import Path
from urllib.parse import quote

import msgspec
from tuf.api.exceptions import DownloadError, LengthOrHashMismatchError
from tuf.api.metadata import Root, TargetFile
from tuf.ngclient.urllib3_fetcher import Urllib3Fetcher

from edgectl_agent.core.record import Floor
from edgectl_agent.errors import AgentError
from edgectl_agent.trust.verifier import Verifier

BOOTSTRAP, FLOOR = "bootstrap", "floor"
"""Beside the metadata; the suite looks at ``*.json`` only."""


def main() -> int:
    """Run one command of CLIENT-CLI.md."""
    options = _options()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    metadata = Path(options.metadata_dir)
    if options.command == "init":
        root = Path(options.trusted_root).read_bytes()
        (metadata / BOOTSTRAP).write_bytes(root)
        (metadata / "root.json").write_bytes(root)
        return 0
    try:
        verifier = _refreshed(metadata, options.metadata_url)
        if options.command == "download":
            _download(verifier, options)
    except (AgentError, DownloadError, LengthOrHashMismatchError) as error:
        print(f"refused: {error}", file=sys.stderr)
        return 1
    return 0


def _refreshed(metadata: Path, url: str) -> Verifier:
    """Return a verifier that has brought the top-level metadata up to date, above the floor."""
    bootstrap, kept = (metadata / BOOTSTRAP).read_bytes(), metadata / FLOOR
    floor = msgspec.json.decode(kept.read_bytes(), type=Floor) if kept.exists() else Floor()
    verifier = Verifier(metadata, bootstrap, Urllib3Fetcher(), base_url=f"{url.rstrip('/')}/")
    seen = verifier.refresh(floor)
    kept.write_bytes(msgspec.json.encode(seen))
    return verifier


def _download(verifier: Verifier, options: argparse.Namespace) -> None:
    root = Root.from_dict(msgspec.json.decode(_read(options, "root.json"))["signed"])
    for path in options.target_name:
        target = verifier.target(path)
        if target is None:
            raise DownloadError(f"{path} is not in the signed metadata")
        file = Path(options.target_dir) / quote(path, "")
        if not _is_there(target, file):
            prefix = f"{next(iter(target.hashes.values()))}." if root.consistent_snapshot else ""
            folder, slash, name = path.rpartition("/")
            url = f"{options.target_base_url.rstrip('/')}/{folder}{slash}{prefix}{name}"
            content = Urllib3Fetcher().download_bytes(url, target.length)
            target.verify_length_and_hashes(io.BytesIO(content))
            file.write_bytes(content)


def _is_there(target: TargetFile, file: Path) -> bool:
    try:
        target.verify_length_and_hashes(io.BytesIO(file.read_bytes()))
    except (OSError, LengthOrHashMismatchError):
        return False
    return True


def _read(options: argparse.Namespace, name: str) -> bytes:
    return (Path(options.metadata_dir) / name).read_bytes()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--metadata-dir", required=True)
    parser.add_argument("--metadata-url")
    parser.add_argument("--target-name", action="append", default=[])
    parser.add_argument("--target-base-url")
    parser.add_argument("--target-dir")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("trusted_root")
    commands.add_parser("refresh")
    commands.add_parser("download")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
