#include "simulated_flash.h"

uint32_t next_random(struct simulated_flash *flash)
{
    flash->random ^= flash->random << 13;
    flash->random ^= flash->random >> 17;
    flash->random ^= flash->random << 5;
    return flash->random;
}

/* Say whether this operation is the one in which the power is cut. */
static bool is_cut(struct simulated_flash *flash)
{
    flash->operations++;
    return flash->cut_after != NEVER && flash->cut_after-- == 0;
}

/* Erase; when the power is cut, bits of the sector are set at random, or none, or all. */
static bool erase(void *context, uint32_t offset)
{
    struct simulated_flash *flash = context;
    bool cut = is_cut(flash);
    uint32_t kind = cut ? next_random(flash) % 4 : 3;
    for (uint32_t i = 0; i < FLASH_SECTOR_BYTES; i++) {
        uint8_t set = kind == 0 ? 0 : kind == 3 ? 0xFF : (uint8_t)next_random(flash);
        flash->memory[offset + i] |= set;
    }
    if (cut)
        longjmp(flash->power_cut, 1);
    return true;
}

/* Program; when the power is cut, a part of the page, or of its bits, or none, or all. */
static bool program(void *context, uint32_t offset, const uint8_t page[FLASH_PAGE_BYTES])
{
    struct simulated_flash *flash = context;
    bool cut = is_cut(flash);
    uint32_t kind = cut ? next_random(flash) % 4 : 3;
    uint32_t end = kind == 1 ? next_random(flash) % FLASH_PAGE_BYTES : FLASH_PAGE_BYTES;
    for (uint32_t i = 0; i < end && kind != 0; i++) {
        uint8_t kept = kind == 2 ? (uint8_t)next_random(flash) : 0;
        if ((flash->memory[offset + i] & page[i]) != page[i] && page[i] != FLASH_BLANK)
            flash->broken_rules++;
        flash->memory[offset + i] &= page[i] | kept;
    }
    if (cut)
        longjmp(flash->power_cut, 1);
    return true;
}

struct edgectl_flash flash_of(struct simulated_flash *flash)
{
    return (struct edgectl_flash){
        .memory = flash->memory, .context = flash, .erase = erase, .program = program};
}
