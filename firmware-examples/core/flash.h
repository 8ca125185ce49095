/* What the core needs of a flash memory: NOR, mapped into the address space.
 *
 * Erasing sets all bits of a sector, programming only clears bits. A power cut may leave either half
 * done. A port fills the structure; nothing of it is changed by the core.
 */
#ifndef EDGECTL_FLASH_H
#define EDGECTL_FLASH_H

#include <stdbool.h>
#include <stdint.h>

#ifndef EDGECTL_SECTOR_BYTES
#define EDGECTL_SECTOR_BYTES 4096 /* at least; a port whose flash erases more at once says so */
#endif

enum { FLASH_SECTOR_BYTES = EDGECTL_SECTOR_BYTES, FLASH_PAGE_BYTES = 256, FLASH_BLANK = 0xFF };

struct edgectl_flash {
    const uint8_t *memory; /* where it is mapped */
    void *context;         /* handed to the functions */

    /* Erase the sector at an offset; false: it failed. */
    bool (*erase)(void *context, uint32_t offset);

    /* Program one page at an offset, in a sector that may hold other pages; false: it failed. */
    bool (*program)(void *context, uint32_t offset, const uint8_t page[FLASH_PAGE_BYTES]);
};

#endif
