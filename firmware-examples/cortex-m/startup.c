/* From reset to main: the vector table, the floating-point unit, data, bss, a painted stack. */
#include <stdint.h>

#include "board.h"

extern uint32_t data_source[], data_begin[], data_end[], bss_begin[], bss_end[];
extern uint32_t stack_begin[], stack_end[];

enum { PAINT = 0x5AFE5AFE };

void reset(void);
static void fault(void);

__attribute__((section(".vectors"), used)) static const uintptr_t VECTORS[] = {
    (uintptr_t)stack_end, (uintptr_t)reset, (uintptr_t)fault, (uintptr_t)fault,
    (uintptr_t)fault,     (uintptr_t)fault, (uintptr_t)fault,
};

static void fault(void)
{
    board_end(BOARD_FAULT);
}

void reset(void)
{
    volatile uint32_t *coprocessors = (uint32_t *)0xE000ED88; /* CPACR, ARMv7-M B3.2.20 */
    *coprocessors |= 0xFu << 20;
    for (uint32_t *from = data_source, *to = data_begin; to < data_end;)
        *to++ = *from++;
    for (uint32_t *to = bss_begin; to < bss_end;)
        *to++ = 0;
    uint32_t *top; /* of what is free; a little below, for the loop itself */
    __asm__ volatile("sub %0, sp, #64" : "=r"(top));
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
