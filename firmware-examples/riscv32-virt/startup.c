/* From reset to main: a stack, where traps go, bss, a painted stack. */
#include <stdint.h>

#include "board.h"

extern uint32_t bss_begin[], bss_end[], stack_begin[], stack_end[];

enum { PAINT = 0x5AFE5AFE };

/* Called by `reset`, on its stack. */
_Noreturn void begin(void);

/* mtvec wants an address of four bytes' alignment. */
__attribute__((aligned(4), noreturn)) static void trap(void)
{
    board_end(BOARD_FAULT);
}

__attribute__((section(".reset"), naked, used)) void reset(void)
{
    __asm__ volatile("la sp, stack_end\n"
                     "j begin\n");
}

_Noreturn void begin(void)
{
    __asm__ volatile(".option arch, +zicsr\ncsrw mtvec, %0" ::"r"(trap));
    for (uint32_t *to = bss_begin; to < bss_end;)
        *to++ = 0;
    uint32_t *top; /* of what is free; a little below, for the loop itself */
    __asm__ volatile("addi %0, sp, -64" : "=r"(top));
    for (uint32_t *to = stack_begin; to < top; to++)
        *to = PAINT;
    board_end(main());
}

uint32_t board_stack_bytes(void)
{
    const uint32_t *at = stack_begin;
    while (at < stack_end && *at == PAINT)
        at++;
    return (uint32_t)((const uint8_t *)stack_end - (const uint8_t *)at);
}
