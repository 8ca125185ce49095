"""What the verifying process may still touch: its cache, the libraries, and nothing else.

It parses hostile bytes under the same user that the device's key belongs to. Should they break out
of a parser, the key must not be there to be read, nor a network to carry it away on. The process
that redacts and seals samples is confined in the same way: it sees them as they are, and runs a
program that sees them too (`confine_program`).

Files are hidden with Landlock (Linux 5.19 or newer, version 2: python-tuf moves files between
folders), the network with a namespace of our own or, where a service may make none, with a filter
of system calls (libseccomp); none of them needs a privilege where the kernel and its configuration
give it. What is not given is named, and the limits hold all the same. Source: the kernel's
``Documentation/userspace-api/landlock.rst``; ``unshare(2)``; libseccomp's ``seccomp_rule_add(3)``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["confine", "confine_program", "limit"]

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_FILE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 5
_MAKE_DIR, _MAKE_REGULAR, _MAKE_SYMLINK, _REFER = 1 << 7, 1 << 8, 1 << 12, 1 << 13
_TRUNCATE, _IOCTL_DEVICE = 1 << 14, 1 << 15
_READ = _READ_FILE | _READ_DIR
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE
_CACHE = (
    _READ | _WRITE_FILE | _TRUNCATE | _REMOVE_FILE
    | _MAKE_DIR | _MAKE_REGULAR | _MAKE_SYMLINK | _REFER
)  # fmt: skip
_VERSION_MIN, _VERSION_TRUNCATE, _VERSION_NET, _VERSION_IOCTL, _VERSION_SCOPE = 2, 3, 4, 5, 6
_ALL_TCP, _ALL_SCOPES = 0b11, 0b11
_LIBRARIES = ("/usr", "/lib", "/lib64", "/nix/store")
_PROGRAMS = (*_LIBRARIES, "/bin", "/sbin", "/opt")
_FACTS = (
    "/etc/alternatives", "/etc/ld.so.cache", "/etc/localtime", "/dev/urandom", "/dev/zero",
    "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu",
)  # fmt: skip
"""What programs look at to find libraries, and how many threads to start."""

_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
_UNKNOWN_CALL = -1
_CALLS_TO_A_NETWORK = ("socket", "io_uring_setup", "io_uring_enter", "io_uring_register")
"""What makes a socket; the one over which the process is asked is there already."""


def limit(*, processor_s: int, memory_bytes: int, file_bytes: int) -> None:
    """Limit this process from here on.

    Args:
        processor_s: processor time, from its start.
        memory_bytes: what it may allocate in addition to what it holds now.
        file_bytes: length of a file that it writes.
    """
    resource.setrlimit(resource.RLIMIT_CPU, (processor_s, processor_s + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    rows = Path("/proc/self/status").read_text("ascii", "replace").splitlines()
    held = next(int(row.split()[1]) * 1024 for row in rows if row.startswith("VmData:"))
    resource.setrlimit(resource.RLIMIT_DATA, (held + memory_bytes,) * 2)


def confine(cache: Path) -> tuple[str, ...]:
    """Take network and files from this process; return the means that the kernel does not give.

    Args:
        cache: the folder that may be changed; absolute, resolved.
    """
    grants = [(cache, _CACHE), *((path, _READ) for path in _readable(_LIBRARIES, cache))]
    return _confine(grants)


def confine_program(program: Path | None, *, hidden: Path) -> tuple[str, ...]:
    """Take network and files from this process and what it runs; no file can be written.

    What stays: programs and libraries of the system, and the folder of `program` to read.

    Args:
        program: what may be run beside those; None: nothing may.
        hidden: a folder of which nothing must be seen; absolute, resolved.
    """
    runs = _EXECUTE if program is not None else 0
    system = _PROGRAMS if program is not None else _LIBRARIES
    grants = [(path, _READ | runs) for path in _readable(system, hidden)]
    if program is not None:
        grants += [(Path(fact), _READ) for fact in _FACTS]
        grants += [(Path("/dev/null"), _READ_FILE | _WRITE_FILE), (program, _READ_FILE | _EXECUTE)]
        if program.parent not in (hidden, *hidden.parents):
            grants.append((program.parent, _READ | _EXECUTE))
    return _confine(grants)


def _confine(grants: Sequence[tuple[Path, int]]) -> tuple[str, ...]:
    missing = []
    if not (_leave_network() or _refuse_sockets()):
        missing.append("network namespace or seccomp")
    if not _leave_files(grants):
        missing.append("Landlock")
    return tuple(missing)


def _leave_network() -> bool:
    unshare = ctypes.CDLL(None, use_errno=True).unshare
    return any(int(unshare(kind)) == 0 for kind in (_CLONE_NEWNET, _CLONE_NEWUSER | _CLONE_NEWNET))


def _refuse_sockets() -> bool:
    """Make every new socket fail; False: libseccomp is not there, or the kernel has no seccomp."""
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return False
    library.seccomp_init.restype = ctypes.c_void_p
    filter_ = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_ALLOW)))
    if not filter_.value:
        return False
    try:
        for name in _CALLS_TO_A_NETWORK:
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number != _UNKNOWN_CALL and library.seccomp_rule_add_array(
                filter_, ctypes.c_uint32(_REFUSE), ctypes.c_int(number), ctypes.c_uint(0), None
            ):
                return False
        return int(library.seccomp_load(filter_)) == 0
    finally:
        library.seccomp_release(filter_)


def _leave_files(grants: Sequence[tuple[Path, int]]) -> bool:
    version = _system_call(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    if version < _VERSION_MIN:
        return False
    handled = (_TRUNCATE << (1 if version >= _VERSION_TRUNCATE else 0)) - 1
    if version >= _VERSION_IOCTL:
        handled |= _IOCTL_DEVICE
    attributes = [handled]
    if version >= _VERSION_NET:
        attributes.append(_ALL_TCP)
    if version >= _VERSION_SCOPE:
        attributes.append(_ALL_SCOPES)
    packed = struct.pack(f"={len(attributes)}Q", *attributes)
    ruleset = _system_call(_CREATE_RULESET, packed, len(packed), 0)
    if ruleset < 0:
        return False
    try:
        for path, rights in grants:
            _grant(ruleset, path, rights & handled)
        ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        return _system_call(_RESTRICT_SELF, ruleset, 0) == 0
    finally:
        os.close(ruleset)


def _readable(system: Sequence[str], hidden: Path) -> Iterator[Path]:
    """Yield where libraries are loaded from, without the folders that `hidden` lies in."""
    own = (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, *sys.path)
    for text in dict.fromkeys((*system, *own)):
        path = Path(text)
        if path.is_absolute() and path.resolve() not in (hidden, *hidden.parents):
            yield path.resolve()


def _grant(ruleset: int, path: Path, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there, or not ours, need not be granted
    try:
        if not path.is_dir():
            rights &= _OF_FILES
        rule = struct.pack("=Qi", rights, descriptor)
        _system_call(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(descriptor)


def _system_call(number: int, *arguments: int | bytes | None) -> int:
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    given = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    return int(call(ctypes.c_long(number), *given))
