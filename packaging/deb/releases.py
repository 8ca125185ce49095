"""The Debian releases and architectures that there are packages for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["ALL", "ARCHITECTURES", "RELEASES", "Release", "pip_target"]


@dataclass(frozen=True)
class Release:
    """One Debian release; Raspberry Pi OS has the same numbers and packages.

    Attributes:
        name: code name.
        suffix: what the package's version ends in, so that a newer release has the newer package.
        python: version of its Python, which the wheels are bound to.
        glibc: its minor version.
    """

    name: str
    suffix: str
    python: str
    glibc: int

    @property
    def lock(self) -> Path:
        """The wheels that go into the agent's package, with their hashes."""
        return Path(__file__).with_name(f"wheels-{self.name}.txt")

    @property
    def native_lock(self) -> Path:
        """The wheels that go into the agent's package for all architectures, with their hashes."""
        return Path(__file__).with_name(f"wheels-native-{self.name}.txt")

    @property
    def server_lock(self) -> Path:
        """The wheels that go into the server's package, with their hashes."""
        return Path(__file__).with_name(f"wheels-server-{self.name}.txt")


RELEASES = {
    one.name: one
    for one in (
        Release("bookworm", "~deb12", "3.11", 36),
        Release("trixie", "~deb13", "3.13", 41),
    )
}
ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
"""Debian's name of it, and that of wheels. onnxruntime has no wheels for armhf."""
ALL = "all"
"""Debian's name for a package of every architecture."""

_OLDEST_GLIBC = 17


def pip_target(release: Release, architecture: str, folder: Path) -> list[str]:
    """Return the options with which pip installs into `folder` for another machine.

    Args:
        release: of that machine.
        architecture: of that machine, Debian's name.
        folder: becomes its ``site-packages``.
    """
    machine = ARCHITECTURES[architecture]
    platforms = [
        f"manylinux_2_{minor}_{machine}" for minor in range(release.glibc, _OLDEST_GLIBC - 1, -1)
    ]
    platforms.append(f"manylinux2014_{machine}")
    return [
        "--disable-pip-version-check", "--no-compile", "--only-binary", ":all:",
        "--implementation", "cp", "--python-version", release.python, "--target", str(folder),
        *(option for platform in platforms for option in ("--platform", platform)),
    ]  # fmt: skip
