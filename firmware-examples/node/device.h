/* What the example's device is, on every board: its key, its model, where what lies in the flash. */
#ifndef DEVICE_H
#define DEVICE_H

#include "update.h"

enum {
    ARENA_BYTES = 64 * 1024,
    SLOT_BYTES = 256 * 1024,
    SLOTS_AT = JOURNAL_SECTORS * FLASH_SECTOR_BYTES,
    SLOTS_END = SLOTS_AT + SLOTS * SLOT_BYTES,
};

/* Return the device, with the pinned key and name. */
struct edgectl_device node_device(struct edgectl_flash flash);

#endif
