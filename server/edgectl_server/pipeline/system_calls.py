"""What the kernel does for no model: system calls by seccomp (libseccomp), privileges of root.

Landlock hides files, namespaces hide processes and the network. What is left to a runtime that a
hostile model has taken over is the kernel itself; here are the calls through which kernels were
attacked before, and those with which a process reaches others. They fail with EPERM. Names that the
machine's libseccomp does not know are left out. Source: ``seccomp(2)``, libseccomp's
``seccomp_rule_add(3)``; the list follows Docker's and systemd's ``@system-service`` by what both
leave out.

Where the server is root, so is the child, because the interpreter may be readable to nobody else.
But it has no capability: it may not do what only root may. Source: ``capset(2)``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

__all__ = ["REFUSED", "drop_capabilities", "has_seccomp", "refuse_system_calls"]

_CAPABILITY_VERSION_3 = 0x20080522
_PR_CAPBSET_DROP = 24
_CAPABILITIES = 64

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_UNKNOWN = -1
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


def drop_capabilities() -> None:
    """Give up every capability for good; nothing changes for a process that has none.

    Raises:
        OSError: the kernel does not let go of them.
    """
    library = ctypes.CDLL(None, use_errno=True)
    for number in range(_CAPABILITIES):  # of programs that it would start, too
        library.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    if library.capset(header, bytes(24)):
        number = ctypes.get_errno()
        raise OSError(number, f"capset: {os.strerror(number)}")


def has_seccomp() -> bool:
    """Say whether the library is there."""
    return _library() is not None


def refuse_system_calls() -> bool:
    """Refuse the calls to this process and to all that it forks, for good.

    Returns:
        False where libseccomp is not installed, or the kernel has no seccomp: nothing has changed.
    """
    library = _library()
    if library is None:
        return False
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_ALLOW)))
    if not context.value:
        return False
    try:
        action = ctypes.c_uint32(_ERRNO | errno.EPERM)
        for name in REFUSED:
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number != _UNKNOWN:
                library.seccomp_rule_add(context, action, ctypes.c_int(number), ctypes.c_uint(0))
        return int(library.seccomp_load(context)) == 0
    finally:
        library.seccomp_release(context)


def _library() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
