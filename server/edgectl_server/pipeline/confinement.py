"""What the worker may touch: its own folder, the libraries that it runs on, and nothing else.

The worker runs a hostile model in a runtime written in C++. Should the model break out of it, the
server's keys and database must not be there to be read, let alone to be carried out in a bundle.
Namespaces hide processes and the network; files are hidden with Landlock, which needs no privilege
and works wherever the kernel has it (Linux 5.13 and newer, unless switched off).

Rules: what is not granted is refused. Nothing may be executed, also no library function that starts
a program, but by a trainer of the operator's own (`programs`). A folder that holds the working
directory is never granted whole, because the server's data is beside it. Source: the kernel's
``Documentation/userspace-api/landlock.rst``.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["confine", "landlock_version"]

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEVICE, _EXECUTE = 1 << 14, 1 << 15, 1 << 0
_READ = _READ_FILE | _READ_DIR
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEVICE
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REGULAR = 1 << 4, 1 << 5, 1 << 7, 1 << 8
_WORK = _READ | _WRITE_FILE | _TRUNCATE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REGULAR
_RIGHTS_OF_VERSION = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # how many bits; 5 and newer alike
_NET_VERSION, _SCOPE_VERSION = 4, 6
_ALL_NET, _ALL_SCOPES = 0b11, 0b11

_LIBRARIES = ("/usr", "/lib", "/lib64", "/lib32", "/nix/store")
_SYSTEM_FILES = (
    # Of /proc only what is not of other processes: with CAP_PERFMON their environment is readable.
    "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system", "/sys/fs/cgroup",
    "/etc/ld.so.cache", "/etc/localtime", "/dev/urandom",
)  # fmt: skip
_SINK = "/dev/null"


def landlock_version() -> int:
    """Return the version of Landlock that the kernel offers; 0 where there is none."""
    return max(0, _system_call(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION))


def confine(work: Path | None, inputs: Iterable[Path], *, programs: bool = False) -> bool:
    """Take from this process, and all that it starts, every file but what the work needs.

    Args:
        work: the folder that may be changed; absolute, resolved. None: nothing may be changed.
        inputs: files that may be read besides.
        programs: what may be read, but for the working folder, may be executed too.

    Returns:
        False where the kernel has no Landlock: nothing has changed then.

    Raises:
        OSError: Landlock is there and does not do what it should.
    """
    version = landlock_version()
    if version == 0:
        return False
    handled = (1 << _RIGHTS_OF_VERSION.get(version, _RIGHTS_OF_VERSION[5])) - 1
    attributes = [
        handled,
        _ALL_NET if version >= _NET_VERSION else 0,
        _ALL_SCOPES if version >= _SCOPE_VERSION else 0,
    ]
    known = 1 if version < _NET_VERSION else 2 if version < _SCOPE_VERSION else 3
    packed = struct.pack(f"={known}Q", *attributes[:known])
    ruleset = _checked(_system_call(_CREATE_RULESET, packed, len(packed), 0))
    try:
        if work is not None:
            _grant(ruleset, work, _WORK & handled)
        _grant(ruleset, Path(_SINK), (_READ_FILE | _WRITE_FILE) & handled)
        for path in (*_readable(work), *inputs):
            _grant(ruleset, path, _READ | (_EXECUTE if programs else 0))
        _checked(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(_system_call(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    return True


def _readable(work: Path | None) -> Iterator[Path]:
    """Yield what Python and its libraries read."""
    kept_out = () if work is None else (work, *work.parents)
    own = (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, *sys.path)
    for text in dict.fromkeys((*_LIBRARIES, *_SYSTEM_FILES, *own)):
        path = Path(text)
        if not path.is_absolute() or not path.exists():
            continue
        resolved = path.resolve()
        if resolved not in kept_out[1:]:
            yield resolved
            continue
        for child in resolved.iterdir():
            if child.resolve() not in kept_out:
                yield child.resolve()


def _grant(ruleset: int, path: Path, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there need not be granted
    try:
        if not path.is_dir():
            rights &= _OF_FILES
        rule = struct.pack("=Qi", rights, descriptor)
        _checked(_system_call(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0))
    finally:
        os.close(descriptor)


def _system_call(number: int, *arguments: int | bytes | None) -> int:
    """Call the kernel; -1 with `ctypes.get_errno` set when it refuses."""
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    given = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    return int(call(ctypes.c_long(number), *given))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock: {os.strerror(number)}")
    return result
