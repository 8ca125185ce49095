/* What is the board's: how the host is called, and the count of instructions. */
#include "board.h"

int board_call(int operation, const void *block)
{
    register int number __asm__("a0") = operation;
    register const void *argument __asm__("a1") = block;
    /* The two shifts mark the trap as a call; none of the three may be a compressed instruction,
     * nor lie on two pages (RISC-V Semihosting, 2). */
    __asm__ volatile(".balign 16\n"
                     ".option push\n"
                     ".option norvc\n"
                     "slli zero, zero, 0x1f\n"
                     "ebreak\n"
                     "srai zero, zero, 7\n"
                     ".option pop\n"
                     : "+r"(number)
                     : "r"(argument)
                     : "memory");
    return number;
}

uint32_t board_ticks(void)
{
    uint32_t high, low, again;
    do
        __asm__ volatile(".option arch, +zicsr\n"
                         "csrr %0, minstreth\n"
                         "csrr %1, minstret\n"
                         "csrr %2, minstreth\n"
                         : "=r"(high), "=r"(low), "=r"(again));
    while (high != again);
    return (uint32_t)((((uint64_t)high << 32) | low) / 40);
}
