/* What is Arm's: how the host is called, and the board's timer. */
#include "board.h"

int board_call(int operation, const void *block)
{
    register int number __asm__("r0") = operation;
    register const void *argument __asm__("r1") = block;
    __asm__ volatile("bkpt 0xAB" : "+r"(number) : "r"(argument) : "memory");
    return number;
}

uint32_t board_ticks(void)
{
    /* Timer 0 of the CMSDK, 25 MHz, counts down: 40 ns, at one instruction a nanosecond. */
    volatile uint32_t *control = (uint32_t *)0x40000000, *value = control + 1, *load = control + 2;
    if (*control == 0) {
        *load = *value = UINT32_MAX;
        *control = 1;
    }
    return UINT32_MAX - *value;
}
