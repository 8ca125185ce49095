/* A NOR flash in memory whose power can be cut at any operation, which then is half done. */
#ifndef SIMULATED_FLASH_H
#define SIMULATED_FLASH_H

#include <setjmp.h>
#include <stdint.h>

#include "flash.h"

enum { SIMULATED_BYTES = 64 * 1024, NEVER = -1 };

struct simulated_flash {
    uint8_t memory[SIMULATED_BYTES];
    int cut_after; /* operations that are left until the power is cut; NEVER */
    int operations; /* that were begun */
    uint32_t random; /* decides what a torn operation has changed */
    jmp_buf power_cut;
    int broken_rules; /* bits that were programmed from 0 to 1: the core must never ask for it */
};

/* The core's view of it. */
struct edgectl_flash flash_of(struct simulated_flash *flash);

/* The next random number; xorshift, so that a seed says everything. */
uint32_t next_random(struct simulated_flash *flash);

#endif
