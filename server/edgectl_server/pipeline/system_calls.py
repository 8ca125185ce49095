"""What the kernel does for no model: system calls by seccomp (libseccomp), privileges of root.

Landlock hides files, namespaces hide processes and the network. What is left to a runtime that a
hostile model has taken over is the kernel itself; here are the calls through which kernels were
attacked before, and those with which a process reaches others. They fail with EPERM. Names that the
machine's libseccomp does not know are left out. Source: ``seccomp(2)``, libseccomp's
``seccomp_rule_add(3)``; the list follows Docker's and systemd's ``@system-service`` by what both
leave out.

Where the server is root, the child is another user with the one capability to read and search
(`edgectl_server.confined`). It has no other, also where it has to stay root: it may not do what
only root may. Sources: ``capabilities(7)``, ``capset(2)``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

__all__ = [
    "REFUSED",
    "drop_capabilities",
    "has_seccomp",
    "refuse_all_but_computing",
    "refuse_system_calls",
]

_CAPABILITY_VERSION_3 = 0x20080522
_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_CAPABILITIES = 64
_DAC_READ_SEARCH = 2

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_UNKNOWN = -1
_MASKED_EQUAL = 7
_CLONE_THREAD = 0x00010000
_LIBRARY = "libseccomp.so.2"

REFUSED = (
    # other programs, the network, other processes
    "execve", "execveat", "socket", "socketpair", "connect", "bind", "listen", "accept", "accept4",
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_open",
    "pidfd_getfd", "pidfd_send_signal", "kcmp",
    # namespaces and mounts
    "unshare", "setns", "mount", "umount2", "pivot_root", "chroot", "fsopen", "fsconfig", "fsmount",
    "fspick", "move_mount", "open_tree", "mount_setattr", "open_by_handle_at", "name_to_handle_at",
    # large and seldom used parts of the kernel
    "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter",
    "io_uring_register", "keyctl", "add_key", "request_key", "memfd_secret", "vmsplice",
    "init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load",
    # the machine's own matters
    "acct", "adjtimex", "clock_adjtime", "clock_settime", "settimeofday", "ioperm", "iopl",
    "personality", "quotactl", "reboot", "sethostname", "setdomainname", "swapoff", "swapon",
    "syslog", "vhangup",
)  # fmt: skip


MORE_REFUSED = (
    # processes and signals
    "fork", "vfork", "kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo",
    "prlimit64", "setrlimit", "setpriority", "setsid", "setpgid", "sched_setaffinity",
    "sched_setscheduler", "sched_setparam", "sched_setattr", "ioprio_set",
    # changes of files
    "truncate", "ftruncate", "fallocate", "rename", "renameat", "renameat2", "mkdir", "mkdirat",
    "rmdir", "creat", "link", "linkat", "unlink", "unlinkat", "symlink", "symlinkat", "mknod",
    "mknodat", "copy_file_range", "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown",
    "lchown", "fchownat", "utime", "utimes", "futimesat", "utimensat", "setxattr", "lsetxattr",
    "fsetxattr", "removexattr", "lremovexattr", "fremovexattr",
    # identity, and what is shared with others
    "setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setgroups", "setfsuid",
    "setfsgid", "capset", "shmget", "msgget", "semget", "mq_open",
)  # fmt: skip
"""Besides, for a process that computes one thing and tells it by a pipe that it has."""

_ABSENT = ("clone3", "openat2")
"""Answered as by an older kernel, so that libraries take the older call: its arguments are seen."""


class _Argument(ctypes.Structure):
    """libseccomp's ``struct scmp_arg_cmp``."""

    _fields_ = (
        ("number", ctypes.c_uint),
        ("comparison", ctypes.c_int),
        ("mask", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
    )


class _Rule(NamedTuple):
    """A call that is refused, always or where the bits of `mask` of an argument are `value`."""

    name: str
    error: int = errno.EPERM
    argument: int = -1
    mask: int = 0
    value: int = 0


def drop_capabilities() -> None:
    """Give up every capability for good; nothing changes for a process that has none.

    Who is not root keeps the one to read and search, where it has it: without it the interpreter
    and the work may be out of reach. Landlock says of which files that holds.

    Raises:
        OSError: the kernel does not let go of them.
    """
    library = ctypes.CDLL(None, use_errno=True)
    kept = 0
    if os.geteuid() != 0 and library.prctl(_PR_CAPBSET_READ, _DAC_READ_SEARCH, 0, 0, 0) == 1:
        kept = 1 << _DAC_READ_SEARCH
    for number in range(_CAPABILITIES):  # of programs that it would start, too
        if not kept >> number & 1:
            library.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    had = ctypes.create_string_buffer(24)
    _checked(library.capget(header, had))
    effective, permitted, *_ = struct.unpack("=6I", had.raw)
    left = struct.pack("=6I", effective & kept, permitted & kept, 0, 0, 0, 0)
    _checked(library.capset(header, left))


def has_seccomp() -> bool:
    """Say whether the library is there."""
    return _library() is not None


def refuse_system_calls() -> bool:
    """Refuse the calls to this process and to all that it forks, for good.

    Returns:
        False where libseccomp is not installed, or the kernel has no seccomp: nothing has changed.
    """
    return _load([_Rule(name) for name in REFUSED])


def refuse_all_but_computing() -> bool:
    """Refuse also new processes, signals, and every change of a file; threads and reading are left.

    Returns:
        As `refuse_system_calls`.
    """
    return _load([*(_Rule(name) for name in (*REFUSED, *MORE_REFUSED)), *_by_argument()])


def _by_argument() -> Iterator[_Rule]:
    yield from (_Rule(name, errno.ENOSYS) for name in _ABSENT)
    yield _Rule("clone", argument=0, mask=_CLONE_THREAD, value=0)  # a process, and no thread
    for flag in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC):
        yield _Rule("open", argument=1, mask=flag, value=flag)
        yield _Rule("openat", argument=2, mask=flag, value=flag)


def _load(rules: list[_Rule]) -> bool:
    library = _library()
    if library is None:
        return False
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_ALLOW)))
    if not context.value:
        return False
    try:
        for rule in rules:
            number = library.seccomp_syscall_resolve_name(rule.name.encode())
            if number == _UNKNOWN:
                continue
            compared = _Argument(rule.argument, _MASKED_EQUAL, rule.mask, rule.value)
            library.seccomp_rule_add_array(
                context,
                ctypes.c_uint32(_ERRNO | rule.error),
                ctypes.c_int(number),
                ctypes.c_uint(rule.argument >= 0),
                ctypes.byref(compared),
            )
        return int(library.seccomp_load(context)) == 0
    finally:
        library.seccomp_release(context)


def _checked(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"capabilities: {os.strerror(number)}")


def _library() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
