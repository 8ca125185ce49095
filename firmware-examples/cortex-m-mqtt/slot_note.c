#include "slot_note.h"

#include <string.h>

#include "bytes.h"
#include "crc32.h"

enum { CRC_BYTES = 4, PAGES = (sizeof(struct note) + CRC_BYTES - 1) / FLASH_PAGE_BYTES + 1 };

_Static_assert(PAGES * FLASH_PAGE_BYTES <= NOTE_SECTOR_BYTES, "a note is longer than its sector");

void note_make_room(struct edgectl_device *device)
{
    device->slot_bytes -= NOTE_SECTOR_BYTES;
}

static uint32_t place_of(const struct edgectl_device *device, uint8_t slot)
{
    return device->slots[slot] + device->slot_bytes;
}

/* As it lies in memory: no other processor reads it. Before it its CRC. */
struct note note_read(const struct edgectl_device *device, uint8_t slot)
{
    struct note note = {0};
    const uint8_t *at = device->flash.memory + place_of(device, slot);
    if (load_u32(at) == edgectl_crc32(at + CRC_BYTES, sizeof note))
        memcpy(&note, at + CRC_BYTES, sizeof note);
    return note;
}

bool note_write(const struct edgectl_device *device, uint8_t slot, const struct note *note)
{
    uint8_t pages[PAGES * FLASH_PAGE_BYTES];
    const struct edgectl_flash *flash = &device->flash;
    uint32_t place = place_of(device, slot);
    memset(pages, FLASH_BLANK, sizeof pages);
    memcpy(pages + CRC_BYTES, note, sizeof *note);
    store_u32(pages, edgectl_crc32(pages + CRC_BYTES, sizeof *note));
    if (!flash->erase(flash->context, place))
        return false;
    for (uint32_t at = 0; at < sizeof pages; at += FLASH_PAGE_BYTES)
        if (!flash->program(flash->context, place + at, pages + at))
            return false;
    return same_bytes(flash->memory + place, pages, sizeof pages);
}
