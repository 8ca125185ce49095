#!/bin/sh
# enter.sh ROOT PROGRAM EMULATOR CPUINFO COMMAND...
#
# Runs a command of ROOT, whose programs are of another processor, under QEMU's user mode. In namespaces
# of its own (`unshare --map-root-user --mount --pid --fork`), so that all of it is gone when the command
# has ended: what this user namespace tells the kernel of other processors, nobody else sees.
# PROGRAM is what the kernel starts for such a program, and runs EMULATOR.
set -eu
root=$1 program=$2 emulator=$3 cpuinfo=$4
shift 4

mount --make-rprivate /
handlers=/proc/sys/fs/binfmt_misc
mount -t binfmt_misc binfmt_misc "$handlers"
cat "$program.format" > "$handlers/register"

mount -t proc proc "$root/proc"
# onnxruntime asks what the processor is, and ends itself where it is told of another kind.
mount --bind "$cpuinfo" "$root/proc/cpuinfo"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for node in null zero urandom random; do
    : > "$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir "$root/dev/shm"
mount -t tmpfs tmpfs "$root/dev/shm"
mount --bind "$emulator" "$root/emulator"
exec chroot "$root" "$@"
