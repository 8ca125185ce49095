#include "pico_flash.h"

#include "hardware/flash.h"
#include "hardware/sync.h"

#include "device.h"

enum { SLOTS_FLASH_AT = 1024 * 1024 };

_Static_assert(FLASH_SECTOR_BYTES == FLASH_SECTOR_SIZE, "of the same size as the SDK's");
_Static_assert(FLASH_PAGE_BYTES == FLASH_PAGE_SIZE, "of the same size as the SDK's");
_Static_assert(SLOTS_FLASH_AT + SLOTS_END <= PICO_FLASH_SIZE_BYTES, "what the board has");

/* Nothing may be read from the flash meanwhile: the SDK runs these from memory, and handlers of
 * interrupts are in flash. */

static bool erase(void *context, uint32_t offset)
{
    (void)context;
    uint32_t interrupts = save_and_disable_interrupts();
    flash_range_erase(SLOTS_FLASH_AT + offset, FLASH_SECTOR_SIZE);
    restore_interrupts(interrupts);
    const uint8_t *sector = (const uint8_t *)XIP_BASE + SLOTS_FLASH_AT + offset;
    for (uint32_t i = 0; i < FLASH_SECTOR_SIZE; i++)
        if (sector[i] != FLASH_BLANK)
            return false;
    return true;
}

static bool program(void *context, uint32_t offset, const uint8_t page[FLASH_PAGE_BYTES])
{
    (void)context;
    uint32_t interrupts = save_and_disable_interrupts();
    flash_range_program(SLOTS_FLASH_AT + offset, page, FLASH_PAGE_SIZE);
    restore_interrupts(interrupts);
    const uint8_t *held = (const uint8_t *)XIP_BASE + SLOTS_FLASH_AT + offset;
    for (uint32_t i = 0; i < FLASH_PAGE_SIZE; i++)
        if (page[i] != FLASH_BLANK && held[i] != page[i])
            return false;
    return true;
}

struct edgectl_flash pico_flash(void)
{
    return (struct edgectl_flash){
        .memory = (const uint8_t *)XIP_BASE + SLOTS_FLASH_AT,
        .erase = erase,
        .program = program,
    };
}
