/* What the kernel starts in place of a program of another processor: QEMU, told which one to be.
 *
 * QEMU takes that from its environment, and the agent gives its children none of its own.
 * Statically linked, because it runs in a root that has no library for this machine. */
#include <stdlib.h>
#include <unistd.h>

int main(int count, char **arguments)
{
    (void)count;
    setenv("QEMU_CPU", PROCESSOR, 1);
    execv("/emulator", arguments);
    return 127;
}
